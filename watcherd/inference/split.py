"""The split of one model over several devices: by the time of its modules where that is known, else by their sizes."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from watcherd.inference.loading import device_of, torch_dtype
from watcherd.inference.machine.devices import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn


class ModelSizes:
    """What a model weighs, from its modules on the meta device; see `Placeable.skeleton` and `Placeable.no_split`.

    ``times``: milliseconds of modules by name (`Timed.milliseconds`); empty where they are not known.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        dtype: str,
        no_split: Sequence[str] = (),
        times: Mapping[str, float] | None = None,
    ) -> None:
        self.times = dict(times or {})
        # accelerate counts a tensor at the smaller of its own dtype and the one asked for, so the dtype is set here.
        self.module = module.to(dtype=torch_dtype(dtype))
        self.dtype = dtype
        self.no_split = tuple(no_split)

    @cached_property
    def tensors(self) -> dict[str, int]:
        """Bytes of every parameter and buffer by name; tied ones count once."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return {name: tensor.numel() * tensor.element_size() for name, tensor in named}

    @cached_property
    def weights_gib(self) -> float:
        return sum(self.tensors.values()) / GIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Module name to device, and the GiB on each device in their order."""

    device_map: dict[str, str]
    loads_gib: tuple[float, ...]


def split_over(model: ModelSizes, rooms: Sequence[float]) -> Split | None:
    """The model's modules over devices with so many GiB each, in order; None when they do not fit."""
    if sum(rooms) < model.weights_gib or min(rooms) <= 0:
        return None
    if len(rooms) == 1:
        return Split(device_map={"": "cuda:0"}, loads_gib=(model.weights_gib,))
    # accelerate keeps room for the largest layer on the first GPU, for weights that come from the host. None do:
    # a device without memory goes first and takes that rule upon itself.
    found = infer(model, {0: 0} | {number: int(room * GIB) for number, room in enumerate(rooms, start=1)})
    if not all(isinstance(device, int) and device > 0 for device in found.values()):
        return None
    return measured(model, {name: f"cuda:{int(device) - 1}" for name, device in found.items()}, rooms)


def split_by_time(model: ModelSizes, rooms: Sequence[float]) -> Split | None:
    """The model's modules, in their order, over devices with so many GiB each, so that the busiest of these has least
    to do; None when their times are not known, or do not decide, or no such split fits.

    Devices that hand a batch on and begin the next work at the same time: the busiest sets the pace.
    """
    if not model.times or len(rooms) < 2:
        return None
    parts = list(_parts(model.module, model.no_split))
    sizes = [sum(size for name, size in model.tensors.items() if _within(name, part)) / GIB for part in parts]
    times = [model.times.get(part, 0.0) for part in parts]
    # Of the first parts on the first devices: the busiest one's time, the fullest one's part of its room, and where
    # the last device begins, each from the best of one device less.
    best: list[tuple[tuple[float, float], tuple[int, ...]] | None] = [((0.0, 0.0), ())] + [None] * len(parts)
    for room in rooms:
        best = [_best_until(end, best, sizes, times, room) for end in range(len(parts) + 1)]
    found = best[-1]
    if found is None:
        return None
    bounds = [*found[1], len(parts)]
    device_map = {
        parts[place]: f"cuda:{device}"
        for device, (begin, end) in enumerate(pairwise(bounds))
        for place in range(begin, end)
    }
    return measured(model, device_map, rooms)


def _best_until(
    end: int,
    before: Sequence[tuple[tuple[float, float], tuple[int, ...]] | None],
    sizes: Sequence[float],
    times: Sequence[float],
    room: float,
) -> tuple[tuple[float, float], tuple[int, ...]] | None:
    """The best way to put the parts up to ``end`` on the devices so far, of which the last has ``room``."""
    ways = []
    for begin in range(end + 1):
        known = before[begin]
        load = sum(sizes[begin:end])
        if known is not None and load <= room:
            worst = max(known[0][0], sum(times[begin:end])), max(known[0][1], load / room if room > 0 else 0.0)
            ways.append((worst, (*known[1], begin)))
    return min(ways, default=None)


def _parts(module: nn.Module, no_split: Sequence[str], name: str = "") -> Iterator[str]:
    """Names of the largest modules that stay whole, in order."""
    for inner, child in module.named_children():
        path = f"{name}.{inner}" if name else inner
        if type(child).__name__ in no_split or not list(child.children()):
            yield path
        else:
            yield from _parts(child, no_split, path)


def _within(name: str, part: str) -> bool:
    return name.startswith(f"{part}.")


def infer(model: ModelSizes, budgets: Mapping[int, int] | Mapping[int | str, int]) -> dict[str, int | str]:
    """accelerate's map for these bytes per device."""
    from accelerate import infer_auto_device_map

    # It warns of GPUs that this machine does not have; planning for another machine is the point.
    talk = logging.getLogger("accelerate.utils.modeling")
    level = talk.level
    talk.setLevel(logging.ERROR)
    try:
        return dict(
            infer_auto_device_map(
                model.module,
                max_memory=dict(budgets),
                no_split_module_classes=list(model.no_split),
                dtype=torch_dtype(model.dtype),
            )
        )
    finally:
        talk.setLevel(level)


def measured(model: ModelSizes, device_map: dict[str, str], rooms: Sequence[float]) -> Split | None:
    """The map with every tensor accounted for; None when a device got more than its room.

    accelerate leaves out buffers that stand directly in a module which it splits: they go to the first device.
    """
    loads: Counter[str] = Counter()
    for name, size in model.tensors.items():
        device = device_of(name, device_map)
        if device is None:
            device_map[name] = device = "cuda:0"
        loads[device] += size
    loads_gib = tuple(loads[f"cuda:{position}"] / GIB for position in range(len(rooms)))
    if any(load > room for load, room in zip(loads_gib, rooms, strict=True)):
        return None
    return Split(device_map=device_map, loads_gib=loads_gib)
