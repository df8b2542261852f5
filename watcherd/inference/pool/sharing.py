"""Which devices carry which of several models: a pure decision about sizes, as `placement` is for one.

Each model once if that can be, the rest by share. A replica of every model is placed first, on cards of its own where
there are any, else beside another model whose card has room. What cards are left then go, one replica at a time, to the
model that has least of them for its share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference.pool.placement import SAFETY_GIB, Plan, plan, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.inference.machine.devices import Device
    from watcherd.inference.pool.placement import Count, PlannedReplica
    from watcherd.inference.split import ModelSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What one model needs. ``sizes``: None for one that cannot show them. ``reserve_gib``: activation memory on each of
    its devices. ``share``: its weight when cards are left over."""

    name: str
    sizes: ModelSizes | None
    dtype: str
    reserve_gib: float
    share: float = 1.0

    @property
    def need_gib(self) -> float:
        """Of one replica on one device; 0 where the sizes are not known."""
        return 0.0 if self.sizes is None else self.sizes.weights_gib + self.reserve_gib


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the configuration says of all models alike: as for `placement.plan`. ``replicas``: of each, at most."""

    per_replica: Count = "auto"
    max_memory_gib: float = 0.0
    replicas: Count = "auto"
    allow_offload: bool = False
    host_gib: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Why a model has no place. ``fits_alone``: it would have one, were it not for the others."""

    message: str
    hint: str = ""
    exit_code: int = UnavailableError.exit_code
    fits_alone: bool = False

    @classmethod
    def of(cls, error: WatcherdError) -> Refused:
        """What an error says that waiting for a card would not mend."""
        return cls(message=error.message, hint=error.hint, exit_code=error.exit_code)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """All models' replicas, those that have none with the reason, and the cards that carry none."""

    plans: Mapping[str, Plan]
    refused: Mapping[str, Refused] = field(default_factory=dict)
    unused_devices: tuple[Device, ...] = ()


def share_out(demands: Sequence[Demand], devices: Sequence[Device], limits: Limits | None = None) -> Shared:
    """Place these models on ``devices``. One that does not fit is refused, and costs the others nothing.

    Of the two orders, the largest first and the smallest first, that one counts which finds more models a place: the
    first wastes less, the second keeps a single large one from taking the place of several. Those that do not show
    their sizes come last, for they may need a whole card.
    """
    limits = limits or Limits()
    if len(demands) == 1:
        return _alone(demands[0], devices, limits)
    orders = [sorted(demands, key=lambda each: (each.sizes is None, way * each.need_gib)) for way in (-1, 1)]
    tables = [_each_once(order, devices, limits) for order in orders]
    table = max(tables, key=lambda found: len(found.chosen))  # of equal ones the first
    if devices:
        _the_rest_by_share(table, demands, devices, limits)
    unused = tuple(device for device in devices if device.uuid not in table.used)
    plans = {
        demand.name: Plan(
            replicas=tuple(chosen),
            unused_devices=(),
            reason=reason_of(chosen, demand.dtype, on_cpu=not devices),
            dtype=demand.dtype,
        )
        for demand in demands
        if (chosen := table.chosen.get(demand.name))
    }
    return Shared(plans=plans, refused=_refused(table, demands, devices, limits), unused_devices=unused)


def _alone(demand: Demand, devices: Sequence[Device], limits: Limits) -> Shared:
    try:
        found = _plan(demand, devices, limits, replicas=limits.replicas, host_gib=limits.host_gib)
    except UnavailableError as error:
        return Shared(plans={}, refused={demand.name: Refused.of(error)}, unused_devices=tuple(devices))
    return Shared(plans={demand.name: found}, unused_devices=found.unused_devices)


@dataclass(kw_only=True, slots=True)
class _Table:
    """What has been placed so far. ``free_gib``: what is left on each device; ``host_gib``: of host memory."""

    free_gib: dict[str, float]
    host_gib: float | None
    chosen: dict[str, list[PlannedReplica]] = field(default_factory=dict)
    errors: dict[str, UnavailableError] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def take(self, name: str, found: Plan) -> None:
        """These replicas are placed."""
        self.chosen.setdefault(name, []).extend(found.replicas)
        for replica in found.replicas:
            loads = replica.loads_gib or (float("inf") if not replica.reserve_gib else 0.0,) * len(replica.devices)
            for device, load in zip(replica.devices, loads, strict=True):
                self.free_gib[device.uuid] -= load + replica.reserve_gib + SAFETY_GIB
                self.used.add(device.uuid)
            if not replica.devices and self.host_gib is not None:
                self.host_gib -= (replica.weights_gib or 0.0) + replica.reserve_gib

    def left(self, devices: Sequence[Device]) -> list[Device]:
        """The devices with what is free on them now."""
        return [replace(device, free_gib=max(0.0, self.free_gib[device.uuid])) for device in devices]


def _each_once(order: Sequence[Demand], devices: Sequence[Device], limits: Limits) -> _Table:
    table = _Table(free_gib={device.uuid: _budget(device, limits) for device in devices}, host_gib=limits.host_gib)
    for demand in order:
        try:
            table.take(demand.name, _first(demand, devices, table, limits))
        except UnavailableError as error:
            table.errors[demand.name] = error
    return table


def _budget(device: Device, limits: Limits) -> float:
    """GiB of a card that all models together may take, with the margin for the first one's context."""
    if not limits.max_memory_gib:
        return device.free_gib
    return min(limits.max_memory_gib, device.free_gib) + SAFETY_GIB


def _first(demand: Demand, devices: Sequence[Device], table: _Table, limits: Limits) -> Plan:
    """A model's first replica: on cards of its own, else beside others, else with a part of it in host memory."""
    if not devices:
        count = 1 if limits.replicas == "auto" else limits.replicas
        return _plan(demand, (), limits, replicas=count, host_gib=table.host_gib)
    unused = table.left([device for device in devices if device.uuid not in table.used])
    careful = replace(limits, allow_offload=False)
    error = UnavailableError(f"Every GPU carries another model, and {_unknown(demand)}")
    for places, terms in ((unused, careful), (table.left(devices), careful), (unused, limits)):
        if not places:
            continue
        try:
            return _plan(demand, _with_room(demand, places, table), terms, replicas=1, host_gib=limits.host_gib)
        except UnavailableError as refusal:
            error = refusal
    raise error


def _unknown(demand: Demand) -> str:
    return f"the model {demand.name} does not show its sizes: it needs one of its own, or devices.reserve_gib."


def _with_room(demand: Demand, places: Sequence[Device], table: _Table) -> Sequence[Device]:
    """For a model that does not show its sizes: cards of nobody, and others on which its whole reserve has room."""
    if demand.sizes is not None:
        return places
    need = demand.reserve_gib + SAFETY_GIB
    fine = [
        device for device in places if device.uuid not in table.used or (demand.reserve_gib and device.free_gib >= need)
    ]
    if not fine:
        raise UnavailableError(f"Every GPU carries another model, and {_unknown(demand)}")
    return sorted(fine, key=lambda device: (device.uuid in table.used, device.index))


def _the_rest_by_share(table: _Table, demands: Sequence[Demand], devices: Sequence[Device], limits: Limits) -> None:
    """Further replicas, on cards that carry nothing yet: the model with the fewest cards for its share is next."""
    most = float("inf") if limits.replicas == "auto" else limits.replicas
    hungry = [demand for demand in demands if demand.name in table.chosen]
    careful = replace(limits, allow_offload=False)
    while hungry:
        demand = min(hungry, key=lambda each: _cards(table, each.name) / each.share)
        unused = table.left([device for device in devices if device.uuid not in table.used])
        try:
            if not unused or len(table.chosen[demand.name]) >= most:
                raise UnavailableError("it has what it may have")
            table.take(demand.name, _plan(demand, unused, careful, replicas=1, host_gib=None))
        except UnavailableError:
            hungry.remove(demand)


def _cards(table: _Table, name: str) -> int:
    return sum(len(replica.devices) for replica in table.chosen[name])


def _plan(
    demand: Demand, devices: Sequence[Device], limits: Limits, *, replicas: Count, host_gib: float | None
) -> Plan:
    return plan(
        demand.sizes,
        devices,
        dtype=demand.dtype,
        reserve_gib=demand.reserve_gib,
        per_replica=limits.per_replica,
        max_memory_gib=limits.max_memory_gib if replicas == limits.replicas else 0.0,
        replicas=replicas,
        allow_offload=limits.allow_offload,
        host_gib=host_gib,
    )


def _refused(table: _Table, demands: Sequence[Demand], devices: Sequence[Device], limits: Limits) -> dict[str, Refused]:
    found = {}
    for demand in demands:
        if (error := table.errors.get(demand.name)) is None:
            continue
        alone = bool(_alone(demand, devices, replace(limits, replicas="auto")).plans)
        others = ", ".join(table.chosen)
        message = f"There is no room for it beside {others}: {error.message}" if alone and others else error.message
        found[demand.name] = replace(Refused.of(error), message=message, fits_alone=alone)
    return found
