"""Segment scans inside a replica: read their frames, compute, write their masks.

Frames of all the scans go through the model together, a bounded window at a time, so that a long run needs no more
memory than a short one; a scan is answered for when its last frame is done.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from watcherd.errors import JobError, NoMaskError, TransientError
from watcherd.formats.npy_frames import FrameFile, FrameWriter
from watcherd.inference.base import Frame, Prediction, RunSegmenter, VolumeSegmenter, Wears
from watcherd.inference.faults import give_back_memory
from watcherd.inference.messages import BatchEnded, NotSegmented, Outcome, Segmented, WorkItem
from watcherd.inference.replica import batching, volumes
from watcherd.inference.replica.batching import Batches, FrameOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter
    from watcherd.inference.replica.batching import Outcomes, Probe
    from watcherd.inference.replica.vram import Meter
    from watcherd.values import DeviceUse

WINDOW = 64
"""Frames in memory at once, unless one batch needs more."""
TOGETHER_SECONDS = 0.02
"""Seconds at most that a batch's first answer waits for the others, so that they are sent together."""

Said: TypeAlias = Outcome | BatchEnded


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
    begun: bool = False
    answered: bool = False
    followed: bool = False
    emptied: int = 0
    """Frames without a mask for which an empty one was asked for."""
    besides: str = ""
    """Words for the record, in front of the model's note."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The decoded file, mapped: large scans are read as they are used and never held in memory. Opened on demand,
        since a run may consist of more files than a process may have open."""
        if self.mapped is None:
            self.mapped = FrameFile(self.item.decoded).mapped()
        return self.mapped

    def frame(self, index: int) -> Frame:
        return Frame(pixels=self.pixels[index], options=self.item.options, modality=self.item.modality)

    def close(self) -> None:
        """The files are complete. Raises `TransientError` when the disk says only now that it is full."""
        self.mapped = None
        for writer in (self.mask, self.probability):
            if writer is not None:
                writer.close()

    def discard(self) -> None:
        """Remove what was written: nobody will read it."""
        self.mapped = None
        for writer in (self.mask, self.probability):
            if writer is not None:
                writer.discard()


class Work:
    """The scans that a segmenter works on: `take` them, list by list, and hear through ``tell`` what became of each.

    ``tell`` gets several at once: outcomes, and a `BatchEnded` for each list whose last scan is answered for.
    ``working_on`` hears which jobs are being computed. Where the segmenter leaves a batch on its devices
    (`batching.Batches`), its last outcomes come with the next list, or by `rest`. A single thread calls everything: a
    second one would make the first wait for Python's lock at every kernel that it launches.

    ``worn``: why nothing more is to be computed here; empty as long as all is well.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        probe: Probe,
        meter: Meter,
        tell: Callable[[Sequence[Said]], None],
        working_on: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._segmenter = segmenter
        self._probe = probe
        self._meter = meter
        self._tell = tell
        self._working_on = working_on
        self.worn = ""
        self._begin()

    def _begin(self) -> None:
        self._batches: Batches[tuple[_Scan, int]] = Batches(self._segmenter, self._probe, self._meter)
        self._lists: deque[list[_Scan]] = deque()
        """The lists that have not ended, the oldest first."""

    def take(self, items: Sequence[WorkItem]) -> None:
        """Compute every frame. Errors that poison the process (see `batching.is_sticky`) go through."""
        scans = [_Scan(item=item, besides=item.note) for item in items]
        self._lists.append(scans)
        if isinstance(self._segmenter, VolumeSegmenter):
            self._take_volumes(self._segmenter, scans)
            return
        singles: list[_Scan] = []
        for _, run in groupby(scans, key=lambda scan: scan.item.run or scan.item.job_id):
            singles += self._runs(list(run))
        todo = [(scan, index) for scan in singles for index in range(scan.item.frames)]
        window = max(WINDOW, self._probe.batch_size)
        for start in range(0, len(todo), window):
            part = [(scan, index) for scan, index in todo[start : start + window] if not scan.answered]
            for scan, _ in part:
                scan.begun = True
            self._working_on(tuple(scan.item.job_id for scan in self._open() if scan.begun))
            for outcomes in self._batches.feed([((scan, index), scan.frame(index)) for scan, index in part]):
                self._finish(outcomes)

    def _take_volumes(self, segmenter: VolumeSegmenter, scans: Sequence[_Scan]) -> None:
        """Compute case by case; the channels of one get the same mask. Ends early when the model is `worn`."""
        for _, files in groupby(scans, key=lambda scan: scan.item.run or scan.item.job_id):
            case = list(files)
            jobs = tuple(scan.item.job_id for scan in case)
            self._working_on(jobs)
            alive = partial(self._alive, jobs)
            outcomes = self._whole(case, volumes.predictions(segmenter, [scan.item for scan in case], alive))
            told: list[Said] = []
            for scan, outcome in zip(case, outcomes, strict=True):
                told += self._answered(scan, outcome)
            self._tell(told)
            if not self.worn and isinstance(segmenter, Wears):
                self.worn = segmenter.worn()
            if self.worn:
                return

    def _alive(self, jobs: tuple[int, ...], _stage: str, _fraction: float | None) -> None:
        self._working_on(jobs)

    def computed(self) -> bool:
        """Whether the devices have finished, so that it is time for `rest`."""
        return self._batches.computed()

    def rest(self) -> None:
        """Answer for every scan that was taken."""
        for outcomes in self._batches.rest():
            self._finish(outcomes)

    def give_up(self, error: Exception) -> None:
        """An unforeseen error has stopped everything: every scan that was taken fails with it."""
        told: list[Said] = []
        for scan in self._open():
            scan.discard()
            told.append(NotSegmented.of(scan.item.job_id, error))
        told += [BatchEnded()] * len(self._lists)
        self._begin()
        self._tell(told)

    def _open(self) -> list[_Scan]:
        """The scans that are not answered for."""
        return [scan for scans in self._lists for scan in scans if not scan.answered]

    def _finish(self, outcomes: Outcomes[tuple[_Scan, int]]) -> None:
        """Write a batch's masks, and tell of the scans that are complete."""
        told: list[Said] = []
        since = batching.clock()
        for (scan, index), outcome in outcomes:
            if (answer := _take(scan, index, outcome)) is not None:
                told += self._answered(scan, answer)
            if told and batching.clock() - since > TOGETHER_SECONDS:
                self._tell(told)
                told, since = [], batching.clock()
        if told:
            self._tell(told)

    def _answered(self, scan: _Scan, answer: Outcome) -> list[Said]:
        """The outcome of a scan, and the end of its list if it was the last."""
        scan.answered = True
        told: list[Said] = [answer]
        while self._lists and all(scan.answered for scan in self._lists[0]):
            self._lists.popleft()
            told.append(BatchEnded())
        return told

    def _runs(self, scans: list[_Scan]) -> list[_Scan]:
        """Follow the frames of one run, in one file or many; returns the scans that are left for batches."""
        several = len(scans) > 1
        if not several and scans[0].item.frames == 1:
            return scans
        if not isinstance(self._segmenter, RunSegmenter):
            return _by_themselves(scans, "this model follows no runs") if several else scans
        self.rest()
        if several:
            return self._follow(self._segmenter, scans)
        self._tell(self._answered(scans[0], self._run(self._segmenter, scans[0])))
        return []

    def _follow(self, segmenter: RunSegmenter, scans: list[_Scan]) -> list[_Scan]:
        """Single files as the frames of one run, each answered for when its own mask is there.

        Returns the files that are left when the run breaks off: one bad frame must not cost the others their masks.
        If the process dies, only the frames that the model had and did not answer come under suspicion.
        """
        given = answered = 0

        def frames() -> Iterator[Frame]:
            nonlocal given
            for scan in scans:
                given += 1
                self._working_on(tuple(each.item.job_id for each in scans[answered:given]))
                yield scan.frame(0)

        predictions = segmenter.predict_run(frames())
        for scan in scans:
            outcome = _next(predictions, scan, self._meter)
            if isinstance(outcome, JobError):
                return _by_themselves(scans[answered:], f"it broke off ({outcome.message})")
            answered += 1
            scan.followed = True
            self._finish([((scan, 0), outcome)])
        return []

    def _run(self, segmenter: RunSegmenter, scan: _Scan) -> Outcome:
        """A whole run as video, with the model's memory from frame to frame."""

        def frames() -> Iterator[Frame]:
            for index in range(scan.item.frames):
                self._working_on((scan.item.job_id,))  # a sign of life: a long run is one message otherwise
                yield scan.frame(index)

        return self._whole([scan], segmenter.predict_run(frames()))[0]

    def _whole(self, scans: Sequence[_Scan], found: Iterator[Prediction]) -> list[Outcome]:
        """All frames of a scan, one after the other; of several scans, each gets what is found."""
        began = batching.clock()
        self._meter.before()
        failure: Exception | None = None
        first = scans[0]
        try:
            for index, prediction in enumerate(found):
                batching.check([first.frame(index)], [prediction])
                for scan in scans:
                    _store(scan, index, prediction)
            for scan in scans:
                scan.close()
            if first.done != first.item.frames:
                raise TransientError(f"The model answered {first.done} of the run's {first.item.frames} frames.")  # noqa: TRY301
        except Exception as error:
            if batching.is_sticky(error):
                raise
            failure = error.with_traceback(None)
        if failure is not None:  # outside the except block: nothing holds the tensors of the failed frame any more
            failure.__context__ = failure.__cause__ = None
            return self._failed(scans, failure)
        for scan in scans:
            scan.inference_ms = (batching.clock() - began) * 1000 / len(scans)
            scan.batch_size = 1
            scan.devices = {use.device: use for use in self._meter.after()}
            scan.host_peak_rss_mib = self._meter.host_peak_rss_mib()
        return [_answer(scan) for scan in scans]

    def _failed(self, scans: Sequence[_Scan], failure: Exception) -> list[Outcome]:
        for scan in scans:
            scan.discard()
        reason = batching.as_job_error(failure, self._meter.after(), self._meter.host_peak_rss_mib())
        give_back_memory()
        if isinstance(self._segmenter, VolumeSegmenter) and not isinstance(failure, JobError):
            self.worn = reason.message
        return [NotSegmented.of(scan.item.job_id, reason) for scan in scans]


def _by_themselves(scans: list[_Scan], why: str) -> list[_Scan]:
    """The frames of a run that cannot be followed, with the reason for their records."""
    for scan in scans:
        scan.besides = f"segmented by itself, apart from its run: {why}"
    return scans


def _next(predictions: Iterator[Prediction], scan: _Scan, meter: Meter) -> FrameOutcome | JobError:
    """The model's answer for a run's next frame, or why there is none."""
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


def _take(scan: _Scan, index: int, outcome: FrameOutcome) -> Outcome | None:
    """Put one frame's outcome into its scan; returns the scan's own outcome if this was its last frame."""
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
    except Exception as error:  # it fails this scan only, and the replica goes on
        scan.answered = True
        scan.discard()
        return NotSegmented.of(scan.item.job_id, error)
    return _answer(scan)


def _larger(before: DeviceUse | None, use: DeviceUse) -> DeviceUse:
    """Of a device's figures for two batches, those with the higher peak."""
    if before is None or (use.vram_peak_allocated_mib or 0) >= (before.vram_peak_allocated_mib or 0):
        return use
    return before


def _store(scan: _Scan, index: int, prediction: Prediction) -> None:
    """Write one frame's mask (and probability, when asked for) into the scan's files."""
    options = scan.item.options
    height, width = scan.pixels.shape[1:3]
    scan.decode, scan.note = prediction.decode, prediction.note
    if len(prediction.labels) >= len(scan.labels):  # where instances are told apart, a frame may have fewer
        scan.labels = prediction.labels
    label, probability = prediction.label_values(options.threshold), prediction.probability
    if scan.answer is None or (label is not None and scan.emptied == scan.done):
        scan.answer = prediction.answer  # the first, or that of the first frame with a mask
    if label is None:
        if options.no_mask != "empty":
            raise NoMaskError(
                f"The model gave no mask. It answered: {prediction.answer!r}",
                answer=prediction.answer,
                hint='Where that is to be expected, set no_mask = "empty" in the profile.',
            )
        scan.emptied += 1
        label = np.zeros((height, width), np.uint8)
        probability = np.zeros((height, width), np.float32)
    scan.classes = max(scan.classes, len(prediction.labels), _maps(probability))
    _files(scan, height, width)
    assert scan.mask is not None
    scan.mask.write(index, label)
    if scan.probability is not None:
        assert probability is not None
        strongest = probability.max(axis=0) if probability.ndim == 3 else probability
        scan.probability.write(index, np.round(strongest * 65535).astype(np.uint16))
    scan.done += 1


def _maps(probability: NDArray[np.float32] | None) -> int:
    """How many classes have probabilities."""
    return len(probability) if probability is not None and probability.ndim == 3 else 0


def _files(scan: _Scan, height: int, width: int) -> None:
    if scan.mask is not None:
        return
    shape = (scan.item.frames, height, width)
    target = scan.item.target
    scan.mask = FrameWriter(target.with_name(target.name + "-mask.npy"), shape, np.uint8)
    if scan.item.options.asks_for_probability:
        scan.probability = FrameWriter(target.with_name(target.name + "-probability.npy"), shape, np.uint16)


def _emptied(scan: _Scan) -> str:
    """Words for the record about frames whose mask the model did not compute."""
    if not scan.emptied:
        return ""
    if scan.item.frames == 1:
        return 'the model gave no mask; an empty one was asked for by no_mask = "empty"'
    of = f"{scan.emptied} of {scan.item.frames} frames"
    return f'the model gave no mask for {of}; empty ones were asked for by no_mask = "empty"'


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
        note="; ".join(filter(None, (scan.besides, _emptied(scan), scan.note))) or None,
        inference_ms=round(scan.inference_ms, 3),
        batch_size=scan.batch_size,
        devices=tuple(scan.devices.values()),
        host_peak_rss_mib=scan.host_peak_rss_mib,
        followed=scan.followed,
    )
