"""Which devices carry which of several models: a pure decision about sizes, as `placement` is for one.

Each model once if that can be, the rest by share. A replica of every model is placed first, on cards of its own where
there are any, else beside another model whose card has room. What cards are left then go, one replica at a time, to the
model that has least of them for its share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from watcherd.config import speaking_of
from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference.machine.devices import GIB
from watcherd.inference.pool import prepared
from watcherd.inference.pool.placement import SAFETY_GIB, Plan, need_of, plan, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from multiprocessing.context import ForkServerContext, SpawnContext

    from watcherd.config import Config
    from watcherd.inference.machine.devices import Device
    from watcherd.inference.pool.placement import Count, PlannedReplica
    from watcherd.inference.split import ModelSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What one model needs. ``sizes``: None for one that cannot show them. ``reserve_gib``: activation memory on each
    of its devices. ``share``: its weight when cards are left over."""

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
    """Why a model has no place. ``for_room``: there is not enough of it now. ``fits_alone``: there would be, were it
    not for the others. ``waits``: for machines that are not there yet: no reason to end the service."""

    message: str
    hint: str = ""
    exit_code: int = UnavailableError.exit_code
    for_room: bool = False
    fits_alone: bool = False
    waits: bool = False

    def beside(self, others: str) -> Refused:
        """The same, of a model that fits alone."""
        return replace(self, message=f"There is no room for it beside {others}: {self.message}", fits_alone=True)

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


def share_out(
    demands: Sequence[Demand], devices: Sequence[Device], limits: Limits | None = None, taken: Collection[str] = ()
) -> Shared:
    """Place these models on ``devices``. One that does not fit is refused, and costs the others nothing.

    ``taken``: UUIDs of devices that carry other models already, beside which one may go that has room there.

    Of the two orders, the largest first and the smallest first, that one counts which finds more models a place: the
    first wastes less, the second keeps a single large one from taking the place of several. Those that do not show
    their sizes come last, for they may need a whole card.
    """
    limits = limits or Limits()
    if len(demands) == 1 and not taken:
        return _alone(demands[0], devices, limits)
    orders = [sorted(demands, key=lambda each: (each.sizes is None, way * each.need_gib)) for way in (-1, 1)]
    tables = [_each_once(order, devices, limits, taken) for order in orders]
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


def share_for(
    config: Config,
    names: Sequence[str],
    devices: Sequence[Device],
    *,
    reserve_gib: float | None = None,
    host_gib: float | None = None,
    taken: Collection[str] = (),
) -> Shared:
    """`share_out` for models of the configuration; builds their modules on the meta device, which imports torch.

    What goes wrong with one of them refuses that one.
    """
    demands, refused = [], {}
    for name in names:
        try:
            with speaking_of(name):
                demands.append(_demand(config, name, devices, reserve_gib))
        except WatcherdError as error:
            refused[name] = Refused.of(error)
        except Exception as error:  # of a segmenter that is not ours: it costs its own model
            refused[name] = Refused(message=f"It cannot be planned: {type(error).__name__}: {error}")
    terms = config.devices
    limits = Limits(
        per_replica=terms.per_replica,
        max_memory_gib=terms.max_memory_gib,
        replicas=terms.replicas,
        allow_offload=terms.allow_offload,
        host_gib=host_gib,
    )
    found = share_out(demands, devices, limits, taken) if demands else Shared(plans={}, unused_devices=tuple(devices))
    return replace(found, refused={**refused, **found.refused})


def _demand(config: Config, name: str, devices: Sequence[Device], reserve_gib: float | None) -> Demand:
    table = config.model_called(name)
    alone = config.model_copy(update={"model": table})
    sizes, dtype, reserve = need_of(alone, devices, reserve_gib=reserve_gib)
    return Demand(name=name, sizes=sizes, dtype=dtype, reserve_gib=reserve, share=table.share)


def share_here(
    config: Config,
    names: Sequence[str],
    devices: Sequence[Device],
    *,
    reserve_gib: float | None = None,
    more_host_gib: float = 0.0,
    taken: Collection[str] = (),
) -> Shared:
    """`share_for` on this machine, with the host memory that is free now, and ``more_host_gib`` that will be."""
    import psutil

    host_gib = psutil.virtual_memory().available / GIB + more_host_gib
    return share_for(config, names, devices, reserve_gib=reserve_gib, host_gib=host_gib, taken=taken)


def share_apart(
    config: Config,
    names: Sequence[str],
    devices: Sequence[Device],
    *,
    more_host_gib: float = 0.0,
    taken: Collection[str] = (),
) -> Shared:
    """`share_here` in a process of its own, for a caller that must not import torch."""
    from concurrent.futures import ProcessPoolExecutor

    work = partial(share_here, more_host_gib=more_host_gib, taken=frozenset(taken))

    def apart(context: ForkServerContext | SpawnContext) -> Shared:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work, config, tuple(names), tuple(devices)).result()

    return prepared.start([config.model_called(name) for name in names], apart)


def holds(plan: Plan) -> dict[str, float]:
    """GiB that a model takes of each device, by its UUID; of a host, for replicas on the CPU, by `host_key`."""
    found: dict[str, float] = {}
    for replica in plan.replicas:
        loads = replica.loads_gib or (replica.weights_gib or 0.0,) * max(1, len(replica.devices))
        for uuid, load in zip(replica.visible or (host_key(replica.node),), loads, strict=True):
            found[uuid] = found.get(uuid, 0.0) + load + replica.reserve_gib + (SAFETY_GIB if replica.visible else 0.0)
    return found


def host_key(node: str) -> str:
    """What a machine's own memory is called among the devices; of this one: empty."""
    return f"host of {node}" if node else ""


def _alone(demand: Demand, devices: Sequence[Device], limits: Limits) -> Shared:
    try:
        found = _plan(demand, devices, limits, replicas=limits.replicas, host_gib=limits.host_gib)
    except UnavailableError as error:
        refused = {demand.name: replace(Refused.of(error), for_room=True)}
        return Shared(plans={}, refused=refused, unused_devices=tuple(devices))
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


def _each_once(order: Sequence[Demand], devices: Sequence[Device], limits: Limits, taken: Collection[str]) -> _Table:
    budgets = {device.uuid: _budget(device, limits) for device in devices}
    table = _Table(free_gib=budgets, host_gib=limits.host_gib, used=set(taken))
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
        if not unused or len(table.chosen[demand.name]) >= most:
            hungry.remove(demand)
            continue
        try:
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
        why = replace(Refused.of(error), for_room=True)
        found[demand.name] = why.beside(others) if alone and others else why
    return found
