"""Segment a batch of scans inside a replica: read their frames, compute, write their masks.

Frames of all the scans go through the model together, a bounded window at a time, so that a long run needs no more
memory than a short one; a scan is answered for as soon as its last frame is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import JobError, NoMaskError, TransientError
from watcherd.frames import FrameWriter
from watcherd.inference import batching
from watcherd.inference.base import Frame, Prediction, RunSegmenter
from watcherd.inference.batching import FrameOutcome
from watcherd.inference.faults import give_back_memory
from watcherd.inference.finishing import Step
from watcherd.inference.messages import DeviceUse, NotSegmented, Outcome, Segmented, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter
    from watcherd.inference.batching import Probe
    from watcherd.inference.vram import Meter

WINDOW = 64
"""Frames that are held in memory at once, unless one batch needs more."""


@dataclass(slots=True)
class _Scan:
    """A scan on its way through the model."""

    item: WorkItem
    mapped: NDArray[np.uint8] | None = None
    mask: FrameWriter | None = None
    probability: FrameWriter | None = None
    done: int = 0
    classes: int = 1
    labels: tuple[str, ...] = ()
    answer: str | None = None
    decode: str | None = None
    note: str | None = None
    inference_ms: float = 0.0
    batch_size: int = 0
    devices: dict[str, DeviceUse] = field(default_factory=dict)
    host_peak_rss_mib: float | None = None
    answered: bool = False
    followed: bool = False
    besides: str = ""
    """What the record says besides the model's note."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """A map of the decoded file: a window of large scans is read as it is used and not held in memory. Opened when
        it is needed: a run may come as more files than a process may have open."""
        if self.mapped is None:
            self.mapped = np.load(self.item.decoded, mmap_mode="r")
        return self.mapped

    def frame(self, index: int) -> Frame:
        return Frame(pixels=np.asarray(self.pixels[index]), options=self.item.options)

    def close(self) -> None:
        """The files are complete. Raises `TransientError` when the disk says only now that it is full."""
        self.mapped = None
        for writer in (self.mask, self.probability):
            if writer is not None:
                writer.close()

    def discard(self) -> None:
        """Give back the room of what was written: nobody will read it."""
        self.mapped = None
        for writer in (self.mask, self.probability):
            if writer is not None:
                writer.discard()


def segment(
    segmenter: Segmenter,
    items: Sequence[WorkItem],
    probe: Probe,
    meter: Meter,
    working_on: Callable[[tuple[int, ...]], None],
) -> Iterator[Step]:
    """Compute every frame, and yield what then remains to be done for it: one of a scan's steps gives its outcome.

    Steps are to be finished in order, in this thread or in another one while the next frames are computed. Errors
    that poison the process (see `batching.is_sticky`) go through.
    """
    singles: list[_Scan] = []
    for _, run in groupby(items, key=lambda item: item.run or item.job_id):
        scans = [_Scan(item=item, besides=item.note) for item in run]
        if not isinstance(segmenter, RunSegmenter):
            singles += _by_themselves(scans, "this model follows no runs") if len(scans) > 1 else scans
        elif len(scans) > 1:
            singles += yield from _follow(segmenter, scans, meter, working_on)
        elif scans[0].item.frames > 1:
            yield Step(partial(_same, _run(segmenter, scans[0], meter, working_on)))
        else:
            singles += scans
    todo = [(scan, index) for scan in singles for index in range(scan.item.frames)]
    window = max(WINDOW, probe.batch_size)
    for start in range(0, len(todo), window):
        part = [(scan, index) for scan, index in todo[start : start + window] if not scan.answered]
        working_on(tuple(dict.fromkeys(scan.item.job_id for scan, _ in part)))
        frames = [scan.frame(index) for scan, index in part]
        for position, outcome in batching.run(segmenter, frames, probe, meter):
            scan, index = part[position]
            yield Step(partial(_take, scan, index, outcome), _bytes_of(outcome))


def _same(outcome: Outcome) -> Outcome:
    return outcome


def _bytes_of(outcome: FrameOutcome) -> int:
    if isinstance(outcome.result, JobError):
        return 0
    return sum(array.nbytes for array in (outcome.result.probability, outcome.result.mask) if array is not None)


def _by_themselves(scans: list[_Scan], why: str) -> list[_Scan]:
    """Frames of a run that cannot be followed, and the reason in their records."""
    for scan in scans:
        scan.besides = f"segmented by itself, apart from its run: {why}"
    return scans


def _follow(
    segmenter: RunSegmenter, scans: list[_Scan], meter: Meter, working_on: Callable[[tuple[int, ...]], None]
) -> Generator[Step, None, list[_Scan]]:
    """Single files as the frames of one run, each answered for when its own mask is there.

    Returns the files that are left when the run breaks off: one bad frame must not cost the others their masks. Only
    the frames that the model was given and has not answered are under suspicion if the process dies.
    """
    given = answered = 0

    def frames() -> Iterator[Frame]:
        nonlocal given
        for scan in scans:
            given += 1
            working_on(tuple(each.item.job_id for each in scans[answered:given]))
            yield scan.frame(0)

    predictions = segmenter.predict_run(frames())
    for scan in scans:
        outcome = _next(predictions, scan, meter)
        if isinstance(outcome, JobError):
            return _by_themselves(scans[answered:], f"it broke off ({outcome.message})")
        answered += 1
        scan.followed = True
        yield Step(partial(_take, scan, 0, outcome), _bytes_of(outcome))
    return []


def _next(predictions: Iterator[Prediction], scan: _Scan, meter: Meter) -> FrameOutcome | JobError:
    """What the model says about a run's next frame, or why it says nothing more."""
    meter.before()
    began = batching.clock()
    failure: Exception | None = None
    try:
        prediction = next(predictions, None)
        if prediction is None:
            raise TransientError("the model ended the run before its last frame")  # noqa: TRY301 - as any other failure
        batching.check([scan.frame(0)], [prediction])
    except Exception as error:
        if batching.is_sticky(error):
            raise
        failure = error.with_traceback(None)
    uses, rss = meter.after(), meter.host_peak_rss_mib()
    if failure is not None:  # outside the except block: nothing holds the tensors of the failed frame any more
        reason = batching.as_job_error(failure, uses, rss)
        give_back_memory()
        return reason
    assert prediction is not None
    took_ms = (batching.clock() - began) * 1000
    return FrameOutcome(result=prediction, batch_size=1, inference_ms=took_ms, devices=uses, host_peak_rss_mib=rss)


def _run(segmenter: RunSegmenter, scan: _Scan, meter: Meter, working_on: Callable[[tuple[int, ...]], None]) -> Outcome:
    """A whole run as video, with the model's memory from frame to frame."""
    began = batching.clock()
    meter.before()
    failure: Exception | None = None

    def frames() -> Iterator[Frame]:
        for index in range(scan.item.frames):
            working_on((scan.item.job_id,))  # a sign of life: a long run is one message otherwise
            yield scan.frame(index)

    try:
        for index, prediction in enumerate(segmenter.predict_run(frames())):
            batching.check([scan.frame(index)], [prediction])
            _store(scan, index, prediction)
        scan.close()
        if scan.done != scan.item.frames:
            raise TransientError(f"The model answered {scan.done} of the run's {scan.item.frames} frames.")  # noqa: TRY301
    except Exception as error:
        if batching.is_sticky(error):
            raise
        failure = error.with_traceback(None)
    if failure is not None:  # outside the except block: nothing holds the tensors of the failed frame any more
        scan.discard()
        reason = batching.as_job_error(failure, meter.after(), meter.host_peak_rss_mib())
        give_back_memory()
        return NotSegmented.of(scan.item.job_id, reason)
    scan.inference_ms = (batching.clock() - began) * 1000
    scan.batch_size = 1
    scan.devices = {use.device: use for use in meter.after()}
    scan.host_peak_rss_mib = meter.host_peak_rss_mib()
    return _answer(scan)


def _take(scan: _Scan, index: int, outcome: FrameOutcome) -> Outcome | None:
    """Put one frame's outcome into its scan; the scan's outcome when this was what it waited for."""
    if scan.answered:
        return None
    scan.inference_ms += outcome.inference_ms if outcome.inference_ms is not None else 0.0
    scan.batch_size = max(scan.batch_size, outcome.batch_size)
    scan.host_peak_rss_mib = outcome.host_peak_rss_mib
    for use in outcome.devices:
        scan.devices[use.device] = _larger(scan.devices.get(use.device), use)
    try:
        if isinstance(outcome.result, JobError):
            raise outcome.result  # noqa: TRY301 - what stopped the frame ends where what stops its mask does
        _store(scan, index, outcome.result)
        if scan.done < scan.item.frames:
            return None
        scan.close()
    except Exception as error:  # whatever it is, it is this scan's, and the replica goes on
        scan.answered = True
        scan.discard()
        return NotSegmented.of(scan.item.job_id, error)
    return _answer(scan)


def _larger(before: DeviceUse | None, use: DeviceUse) -> DeviceUse:
    """Of two batches' figures for a device, those with the higher peak."""
    if before is None or (use.vram_peak_allocated_mib or 0) >= (before.vram_peak_allocated_mib or 0):
        return use
    return before


def _store(scan: _Scan, index: int, prediction: Prediction) -> None:
    """Write one frame's mask (and probability, when asked for) into the scan's files."""
    options = scan.item.options
    height, width = scan.pixels.shape[1:3]
    scan.answer = prediction.answer if scan.answer is None else scan.answer
    scan.decode, scan.note, scan.labels = prediction.decode, prediction.note, prediction.labels
    if prediction.probability is None:
        if options.no_mask != "empty":
            raise NoMaskError(
                f"The model gave no mask. It answered: {prediction.answer!r}",
                answer=prediction.answer,
                hint='Where that is to be expected, set no_mask = "empty" in the profile.',
            )
        scan.note = 'the model gave no mask; an empty one was asked for by no_mask = "empty"'
        label = np.zeros((height, width), np.uint8)
        probability = np.zeros((height, width), np.float32)
    else:
        probability = prediction.probability
        label = prediction.mask if prediction.mask is not None else _threshold(probability, options.threshold)
    if probability.ndim == 3:
        scan.classes = max(scan.classes, probability.shape[0])
    _files(scan, height, width)
    assert scan.mask is not None
    scan.mask.write(index, label)
    if scan.probability is not None:
        strongest = probability.max(axis=0) if probability.ndim == 3 else probability
        scan.probability.write(index, np.round(strongest * 65535).astype(np.uint16))
    scan.done += 1


def _threshold(probability: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Label values: 1 where one class's probability is greater than the threshold; of several the likeliest."""
    if probability.ndim == 2:
        return (probability > threshold).astype(np.uint8)
    label = probability.argmax(axis=0).astype(np.uint8) + 1
    return np.where(probability.max(axis=0) > threshold, label, 0).astype(np.uint8)


def _files(scan: _Scan, height: int, width: int) -> None:
    if scan.mask is not None:
        return
    shape = (scan.item.frames, height, width)
    target = scan.item.target
    scan.mask = FrameWriter(target.with_name(target.name + "-mask.npy"), shape, np.uint8)
    if "probability" in scan.item.options.outputs:
        scan.probability = FrameWriter(target.with_name(target.name + "-probability.npy"), shape, np.uint16)


def _answer(scan: _Scan) -> Segmented:
    assert scan.mask is not None
    return Segmented(
        job_id=scan.item.job_id,
        mask=scan.mask.path,
        probability=scan.probability.path if scan.probability is not None else None,
        classes=scan.classes,
        labels=scan.labels,
        answer=scan.answer,
        decode=scan.decode,
        note="; ".join(filter(None, (scan.besides, scan.note))) or None,
        inference_ms=round(scan.inference_ms, 3),
        batch_size=scan.batch_size,
        devices=tuple(scan.devices.values()),
        host_peak_rss_mib=scan.host_peak_rss_mib,
        followed=scan.followed,
    )
