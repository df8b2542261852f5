"""Which devices carry which replica: a pure decision about sizes, made without a GPU and without weights.

The fewest devices per replica that fit, then as many replicas as fit (``docs/segmenters.md``). Cards that share a model
wait for one another, and for the busiest of them, so several replicas on a card each are faster than one over all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from watcherd.errors import UnavailableError
from watcherd.inference.base import OwnDtype, OwnSizes, Placeable, Placement, Timed
from watcherd.inference.machine.devices import GIB, Device
from watcherd.inference.machine.grouping import Card, gather
from watcherd.inference.split import ModelSizes, Split, infer, measured, split_by_time, split_over

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.config import Config
    from watcherd.inference.base import Segmenter

SAFETY_GIB = 0.5
"""Left alone on every GPU: the CUDA context and the libraries' workspaces, which no allocator figure shows."""
BALANCE_STEPS = 6
"""Halvings in the search for the most even split; the rest is below 1/64 of what is free."""

Count = Literal["auto"] | int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedReplica:
    """One replica's devices and what will be on them.

    ``devices``: empty on a CPU. ``weights_gib``: of the whole replica; None where the model cannot show its sizes.
    ``reserve_gib``: kept for activations on each of its devices. ``free_gib``: what weights and reserve leave on the
    fullest of them. ``device_map``: module name to device, as the replica's process counts its devices.
    ``loads_gib``: the weights on each device, in their order. ``host``: the machine of a replica on a CPU; empty: this.
    """

    devices: tuple[Device, ...]
    weights_gib: float | None
    reserve_gib: float
    free_gib: float | None
    device_map: Mapping[str, str]
    loads_gib: tuple[float, ...] = ()
    host: str = ""

    @property
    def node(self) -> str:
        """The machine that it is on; empty: this one."""
        return self.devices[0].node if self.devices else self.host

    @property
    def visible(self) -> tuple[str, ...]:
        """UUIDs for ``CUDA_VISIBLE_DEVICES``, in order."""
        return tuple(device.uuid for device in self.devices)

    def placement(self, dtype: str) -> Placement:
        """What the replica's segmenter is told."""
        names = tuple(f"cuda:{position}" for position in range(len(self.devices))) or ("cpu",)
        return Placement(devices=names, device_map=dict(self.device_map), dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All replicas, the devices that carry none, and why it came out so."""

    replicas: tuple[PlannedReplica, ...]
    unused_devices: tuple[Device, ...]
    reason: str
    dtype: str


def plan(
    model: ModelSizes | None,
    devices: Sequence[Device],
    *,
    dtype: str,
    reserve_gib: float = 0.0,
    per_replica: Count = "auto",
    max_memory_gib: float = 0.0,
    replicas: Count = "auto",
    allow_offload: bool = False,
    host_gib: float | None = None,
) -> Plan:
    """Place as many replicas of ``model`` on ``devices`` as fit, each on as few of them as it needs.

    ``model``: None for one that cannot show its sizes; it gets one device each. ``dtype``: of the weights.
    ``reserve_gib``: activation memory on every device. ``max_memory_gib``: per device; 0: all but `SAFETY_GIB`.
    ``host_gib``: free host memory, for replicas on the CPU and, with ``allow_offload``, for what no GPU can hold.

    Raises `UnavailableError` with the figures, and what would fit, when not one replica or fewer than asked for do.
    """
    if not devices:
        return _on_cpu(model, dtype, 1 if replicas == "auto" else replicas, reserve_gib, host_gib)
    cards = [Card(device=device, room=_room(device, max_memory_gib, reserve_gib)) for device in devices]
    if model is None:
        chosen = [_unknown(card, reserve_gib) for card in cards]
    else:
        groups = gather(cards, per_replica, lambda rooms: split_over(model, rooms) is not None)
        splits = {rooms: _even_split(model, rooms) for rooms in set(map(_rooms, groups))}
        chosen = [_planned(group, splits[_rooms(group)], model.weights_gib, reserve_gib) for group in groups]
        if not chosen and allow_offload and host_gib is not None:
            here = [card for card in cards if not card.device.node] or cards
            chosen = [_offloaded(model, here, reserve_gib, host_gib)]
        if not chosen:
            raise _refusal(model, cards, reserve_gib, max_memory_gib, per_replica)
    if replicas != "auto":
        chosen = _exactly(replicas, chosen)
    used = {device.uuid for replica in chosen for device in replica.devices}
    unused = tuple(device for device in devices if device.uuid not in used)
    return Plan(replicas=tuple(chosen), unused_devices=unused, reason=_reason(chosen, unused, dtype), dtype=dtype)


def plan_for(
    config: Config,
    devices: Sequence[Device],
    *,
    segmenter: Segmenter | None = None,
    reserve_gib: float | None = None,
    host_gib: float | None = None,
) -> Plan:
    """`plan` for the configured model; builds its modules on the meta device, which imports torch.

    ``segmenter``: the configured one, if it exists already. ``reserve_gib``: else ``devices.reserve_gib``, else what
    the probe measured on such cards, else the segmenter's own estimate.
    """
    model, dtype, reserve = need_of(config, devices, segmenter=segmenter, reserve_gib=reserve_gib)
    return plan(
        model,
        devices,
        dtype=dtype,
        reserve_gib=reserve,
        per_replica=config.devices.per_replica,
        max_memory_gib=config.devices.max_memory_gib,
        replicas=config.devices.replicas,
        allow_offload=config.devices.allow_offload,
        host_gib=host_gib,
    )


def need_of(
    config: Config,
    devices: Sequence[Device],
    *,
    segmenter: Segmenter | None = None,
    reserve_gib: float | None = None,
) -> tuple[ModelSizes | None, str, float]:
    """What the configured model needs: its sizes, None where it cannot show them, its dtype, and its reserve in GiB."""
    from watcherd.inference import segmenters
    from watcherd.inference.loading import resolve_dtype

    segmenter = segmenter or segmenters.create(config.model)
    dtype = segmenter.own_dtype() if isinstance(segmenter, OwnDtype) else resolve_dtype(config.model.dtype, devices)
    reserve = reserve_gib or config.devices.reserve_gib or _reserve(config, segmenter, dtype, devices)
    model = None
    if isinstance(segmenter, Placeable):
        skeleton = segmenter.skeleton_at(dtype) if isinstance(segmenter, OwnSizes) else segmenter.skeleton()
        times = segmenter.milliseconds() if isinstance(segmenter, Timed) else {}
        model = ModelSizes(skeleton, dtype=dtype, no_split=segmenter.no_split(), times=times)
    return model, dtype, reserve


def plan_apart(config: Config, devices: Sequence[Device]) -> Plan:
    """`plan_for` in a process of its own, for a caller that must not import torch; it counts this host's memory."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(plan_here, config, tuple(devices)).result()


def plan_here(config: Config, devices: Sequence[Device], *, reserve_gib: float | None = None) -> Plan:
    """`plan_for` on this machine, with the host memory that is free now."""
    import psutil

    return plan_for(config, devices, reserve_gib=reserve_gib, host_gib=psutil.virtual_memory().available / GIB)


def _reserve(config: Config, segmenter: Segmenter, dtype: str, devices: Sequence[Device]) -> float:
    """What the probe measured on such cards, else the segmenter's own estimate, in GiB."""
    from watcherd.inference.probing import measured_reserve_gib

    cards = {device.name for device in devices}
    if cards and config.state.cache.is_dir():
        known = measured_reserve_gib(config.state.cache, segmenter.info().revision, dtype, cards)
        if known is not None:
            return known
    return segmenter.reserve_gib(1) if isinstance(segmenter, Placeable) else 0.0


def _room(device: Device, max_memory_gib: float, reserve_gib: float) -> float:
    limit = min(max_memory_gib, device.free_gib) if max_memory_gib else device.free_gib - SAFETY_GIB
    return limit - reserve_gib


def _exactly(wanted: int, chosen: list[PlannedReplica]) -> list[PlannedReplica]:
    if len(chosen) < wanted:
        raise UnavailableError(
            f"devices.replicas asks for {wanted} replicas, but only {len(chosen)} fit: {_kinds(chosen)}.",
            hint='Set devices.replicas = "auto" to have as many as fit.',
        )
    return chosen[:wanted]


# What goes where inside one replica


def _rooms(group: Sequence[Card]) -> tuple[float, ...]:
    return tuple(card.room for card in group)


def _even_split(model: ModelSizes, rooms: Sequence[float]) -> Split:
    """The split that gives the busiest device least to do where times are known, else the one that leaves the most room
    on the fullest device."""
    if (by_time := split_by_time(model, rooms)) is not None:
        return by_time
    best = split_over(model, rooms)
    assert best is not None, "the group was chosen because it fits"
    low, high = 0.0, (sum(rooms) - model.weights_gib) / len(rooms)
    for _ in range(BALANCE_STEPS if len(rooms) > 1 else 0):
        middle = (low + high) / 2
        tighter = split_over(model, [room - middle for room in rooms])
        if tighter is None:
            high = middle
        else:
            low, best = middle, tighter
    return best


def _planned(group: Sequence[Card], split: Split, weights_gib: float, reserve_gib: float) -> PlannedReplica:
    free = (card.device.free_gib - reserve_gib - load for card, load in zip(group, split.loads_gib, strict=True))
    return PlannedReplica(
        devices=tuple(card.device for card in group),
        weights_gib=weights_gib,
        reserve_gib=reserve_gib,
        free_gib=min(free),
        device_map=split.device_map,
        loads_gib=split.loads_gib,
    )


def _offloaded(model: ModelSizes, cards: Sequence[Card], reserve_gib: float, host_gib: float) -> PlannedReplica:
    """One replica on every card, with what they cannot hold in host memory."""
    rooms = [max(0.0, card.room) for card in cards]
    budgets: dict[int | str, int] = {number: int(room * GIB) for number, room in enumerate(rooms)}
    found = infer(model, {**budgets, "cpu": int(host_gib * GIB)})
    if "disk" in found.values() or set(found.values()) == {"cpu"}:
        raise _refusal(model, cards, reserve_gib, 0.0, "auto")
    names = {name: device if isinstance(device, str) else f"cuda:{device}" for name, device in found.items()}
    split = measured(model, names, rooms)
    assert split is not None, "accelerate keeps to its budgets"
    return _planned(cards, split, model.weights_gib, reserve_gib)


def _unknown(card: Card, reserve_gib: float) -> PlannedReplica:
    return PlannedReplica(
        devices=(card.device,),
        weights_gib=None,
        reserve_gib=reserve_gib,
        free_gib=None,
        device_map={"": "cuda:0"},
    )


def _on_cpu(model: ModelSizes | None, dtype: str, count: int, reserve_gib: float, host_gib: float | None) -> Plan:
    weights = None if model is None else model.weights_gib
    each = (weights or 0.0) + reserve_gib
    if host_gib is not None and count * each > host_gib:
        raise UnavailableError(
            f"{count} x {each:.1f} GiB ({_weights(weights, dtype)}, {reserve_gib:.1f} GiB of reserve) do not fit into "
            f"the {host_gib:.1f} GiB of host memory that are free.",
            hint="Use a GPU, a smaller model, or fewer replicas (devices.replicas).",
        )
    replica = PlannedReplica(
        devices=(),
        weights_gib=weights,
        reserve_gib=reserve_gib,
        free_gib=None if host_gib is None else host_gib - count * each,
        device_map={"": "cpu"},
    )
    reason = _reason_on_cpu(count, weights, dtype)
    return Plan(replicas=(replica,) * count, unused_devices=(), reason=reason, dtype=dtype)


# What is said about it


def _weights(weights_gib: float | None, dtype: str) -> str:
    return f"the model does not show its sizes, {dtype}" if weights_gib is None else f"{weights_gib:.1f} GiB in {dtype}"


def _kinds(chosen: Sequence[PlannedReplica]) -> str:
    sizes = Counter(len(replica.devices) for replica in chosen)
    return ", ".join(
        f"{count} replica{'s' * (count > 1)} of {size} GPU{'s' * (size > 1)}" for size, count in sorted(sizes.items())
    )


def _reason_on_cpu(count: int, weights_gib: float | None, dtype: str) -> str:
    return f"{count} on the CPU: there is no GPU, or none may be used; {_weights(weights_gib, dtype)}"


def reason_of(chosen: Sequence[PlannedReplica], dtype: str, *, on_cpu: bool) -> str:
    """What is said of one model's replicas that were placed one by one."""
    return _reason_on_cpu(len(chosen), chosen[0].weights_gib, dtype) if on_cpu else _reason(chosen, (), dtype)


def _reason(chosen: Sequence[PlannedReplica], unused: Sequence[Device], dtype: str) -> str:
    first = chosen[0]
    said = f"{_kinds(chosen)}: {_weights(first.weights_gib, dtype)}, {first.reserve_gib:.1f} GiB of reserve on each GPU"
    if first.weights_gib is not None and (spilled := first.weights_gib - sum(first.loads_gib)) > 1e-6:
        said += f"; {spilled:.1f} GiB do not fit and stay in host memory (devices.allow_offload), which is slow"
    if unused:
        said += f"; unused: {_sizes(unused)}, not enough for another replica or not asked for"
    return said


def _sizes(devices: Sequence[Device]) -> str:
    counts = Counter(f"{device.free_gib:.1f} GiB" for device in devices)
    return ", ".join(f"{count} x {size} free" for size, count in counts.items())


def _refusal(
    model: ModelSizes, cards: Sequence[Card], reserve_gib: float, max_memory_gib: float, per_replica: Count
) -> UnavailableError:
    limit = f" (devices.max_memory_gib = {max_memory_gib:g})" if max_memory_gib else ""
    asked = "" if per_replica == "auto" else f" with devices.per_replica = {per_replica}"
    return UnavailableError(
        f"The model does not fit{asked}: {_weights(model.weights_gib, model.dtype)} and {reserve_gib:.1f} GiB of "
        f"reserve on each GPU, but there is {_sizes([card.device for card in cards])}{limit}.",
        hint=f"One replica needs {' or '.join(_would_fit(model, reserve_gib))}. {_remedy(model)}",
    )


def _would_fit(model: ModelSizes, reserve_gib: float) -> list[str]:
    """The smallest free memory, in halves of a GiB, with which 1, 2 or 4 equal GPUs carry one replica."""
    found: list[str] = []
    for count in (1, 2, 4):
        halves = max(1, int(2 * model.weights_gib / count))
        limit = 2 * int(model.weights_gib + 1)
        while halves < limit and split_over(model, [halves / 2] * count) is None:
            halves += 1
        if split_over(model, [halves / 2] * count) is not None:
            found.append(f"{count} GPU{'s' * (count > 1)} with {halves / 2 + reserve_gib + SAFETY_GIB:.1f} GiB free")
    return found


def _remedy(model: ModelSizes) -> str:
    if model.dtype == "float32":
        return 'With model.dtype = "bfloat16" it takes half of that.'
    return "A smaller reserve (devices.reserve_gib) or devices.allow_offload = true, which is slow, may also do."
