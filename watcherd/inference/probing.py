"""The probe: how many frames one batch should hold, and how much memory that takes, measured once per model and card.

The figures are kept in the cache folder; deleting it only means measuring again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference.base import AsyncSegmenter, Frame, VolumeSegmenter
from watcherd.inference.faults import give_back_memory, is_memory_error
from watcherd.inference.machine.devices import MIB
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping, Sequence
    from pathlib import Path

    from watcherd.config import Model
    from watcherd.inference.base import Placement, Prediction, Segmenter

METHOD = 3
"""Raised whenever a card would be measured to another batch size: records of earlier methods are not found then."""
CPU_BATCH = 2
"""Two small scans together take a third less time than apart; more make a CPU no faster, and hold more memory."""
MAX_BATCH = 64
SECOND = 8
"""Frames in the second batch that is measured; from there on they are doubled."""
FILL = 0.85
"""Part of a device's free memory that a batch may take; the rest is for fragmentation and larger scans."""
WORTHWHILE = 1.05
"""Larger batches are measured as long as the last two promise so many times the frames per second for the largest."""
AS_GOOD = 0.97
"""Part of the best rate at which a batch is as good: the smallest of these is taken, for whatever waits in a larger one
waits longer, and is not there for another replica."""
LONG_SECONDS = 10.0
"""Batches that take longer are not doubled: the scans in them have waited enough."""
SIDE = 1024
"""Side in pixels of the frame that is measured, where the segmenter has none of its own."""
USUAL_SIDE = 448
"""Side in pixels of the frame whose rate is measured of a model that cuts pictures into tiles: it is one tile, as most
scans are, while the larger one is ten of them."""


@runtime_checkable
class ProbeFrame(Protocol):
    """A segmenter that knows which frame needs most memory."""

    def probe_frame(self) -> Frame:
        """The most demanding frame that is to be expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How many frames go into one batch, and what that costs.

    ``reserve_mib``: activation memory of one frame, on the device that needs most: what planning must keep free.
    ``batch_mib``: the same for a whole batch. None where it was not measured (on a CPU).
    ``caps``: smaller batches for shapes that met a memory error, learned by this process.
    """

    batch_size: int
    reserve_mib: float | None = None
    batch_mib: float | None = None
    caps: dict[Hashable, int] = field(default_factory=dict, compare=False)

    def cap(self, shape: Hashable) -> int:
        """Frames of this shape in one batch."""
        return min(self.batch_size, self.caps.get(shape, self.batch_size))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """What the cache holds about one measurement: what was measured, and the figures."""

    revision: str
    dtype: str
    card: str
    devices: int
    wanted: str
    batch_size: int = 0
    reserve_mib: float = 0.0
    batch_mib: float = 0.0

    def path(self, cache: Path) -> Path:
        subject = (METHOD, self.revision, self.dtype, self.card, self.devices, self.wanted)
        return cache / f"probe-{hashlib.sha256(repr(subject).encode()).hexdigest()[:16]}.json"

    def write(self, cache: Path) -> None:
        """Replicas may measure at the same time: each file appears whole, and the last one stays."""
        cache.mkdir(parents=True, exist_ok=True)
        path = self.path(cache)
        temporary = path.with_suffix(f".{time.monotonic_ns()}")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None for a file that is not there or not ours: the cache may be deleted, so it may also be broken."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """A batch's memory in MiB on the device that needs most, and its seconds."""

    mib: float
    seconds: float


def probe(segmenter: Segmenter, model: Model, placement: Placement, cache: Path) -> Probe:
    """The batch size for a loaded segmenter, from the cache or measured now; a fixed one on a CPU.

    A model of volumes takes one at a time; what that one needs is measured.

    Raises `UnavailableError` when not even one frame can be computed.
    """
    gpus = [name for name in placement.devices if name != "cpu"]
    volumes = segmenter if isinstance(segmenter, VolumeSegmenter) else None
    if not gpus:
        return Probe(batch_size=1 if volumes else CPU_BATCH if model.batch == "auto" else model.batch)
    wanted = _Record(
        revision=segmenter.info().revision,
        dtype=placement.dtype,
        card=_card(gpus[0]),
        devices=len(gpus),
        wanted=str(model.batch),
    )
    known = _Record.read(wanted.path(cache))
    if known is None:
        if volumes is not None:
            known = _measure_volume(volumes, gpus, wanted)
        else:
            known = _measure(segmenter, model, gpus, wanted)
        known.write(cache)
    return Probe(batch_size=known.batch_size, reserve_mib=known.reserve_mib, batch_mib=known.batch_mib)


def measured_reserve_gib(cache: Path, revision: str, dtype: str, cards: Collection[str]) -> float | None:
    """The largest reserve that was measured for the model on one of these cards; None where none was."""
    records = [_Record.read(path) for path in sorted(cache.glob("probe-*.json"))]
    found = [
        record.reserve_mib / 1024
        for record in records
        if record and (record.revision, record.dtype) == (revision, dtype) and record.card in cards
    ]
    return max(found, default=None)


def _measure(segmenter: Segmenter, model: Model, gpus: Sequence[str], record: _Record) -> _Record:
    """The memory of the most demanding frame, and a batch: the wanted one if it fits, or one that is found by rate."""
    frame = _frame(segmenter, model)
    try:
        single = _cost(segmenter, frame, 1, gpus)
    except (RuntimeError, WatcherdError) as error:
        raise _cannot(error, "frame") from error
    most = max(1, int(FILL * _free_mib(gpus) / max(single.mib, 1e-3)))
    if model.batch == "auto":
        usual = _usual_frame(model) or frame
        first = single if usual is frame else _cost(segmenter, usual, 1, gpus)
        size, mib = _best(segmenter, usual, first, min(most, MAX_BATCH), gpus)
    else:
        size, mib = _fitting(segmenter, frame, single, min(most, model.batch), gpus)
    return replace(record, batch_size=size, reserve_mib=round(single.mib, 1), batch_mib=round(mib, 1))


def _fitting(segmenter: Segmenter, frame: Frame, single: Cost, wanted: int, gpus: Sequence[str]) -> tuple[int, float]:
    """A batch of the wanted size, or half of it, and so on; frames and MiB."""
    while wanted > 1:
        if (cost := _try_cost(segmenter, frame, wanted, gpus)) is not None:
            return wanted, cost.mib
        wanted //= 2
    return 1, single.mib


def _best(segmenter: Segmenter, frame: Frame, single: Cost, most: int, gpus: Sequence[str]) -> tuple[int, float]:
    """The smallest batch that is as good as the best, of few that are measured; frames and MiB."""
    costs = {1: single}
    size = 1
    while size < most and costs[size].seconds <= LONG_SECONDS and _promises(costs, most):
        larger = min(SECOND if size == 1 else size * 2, most)
        more = _try_cost(segmenter, frame, larger, gpus)
        if more is None:
            break
        size, costs[larger] = larger, more
    return choose(costs)


def _promises(costs: Mapping[int, Cost], most: int) -> bool:
    """Whether a batch of ``most`` frames would be quicker for each, if time went on growing as between the last two."""
    if len(costs) < 2:
        return True
    before, last = sorted(costs)[-2:]
    seconds = costs[last].seconds
    slope = max(0.0, (seconds - costs[before].seconds) / (last - before))
    return most / (seconds + slope * (most - last)) >= WORTHWHILE * last / seconds


def choose(costs: Mapping[int, Cost]) -> tuple[int, float]:
    """The smallest batch that is `AS_GOOD` as the best of these, and its MiB.

    Of sizes in between, time and memory lie on the line between their neighbours. The time of a batch that is launched
    in a fixed time and computed frame by frame lies below that line, so that none is taken to be quicker than it is.
    """
    sizes = sorted(costs)
    best = max(size / costs[size].seconds for size in sizes)
    for low, high in pairwise(sizes):
        for size in _between(low, high):
            part = (size - low) / (high - low)
            seconds = costs[low].seconds + part * (costs[high].seconds - costs[low].seconds)
            if size / seconds >= AS_GOOD * best:
                return size, costs[low].mib + part * (costs[high].mib - costs[low].mib)
    return sizes[-1], costs[sizes[-1]].mib


def _between(low: int, high: int) -> list[int]:
    """``low``, and its doubles below ``high``."""
    sizes = [low]
    while sizes[-1] * 2 < high:
        sizes.append(sizes[-1] * 2)
    return sizes


def _measure_volume(segmenter: VolumeSegmenter, gpus: Sequence[str], record: _Record) -> _Record:
    """The memory of one volume, which is computed by itself."""
    import torch

    volume = segmenter.probe_volume()
    torch.cuda.empty_cache()
    before = {gpu: (torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)) for gpu in gpus}
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    try:
        segmenter.predict_volume(volume, lambda *_: None)
    except (RuntimeError, WatcherdError) as error:
        raise _cannot(error, "volume") from error
    taken = round(_taken(before) / MIB, 1)
    return replace(record, batch_size=1, reserve_mib=taken, batch_mib=taken)


def _cannot(error: Exception, what: str) -> UnavailableError:
    return UnavailableError(
        f"The model is loaded, but cannot compute one {what}: {error}",
        hint="Use a larger device, more GPUs per replica (devices.per_replica), or another model.",
    )


def _taken(before: dict[str, tuple[int, int]]) -> int:
    """Bytes, on the device that needed most, beyond what was allocated and reserved before."""
    import torch

    return max(
        max(torch.cuda.max_memory_allocated(gpu) - allocated, torch.cuda.max_memory_reserved(gpu) - reserved)
        for gpu, (allocated, reserved) in before.items()
    )


def _try_cost(segmenter: Segmenter, frame: Frame, size: int, gpus: Sequence[str]) -> Cost | None:
    try:
        return _cost(segmenter, frame, size, gpus)
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
    give_back_memory()
    return None


def _cost(segmenter: Segmenter, frame: Frame, size: int, gpus: Sequence[str]) -> Cost:
    """What a batch of so many equal frames costs.

    Batches follow each other as they do at work, and masks are made of what they give: a segmenter that can begin one
    while another is computed is timed from the end of one to the end of the next.
    """
    import torch

    torch.cuda.empty_cache()
    before = {gpu: (torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)) for gpu in gpus}
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    ends = _ends(segmenter, [frame] * size)
    return Cost(mib=_taken(before) / MIB, seconds=_seconds(ends))


def _seconds(ends: Sequence[float]) -> float:
    """The quickest of these batches: in another one graphs may have been recorded, or somebody else had the host."""
    return max(1e-9, min(later - earlier for earlier, later in pairwise(ends)))


def _ends(segmenter: Segmenter, frames: list[Frame]) -> list[float]:
    """When each of three batches ended. The first of a size allocates, makes workspaces and picks kernels."""
    ends = []
    if not isinstance(segmenter, AsyncSegmenter):
        for _ in range(3):
            _use(segmenter.predict(frames), frames)
            ends.append(time.perf_counter())
        return ends
    pending = segmenter.dispatch(frames)
    for _ in range(3):
        following = segmenter.dispatch(frames)
        _use(pending.result(), frames)
        ends.append(time.perf_counter())
        pending = following
    pending.result()
    return ends


def _use(predictions: Sequence[Prediction], frames: Sequence[Frame]) -> None:
    """Do with the answers what a replica's only thread has to do besides launching."""
    for prediction, frame in zip(predictions, frames, strict=True):
        label = prediction.label_values(frame.options.threshold)
        if label is not None:
            label.tobytes()


def _free_mib(gpus: Sequence[str]) -> float:
    """Free memory of the fullest device, with what torch's cache would give back."""
    import torch

    torch.cuda.empty_cache()
    return min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) / MIB


def _card(gpu: str) -> str:
    import torch

    return str(torch.cuda.get_device_name(gpu))


def _frame(segmenter: Segmenter, model: Model) -> Frame:
    """The segmenter's own frame for the purpose, or noise of a generous size."""
    return segmenter.probe_frame() if isinstance(segmenter, ProbeFrame) else _noise(model, SIDE)


def _usual_frame(model: Model) -> Frame | None:
    """What most scans are like, where that is much less than the most demanding frame."""
    return _noise(model, USUAL_SIDE) if model.segmenter == "sa2va" else None


def _noise(model: Model, side: int) -> Frame:
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    speech: dict[str, Any] = {}
    if model.segmenter == "sa2va":
        speech = {"prompt": model.sa2va.prompt, "draft": model.sa2va.draft, "decode": model.sa2va.decode}
    return Frame(pixels=noise, options=Options(threshold=model.threshold, tta=model.tta, **speech))
