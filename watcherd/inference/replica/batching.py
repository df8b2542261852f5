"""Batches inside a replica: frames of one shape together, smaller after a memory error, one by one after a bad frame.

Nothing here imports torch until a model runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np

from watcherd.errors import JobError, OutOfMemoryError, TransientError
from watcherd.inference.base import AsyncSegmenter
from watcherd.inference.faults import give_back_memory, is_memory_error, is_sticky, not_numbers
from watcherd.inference.probing import Probe, measured_reserve_gib, probe
from watcherd.inference.replica.vram import larger

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from watcherd.inference.base import Frame, Pending, Prediction, Segmenter
    from watcherd.inference.replica.vram import Meter
    from watcherd.values import DeviceUse

__all__ = [
    "Batches",
    "FrameOutcome",
    "Probe",
    "as_job_error",
    "check",
    "clock",
    "is_memory_error",
    "is_sticky",
    "measured_reserve_gib",
    "probe",
    "run",
]

T = TypeVar("T")

clock: Callable[[], float] = time.perf_counter
"""The clock that times batches, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameOutcome:
    """What became of one frame.

    ``batch_size``: frames in the batch that computed it. ``inference_ms``: its share of that batch's wall time, from
    when the batch before was done, so that the frames' shares add up to the time spent. ``devices`` and
    ``host_peak_rss_mib``: of the whole batch, for a batch has one peak.
    """

    result: Prediction | JobError
    batch_size: int
    inference_ms: float
    devices: tuple[DeviceUse, ...] = ()
    host_peak_rss_mib: float | None = None


Outcomes: TypeAlias = "list[tuple[T, FrameOutcome]]"
"""The outcomes of one batch, with its frames' tags."""


def run(
    segmenter: Segmenter, frames: Sequence[Frame], limits: Probe, meter: Meter
) -> Iterator[tuple[int, FrameOutcome]]:
    """Segment the frames and yield ``(position, outcome)`` for each, batch by batch; see `Batches`."""
    batches: Batches[int] = Batches(segmenter, limits, meter)
    for outcomes in chain(batches.feed(list(enumerate(frames))), batches.rest()):
        yield from outcomes


class Batches(Generic[T]):
    """Runs frames through a segmenter, batch by batch, grouped by shape. A tag identifies each frame's outcome.

    ``limits``: what the probe found; learns smaller batches as memory errors come. Where the segmenter can
    (`AsyncSegmenter`), one batch is left on the devices while the outcomes of the one before are dealt with.

    A memory error halves the batch, and the shape's later batches with it; of one frame alone it is an
    `OutOfMemoryError` with the figures. Any other error of a batch is found by running its frames one by one.
    Sticky errors (`is_sticky`) go through: the process must end.
    """

    def __init__(self, segmenter: Segmenter, limits: Probe, meter: Meter) -> None:
        self._segmenter = segmenter
        self._limits = limits
        self._meter = meter
        self._dispatch = segmenter.dispatch if isinstance(segmenter, AsyncSegmenter) else None
        self._under_way: _Batch[T] | None = None
        self._free_since = 0.0
        """When the devices finished the last batch, as of `clock`."""

    def feed(self, frames: Sequence[tuple[T, Frame]]) -> Iterator[Outcomes[T]]:
        """Compute these frames; yields outcomes a batch at a time. The last batch may be left to `rest`."""
        groups: dict[Hashable, list[tuple[T, Frame]]] = {}
        for tag, frame in frames:
            try:
                groups.setdefault(self._segmenter.batch_key(frame), []).append((tag, frame))
            except JobError as error:
                yield [(tag, FrameOutcome(result=error, batch_size=1, inference_ms=0.0))]
        for shape, todo in groups.items():
            while todo:
                size = self._limits.cap(shape)
                batch = self._start(shape, todo[:size])
                del todo[:size]
                yield from self.rest()
                if self._dispatch is not None and batch.error is None:
                    self._under_way = batch
                else:
                    yield from self._finish(batch)

    def computed(self) -> bool:
        """Whether the devices have finished."""
        batch = self._under_way
        return batch is None or batch.pending is None or batch.pending.done()

    def rest(self) -> Iterator[Outcomes[T]]:
        """The outcomes of the batch that is still on the devices."""
        batch, self._under_way = self._under_way, None
        if batch is not None:
            yield from self._finish(batch)

    def _start(self, shape: Hashable, frames: list[tuple[T, Frame]]) -> _Batch[T]:
        self._meter.before()
        batch = _Batch(shape=shape, frames=frames, began=clock())
        only = [frame for _, frame in frames]
        try:
            if self._dispatch is not None:
                batch.pending = self._dispatch(only)
            else:
                batch.predictions = self._segmenter.predict(only)
        except Exception as error:
            batch.error = _harmless(error)
        if batch.error is None:
            batch.devices, batch.host_peak_rss_mib = self._meter.after(), self._meter.host_peak_rss_mib()
        return batch

    def _finish(self, batch: _Batch[T]) -> Iterator[Outcomes[T]]:
        """Wait for a batch; if it failed, try it again in parts."""
        predictions = self._collect(batch)
        if batch.error is None:
            yield self._outcomes(batch, predictions)
            return
        # Here, outside the except block, nothing holds the failed batch's tensors any more.
        batch.error.__context__ = batch.error.__cause__ = None
        batch.pending = None
        short = is_memory_error(batch.error)
        if short:
            give_back_memory()
        if len(batch.frames) == 1:
            yield [(batch.frames[0][0], self._failure(batch.error))]
            return
        if short:
            self._limits.caps[batch.shape] = len(batch.frames) // 2
        todo = list(batch.frames)
        while todo:
            size = self._limits.cap(batch.shape) if short else 1
            yield from self._finish(self._start(batch.shape, todo[:size]))
            del todo[:size]

    def _collect(self, batch: _Batch[T]) -> list[Prediction]:
        if batch.error is None:
            try:
                predictions = batch.predictions if batch.pending is None else batch.pending.result()
                now = clock()
                if batch.pending is not None and batch.pending.worked_again():
                    batch.devices = larger(batch.devices, self._meter.after())
                batch.took_ms = (now - max(batch.began, self._free_since)) * 1000
                self._free_since = now
                check([frame for _, frame in batch.frames], predictions)
            except Exception as error:
                batch.error = _harmless(error)
            else:
                return predictions
        return []

    def _outcomes(self, batch: _Batch[T], predictions: Sequence[Prediction]) -> Outcomes[T]:
        return [
            (
                tag,
                FrameOutcome(
                    result=prediction,
                    batch_size=len(batch.frames),
                    inference_ms=batch.took_ms / len(batch.frames),
                    devices=batch.devices,
                    host_peak_rss_mib=batch.host_peak_rss_mib,
                ),
            )
            for (tag, _), prediction in zip(batch.frames, predictions, strict=True)
        ]

    def _failure(self, error: Exception) -> FrameOutcome:
        """The outcome of a frame that failed alone."""
        uses, rss = self._meter.after(), self._meter.host_peak_rss_mib()
        return FrameOutcome(
            result=as_job_error(error, uses, rss), batch_size=1, inference_ms=0.0, devices=uses, host_peak_rss_mib=rss
        )


@dataclass(slots=True)
class _Batch(Generic[T]):
    """Frames that share a pass: computed (``predictions``), on the devices (``pending``), or failed (``error``)."""

    shape: Hashable
    frames: list[tuple[T, Frame]]
    began: float
    pending: Pending | None = None
    predictions: list[Prediction] = field(default_factory=list)
    error: Exception | None = None
    took_ms: float = 0.0
    devices: tuple[DeviceUse, ...] = ()
    host_peak_rss_mib: float | None = None


def _harmless(error: Exception) -> Exception:
    """The error without its traceback, which holds tensors. Raises it if it leaves the process unsound."""
    if is_sticky(error):
        raise error
    return error.with_traceback(None)


def check(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> None:
    """Check what a segmenter promises about its answer, so that a broken answer never becomes a mask."""
    if len(predictions) != len(frames):
        raise TransientError(f"The segmenter gave {len(predictions)} answers for {len(frames)} frames.")
    for frame, prediction in zip(frames, predictions, strict=True):
        size = frame.pixels.shape[:2]
        for what, array in (("probability", prediction.probability), ("mask", prediction.mask)):
            if array is not None and array.shape[-2:] != size:
                raise TransientError(f"The segmenter gave a {what} of {array.shape} for a frame of {size}.")
        if prediction.probability is not None and not np.isfinite(prediction.probability).all():
            raise not_numbers()
        if prediction.probability is None and prediction.mask is not None and frame.options.asks_for_probability:
            raise TransientError("The segmenter gave a mask without the probabilities that were asked for.")


def as_job_error(error: Exception, uses: Sequence[DeviceUse], rss: float | None) -> JobError:
    """The error that stopped a single frame or run, as one of ours; a memory error gets the figures."""
    if isinstance(error, JobError):
        return error
    what = " ".join(str(error).split())
    if is_memory_error(error):
        return OutOfMemoryError(
            f"Not enough memory for one frame alone: {_figures(uses, rss)}. {what}",
            hint="Use a larger device, more GPUs per replica (devices.per_replica), or smaller scans.",
        )
    return TransientError(f"The segmenter failed: {type(error).__name__}: {what}")


def _figures(uses: Sequence[DeviceUse], rss: float | None) -> str:
    known = [
        f"{use.device} had {use.vram_before_mib:.0f} MiB allocated, {use.vram_peak_allocated_mib:.0f} at its peak"
        for use in uses
        if use.vram_before_mib is not None and use.vram_peak_allocated_mib is not None
    ]
    return "; ".join(known) or (f"the process held {rss:.0f} MiB at its peak" if rss is not None else "figures unknown")
