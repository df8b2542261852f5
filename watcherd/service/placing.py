"""Where models go on this machine, and why one of them cannot go anywhere: what is wrong with one costs that one."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psutil

from watcherd.config import speaking_of
from watcherd.errors import ConfigError, WatcherdError
from watcherd.inference.cluster.nodes import on
from watcherd.inference.machine import devices
from watcherd.inference.pool.interface import Phase
from watcherd.inference.pool.sharing import Demand, Limits, Refused, Shared, holds, host_key, share_apart, share_out
from watcherd.inference.segmenters import refuse_unknown
from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.config import Config, Model
    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.pool.interface import ReplicaStatus
    from watcherd.inference.pool.placement import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """GiB of each device, by its UUID, and of the host, by an empty name, that models with replicas were promised.

    ``promised``: to those beside which another is to go. ``to_come``: of what all were promised, as much as their
    processes have not taken yet: nobody else counts it, so it looks free (see `to_come`).
    """

    promised: Mapping[str, float] = field(default_factory=dict)
    to_come: Mapping[str, float] = field(default_factory=dict)


def to_come(promised: Mapping[str, float], replicas: Sequence[ReplicaStatus]) -> dict[str, float]:
    """GiB of each device that one model's replicas were promised, and that their processes have not taken yet."""
    return {
        device: max(0.0, gib - sum(_taken_gib(each, device) for each in replicas if _is_on(each, device)))
        for device, gib in promised.items()
    }


def _is_on(replica: ReplicaStatus, device: str) -> bool:
    return device in replica.devices if device else "cpu" in replica.devices and not replica.node


def _taken_gib(replica: ReplicaStatus, device: str) -> float:
    """Where nobody says what a process holds, one that has loaded its model and tried it has what it needs."""
    if replica.phase is Phase.STOPPED:
        return float("inf")  # it will not take any more
    measured = None
    if replica.pid is not None and not replica.node:
        measured = devices.process_mib(device, replica.pid) if device else _resident_mib(replica.pid)
    if measured is not None:
        return measured * devices.MIB / devices.GIB
    return float("inf") if replica.phase in (Phase.IDLE, Phase.BUSY) else 0.0


def _resident_mib(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).memory_info().rss / devices.MIB)
    except psutil.Error:  # it has just ended
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where models may go: this machine (``local``), and these others. ``why_none``: why there is none of all that."""

    local: bool = True
    nodes: tuple[Node, ...] = ()
    why_none: str = ""

    def devices(self, config: Config, *, warn: bool = False) -> tuple[devices.Device, ...]:
        """All their GPUs; the log says which are left out. Raises `WatcherdError` when this machine's do not answer."""
        here: tuple[devices.Device, ...] = ()
        if self.local and warn:
            here = devices.inventory(config.devices.use, warn=_left_out)
        elif self.local:
            here = devices.inventory(config.devices.use)
        return (*here, *(card for node in self.nodes for card in on(node)))


def _left_out(reason: str) -> None:
    get_logger().warning("gpu_left_out", reason=reason)


HERE = Places()
"""This machine alone."""


def placed(config: Config, names: Sequence[str], held: Held, places: Places = HERE) -> Shared:
    """These models on what is free now of the devices that the configuration lets us use, beside others of ours."""
    if not places.local and not places.nodes:
        why = Refused(
            message=f"No machine of the cluster is there yet: {places.why_none}.",
            hint="watcherd plan --cluster shows its machines. The work begins when one comes.",
            for_room=True,
            waits=True,
        )
        return Shared(plans={}, refused=dict.fromkeys(names, why))
    refused, able = {}, []
    for name in names:
        try:
            with speaking_of(name):
                refuse_unknown(config.model_called(name))
        except WatcherdError as error:
            refused[name] = Refused.of(error)
        else:
            able.append(name)
    shared = _on_devices(config, able, held, places) if able else Shared(plans={})
    return replace(shared, refused={**refused, **shared.refused})


def _on_devices(
    config: Config, names: Sequence[str], held: Held, places: Places, freed: Mapping[str, float] | None = None
) -> Shared:
    """``freed``: None for what is free now, which is what the log is told about."""
    try:
        found = _within_limits(config, places.devices(config, warn=freed is None), held, freed)
        if not places.nodes:
            return _share(config, names, found, held, freed)
        as_many = config.model_copy(update={"devices": config.devices.model_copy(update={"replicas": "auto"})})
        shared = _share(as_many if found else config, names, found, held, freed)
        if not found:
            return _on_all_hosts(shared, places)
        return _at_most(shared, config)
    except WatcherdError as error:
        return Shared(plans={}, refused=dict.fromkeys(names, Refused.of(error)))
    except BrokenExecutor as error:
        why = Refused(message=f"The process that plans where models go has died: {error}")
        return Shared(plans={}, refused=dict.fromkeys(names, why))


def _on_all_hosts(shared: Shared, places: Places) -> Shared:
    plans = {name: _on_hosts(plan, places) for name, plan in shared.plans.items()}
    why = Refused(message="No machine has the host memory for it that is free.", for_room=True)
    refused = {name: why for name, plan in plans.items() if not plan.replicas}
    return replace(
        shared,
        plans={name: plan for name, plan in plans.items() if plan.replicas},
        refused={**shared.refused, **refused},
    )


def _on_hosts(plan: Plan, places: Places) -> Plan:
    """Replicas on processors: on each machine as many as on this one, where its memory has room for them."""
    need = sum((each.weights_gib or 0.0) + each.reserve_gib for each in plan.replicas)
    able = [node for node in places.nodes if node.cpu and node.host_free_gib >= need]
    there = [replace(each, host=node.name) for node in able for each in plan.replicas]
    return replace(plan, replicas=(*(plan.replicas if places.local else ()), *there))


def _at_most(shared: Shared, config: Config) -> Shared:
    """In a cluster, where machines come and go, devices.replicas is how many there are at most."""
    most = config.devices.replicas
    if most == "auto":
        return shared
    return replace(
        shared,
        plans={name: replace(plan, replicas=plan.replicas[:most]) for name, plan in shared.plans.items()},
    )


def unused(places: Places, promised: Mapping[str, float]) -> Places:
    """What of the other machines carries nothing of ours."""
    free = (
        replace(node, cards=tuple(card for card in node.cards if card.uuid not in promised)) for node in places.nodes
    )
    able = (node for node in free if node.cards or (node.cpu and host_key(node.name) not in promised))
    return replace(places, local=False, nodes=tuple(able))


def when_free(config: Config, name: str, freed: Mapping[str, float], held: Held, places: Places = HERE) -> Plan | None:
    """Where a model goes once others have gone that were promised so much of each device (as in `Held`); None where
    that is not enough for it."""
    return _on_devices(config, [name], held, places, freed).plans.get(name)


def is_free(config: Config, plan: Plan, held: Held, places: Places = HERE) -> bool:
    """Whether the devices of a plan have what it takes of them now. Nothing is planned for that; of a host's memory
    nothing is asked."""
    try:
        found = _within_limits(config, places.devices(config), held)
    except WatcherdError:
        return False
    free = {each.uuid: each.free_gib for each in found}
    hosts = {"", *(host_key(node.name) for node in places.nodes)}
    return all(free.get(device, 0.0) >= gib for device, gib in holds(plan).items() if device not in hosts)


def _taken(held: Held) -> frozenset[str]:
    return frozenset(filter(None, held.promised))


def _within_limits(
    config: Config, found: Sequence[devices.Device], held: Held, freed: Mapping[str, float] | None = None
) -> list[devices.Device]:
    """The devices with what is free of them and promised to nobody, and with ``freed`` beside it; of that, what
    `devices.max_memory_gib` leaves: it is for all our models together."""
    most = config.devices.max_memory_gib or float("inf")

    def free(each: devices.Device) -> float:
        ours = each.free_gib - held.to_come.get(each.uuid, 0.0) + (freed or {}).get(each.uuid, 0.0)
        return max(0.0, min(each.total_gib, ours, most - held.promised.get(each.uuid, 0.0)))

    return [replace(each, free_gib=free(each)) for each in found]


def _share(
    config: Config,
    names: Sequence[str],
    found: Sequence[devices.Device],
    held: Held,
    freed: Mapping[str, float] | None = None,
) -> Shared:
    """Where these models go; without a GPU and without a folder there is nothing that torch has to be imported for."""
    tables = [config.model_called(name) for name in names]
    if found or any(table.path is not None for table in tables):
        more = (freed or {}).get("", 0.0) - held.to_come.get("", 0.0)
        return share_apart(config, names, found, more_host_gib=more, taken=_taken(held))
    demands = [
        Demand(
            name=name,
            sizes=None,
            dtype="float32" if table.dtype == "auto" else table.dtype,
            reserve_gib=0.0,
            share=table.share,
        )
        for name, table in zip(names, tables, strict=True)
    ]
    return share_out(demands, (), Limits(replicas=config.devices.replicas))


def refuse_all_unknown(tables: Mapping[str, Model]) -> None:
    """Raise the first model's `ConfigError` when there is nothing to load behind any of them."""
    errors = []
    for name, table in tables.items():
        try:
            with speaking_of(name):
                refuse_unknown(table)
        except ConfigError as error:
            errors.append(error)
        else:
            return
    raise errors[0]
