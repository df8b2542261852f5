"""Batches inside a replica: frames of one shape together, smaller after a memory error, one by one after a bad frame.

Nothing here imports torch until a model runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import JobError, OutOfMemoryError, TransientError
from watcherd.inference.faults import give_back_memory, is_memory_error, is_sticky
from watcherd.inference.probing import Probe, measured_reserve_gib, probe

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from watcherd.inference.base import Frame, Prediction, Segmenter
    from watcherd.inference.messages import DeviceUse
    from watcherd.inference.vram import Meter

__all__ = [
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

clock: Callable[[], float] = time.perf_counter
"""What batches are timed with, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameOutcome:
    """What became of one frame.

    ``batch_size``: frames in the batch that computed it. ``inference_ms``: its share of that batch's wall time, so
    that the frames' shares add up to the time spent. ``devices`` and ``host_peak_rss_mib``: of the whole batch, for a
    batch has one peak.
    """

    result: Prediction | JobError
    batch_size: int
    inference_ms: float
    devices: tuple[DeviceUse, ...] = ()
    host_peak_rss_mib: float | None = None


def run(
    segmenter: Segmenter, frames: Sequence[Frame], limits: Probe, meter: Meter
) -> Iterator[tuple[int, FrameOutcome]]:
    """Segment the frames and yield ``(position, outcome)`` for each, batch by batch, grouped by shape.

    ``limits``: what the probe found; learns smaller batches as memory errors come.

    A memory error halves the batch, and the shape's later batches with it; of one frame alone it is an
    `OutOfMemoryError` with the figures. Any other error of a batch is found by running its frames one by one.
    Sticky errors (`is_sticky`) go through: the process must end.
    """
    groups: dict[Hashable, list[int]] = {}
    for position, frame in enumerate(frames):
        try:
            groups.setdefault(segmenter.batch_key(frame), []).append(position)
        except JobError as error:
            yield position, FrameOutcome(result=error, batch_size=1, inference_ms=0.0)
    for shape, positions in groups.items():
        yield from _group(segmenter, frames, shape, positions, limits, meter)


def _group(
    segmenter: Segmenter,
    frames: Sequence[Frame],
    shape: Hashable,
    positions: list[int],
    limits: Probe,
    meter: Meter,
) -> Iterator[tuple[int, FrameOutcome]]:
    todo = list(positions)
    alone: set[int] = set()
    while todo:
        size = 1 if todo[0] in alone else limits.cap(shape)
        batch = todo[:size]
        outcomes = _attempt(segmenter, [frames[position] for position in batch], meter)
        if isinstance(outcomes, Exception):
            if len(batch) > 1:
                if is_memory_error(outcomes):
                    limits.caps[shape] = len(batch) // 2
                else:
                    alone.update(batch)
                continue
            outcomes = [_failure(outcomes, meter)]
        yield from zip(batch, outcomes, strict=True)
        del todo[:size]


def _attempt(segmenter: Segmenter, frames: Sequence[Frame], meter: Meter) -> list[FrameOutcome] | Exception:
    """One batch: its outcomes, or the error that stopped all of it, free of the tensors that its traceback held."""
    meter.before()
    began = clock()
    failure: Exception | None = None
    try:
        predictions = segmenter.predict(frames)
        took_ms = (clock() - began) * 1000
        check(frames, predictions)
    except Exception as error:
        if is_sticky(error):
            raise
        failure = error.with_traceback(None)
    if failure is not None:
        # Only here, outside the except block, is nothing left that holds the failed batch's tensors.
        failure.__context__ = failure.__cause__ = None
        if is_memory_error(failure):
            give_back_memory()
        return failure
    uses, rss = meter.after(), meter.host_peak_rss_mib()
    return [
        FrameOutcome(
            result=prediction,
            batch_size=len(frames),
            inference_ms=took_ms / len(frames),
            devices=uses,
            host_peak_rss_mib=rss,
        )
        for prediction in predictions
    ]


def check(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> None:
    """A segmenter's promises about its answer's shape; a broken one must not become a mask."""
    if len(predictions) != len(frames):
        raise TransientError(f"The segmenter gave {len(predictions)} answers for {len(frames)} frames.")
    for frame, prediction in zip(frames, predictions, strict=True):
        size = frame.pixels.shape[:2]
        for what, array in (("probability", prediction.probability), ("mask", prediction.mask)):
            if array is not None and array.shape[-2:] != size:
                raise TransientError(f"The segmenter gave a {what} of {array.shape} for a frame of {size}.")
        if prediction.probability is not None and not np.isfinite(prediction.probability).all():
            raise TransientError("The model computed values that are not numbers.", hint='Try model.dtype = "float32".')


def _failure(error: Exception, meter: Meter) -> FrameOutcome:
    """The outcome of a frame that failed alone."""
    uses, rss = meter.after(), meter.host_peak_rss_mib()
    return FrameOutcome(
        result=as_job_error(error, uses, rss), batch_size=1, inference_ms=0.0, devices=uses, host_peak_rss_mib=rss
    )


def as_job_error(error: Exception, uses: Sequence[DeviceUse], rss: float | None) -> JobError:
    """Whatever stopped a frame or a run that was alone, as an error of ours; a memory error has the figures."""
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
