"""The probe: how many frames one batch should hold, and how much memory that takes, measured once per model and card.

The figures are kept in the cache folder; deleting it only means measuring again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference.base import AsyncSegmenter, Frame, VolumeSegmenter
from watcherd.inference.faults import give_back_memory, is_memory_error
from watcherd.inference.machine.devices import MIB
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence
    from pathlib import Path

    from watcherd.config import Model
    from watcherd.inference.base import Placement, Segmenter

METHOD = 2
"""Raised whenever a card would be measured to another batch size: records of earlier methods are not found then."""
CPU_BATCH = 2
"""Two small scans together take a third less time than apart; more make a CPU no faster, and hold more memory."""
MAX_BATCH = 64
FILL = 0.85
"""Part of a device's free memory that a batch may take; the rest is for fragmentation and larger scans."""
WORTHWHILE = 1.05
"""A batch is doubled as long as that gives so many times the frames per second..."""
HOST_SHARE = 0.25
"""...or the host needs more than this part of a batch's time to launch it: it must write the masks of another one
meanwhile, and kernels take equally long to launch for a batch of any size."""
LONG_SECONDS = 10.0
"""Batches that take longer are not doubled: the scans in them have waited enough."""
SIDE = 1024
"""Side in pixels of the frame that is measured, where the segmenter has none of its own."""


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
    """A batch's memory in MiB on the device that needs most, its seconds, and those after which the host is free."""

    mib: float
    seconds: float
    launch_seconds: float


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
            known = _measure(segmenter, _frame(segmenter, model), gpus, model.batch, wanted)
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


def _measure(segmenter: Segmenter, frame: Frame, gpus: Sequence[str], wanted: int | str, record: _Record) -> _Record:
    """Double the batch while it fits, is worth it and does not take long; a wanted size is taken if it fits."""
    try:
        cost = _cost(segmenter, frame, 1, gpus)
    except (RuntimeError, WatcherdError) as error:
        raise _cannot(error, "frame") from error
    size, single_mib = 1, cost.mib
    largest = MAX_BATCH if wanted == "auto" else int(wanted)
    while size < largest:
        larger = min(size * 2, largest)
        if larger * single_mib > FILL * _free_mib(gpus) or (wanted == "auto" and cost.seconds > LONG_SECONDS):
            break
        more = _try_cost(segmenter, frame, larger, gpus)
        if more is None or (wanted == "auto" and not _is_worthwhile(larger / more.seconds, size / cost.seconds, cost)):
            break
        size, cost = larger, more
    return replace(record, batch_size=size, reserve_mib=round(single_mib, 1), batch_mib=round(cost.mib, 1))


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


def _is_worthwhile(rate: float, before: float, cost: Cost) -> bool:
    """Whether a larger batch than one of this cost is better: frames per second with it, and ``before``."""
    if rate >= WORTHWHILE * before:
        return True
    return rate * WORTHWHILE >= before and cost.launch_seconds > HOST_SHARE * cost.seconds


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

    Two batches follow each other as they do at work: a segmenter that can begin the second while the first is
    computed is timed with the devices never idle.
    """
    import torch

    torch.cuda.empty_cache()
    before = {gpu: (torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)) for gpu in gpus}
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    segmenter.predict([frame] * size)  # the first batch of a size allocates, makes workspaces and picks kernels
    launch_seconds = 0.0
    began = time.perf_counter()
    if isinstance(segmenter, AsyncSegmenter):
        first = segmenter.dispatch([frame] * size)
        launch_seconds = time.perf_counter() - began
        second = segmenter.dispatch([frame] * size)
        first.result()
        second.result()
    else:
        for _ in range(2):
            segmenter.predict([frame] * size)
    seconds = (time.perf_counter() - began) / 2
    return Cost(mib=_taken(before) / MIB, seconds=max(seconds, 1e-9), launch_seconds=launch_seconds)


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
    if isinstance(segmenter, ProbeFrame):
        return segmenter.probe_frame()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    speech: dict[str, Any] = {}
    if model.segmenter == "sa2va":
        speech = {"prompt": model.sa2va.prompt, "draft": model.sa2va.draft, "decode": model.sa2va.decode}
    return Frame(pixels=noise, options=Options(threshold=model.threshold, tta=model.tta, **speech))
