"""A batch of scans: masks are written frame by frame, and a full run folder costs a scan, not the replica."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.unit.inference.fakes import Slow, Told, answers
from watcherd.formats.npy_frames import FrameFile
from watcherd.inference.base import Frame, Prediction
from watcherd.inference.messages import BatchEnded, NotSegmented, Outcome, Segmented, WorkItem
from watcherd.inference.replica.batching import Probe
from watcherd.inference.replica.vram import Meter
from watcherd.inference.replica.work import Said, Work
from watcherd.job import ErrorClass, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from watcherd.inference.base import Segmenter


class Follows(Told):
    """Also takes whole runs; answers no more than ``most`` frames of one."""

    most = 1000

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for _, frame in zip(range(self.most), frames, strict=False):
            yield from self.predict([frame])


def scan(folder: Path, job: int, frames: int = 3, outputs: tuple[str, ...] = ("mask", "probability")) -> WorkItem:
    """A scan whose frame n is bright (255) in its first n rows."""
    pixels = np.zeros((frames, 8, 6), np.uint8)
    for index in range(frames):
        pixels[index, :index] = 255
    decoded = folder / f"{job}.npy"
    np.save(decoded, pixels)
    return WorkItem(
        job_id=job, decoded=decoded, frames=frames, options=Options(outputs=outputs), target=folder / f"{job}"
    )


def work(segmenter: Segmenter, items: list[WorkItem]) -> list[Outcome]:
    return answers(segmenter, items, 2)


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.stem.partition("-")[2])


def full_after(calls: int) -> Callable[..., int]:
    """What os.pwrite does on a disk that has room for ``calls`` writes, the last of them only in part."""
    count = 0
    plain = os.pwrite

    def pwrite(descriptor: int, content: bytes | memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(descriptor, content if count < calls else content[:1], offset)

    return pwrite


@pytest.mark.parametrize("segmenter", [Told(), Follows()])
def test_each_frames_mask_and_probability_stand_at_its_place(tmp_path: Path, segmenter: Told) -> None:
    [answer] = work(segmenter, [scan(tmp_path, 1)])
    assert isinstance(answer, Segmented)
    assert answer.probability is not None
    assert [0, 6, 12] == [int(mask.sum()) for mask in FrameFile(answer.mask)]
    assert [0, 6 * 65535, 12 * 65535] == [int(values.sum()) for values in FrameFile(answer.probability)]
    assert (3, 8, 6) == np.load(answer.mask).shape == np.load(answer.probability).shape


@pytest.mark.parametrize("segmenter", [Told(), Follows()])
def test_a_full_run_folder_is_a_transient_error_of_the_scan_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: Told
) -> None:
    item = scan(tmp_path, 1)
    monkeypatch.setattr(os, "pwrite", full_after(4))
    [answer] = work(segmenter, [item])
    assert isinstance(answer, NotSegmented)
    assert ErrorClass.TRANSIENT is answer.error_class
    assert "No space left on device" in answer.error
    assert [] == written(tmp_path)


def test_every_scan_of_a_batch_is_answered_for_in_a_full_folder_and_the_next_batch_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [scan(tmp_path, job, frames=1, outputs=("mask",)) for job in (1, 2)]
    monkeypatch.setattr(os, "pwrite", full_after(2))
    answers = {answer.job_id: type(answer) for answer in work(Told(), items)}
    assert {1: NotSegmented, 2: NotSegmented} == answers
    monkeypatch.undo()
    assert [Segmented, Segmented] == [type(answer) for answer in work(Told(), items)]


def test_a_run_that_is_not_answered_whole_gives_no_mask(tmp_path: Path) -> None:
    segmenter = Follows()
    segmenter.most = 2
    [answer] = work(segmenter, [scan(tmp_path, 1)])
    assert isinstance(answer, NotSegmented)
    assert "2 of the run's 3 frames" in answer.error
    assert [] == written(tmp_path)


def single(folder: Path, job: int) -> WorkItem:
    """A scan of one frame of the value ``job``."""
    decoded = folder / f"{job}.npy"
    np.save(decoded, np.full((1, 8, 6), job, np.uint8))
    return WorkItem(job_id=job, decoded=decoded, frames=1, options=Options(), target=folder / f"{job}")


class Finds(Told):
    """Finds as many instances as a frame has bright rows, up to two; nothing in a dark one."""

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        found = []
        for frame in frames:
            rows = min(2, int((frame.pixels > 0).any(axis=1).sum()))
            mask = np.minimum(frame.pixels, rows) if rows else None
            labels = tuple(f"vein {number}" for number in range(1, rows + 1))
            found.append(Prediction(probability=None, mask=mask, labels=labels, answer=f"{rows} found"))
        return found


def test_a_run_keeps_all_names_and_counts_the_frames_without_a_mask(tmp_path: Path) -> None:
    """Its last frame may show fewer instances than others, and its first ones none yet."""
    item = scan(tmp_path, 1, 4, outputs=("mask",))
    pixels = np.load(item.decoded)[[0, 1, 3, 1]]
    np.save(item.decoded, pixels)
    (told,) = work(Finds(), [replace(item, options=replace(item.options, no_mask="empty"))])
    assert isinstance(told, Segmented)
    assert (told.labels, told.classes, told.answer) == (("vein 1", "vein 2"), 2, "1 found")
    assert told.note == 'the model gave no mask for 1 of 4 frames; empty ones were asked for by no_mask = "empty"'
    (refused,) = work(Finds(), [item])
    assert isinstance(refused, NotSegmented)
    assert (refused.error_class, refused.answer) == (ErrorClass.NO_MASK, "0 found")


class Desk:
    """A replica's work, and what it has said so far: jobs, and ``end`` for a list that has ended."""

    def __init__(self, segmenter: Segmenter, size: int = 2) -> None:
        self.said: list[int | str] = []
        self.shown: list[tuple[int, ...]] = []
        self.work = Work(segmenter, Probe(batch_size=size), Meter(("cpu",)), self._hear, self.shown.append)

    def _hear(self, told: Sequence[Said]) -> None:
        for each in told:
            if isinstance(each, BatchEnded):
                self.said.append("end")
            else:
                self.said.append(each.job_id if isinstance(each, Segmented) else -each.job_id)


def test_a_batch_computes_while_the_next_is_begun_and_the_last_is_finished(tmp_path: Path) -> None:
    """Also from one list to the next: the devices never wait for a mask to be written."""
    segmenter = Slow()
    desk = Desk(segmenter)
    desk.work.take([single(tmp_path, job) for job in (1, 2, 3, 4)])
    assert ["begin 1", "begin 3", "end 1"] == segmenter.log
    assert [1, 2] == desk.said
    desk.work.take([single(tmp_path, job) for job in (5, 6)])
    assert ["begin 5", "end 3"] == segmenter.log[3:]
    assert [1, 2, 3, 4, "end"] == desk.said
    desk.work.rest()
    assert [1, 2, 3, 4, "end", 5, 6, "end"] == desk.said


def test_the_jobs_at_hand_are_those_begun_and_not_answered(tmp_path: Path) -> None:
    """They are the suspects when the process dies."""
    desk = Desk(Slow())
    desk.work.take([single(tmp_path, job) for job in (1, 2)])
    desk.work.take([single(tmp_path, job) for job in (3, 4)])
    assert [(1, 2), (1, 2, 3, 4)] == desk.shown


def test_a_batch_that_fails_on_the_devices_costs_its_bad_scan_only(tmp_path: Path) -> None:
    def before(frames: Sequence[Frame]) -> None:
        if any(frame.pixels.max() == 2 for frame in frames):
            raise ValueError("bad")

    desk = Desk(Slow(before))
    desk.work.take([single(tmp_path, job) for job in (1, 2, 3, 4)])
    desk.work.rest()
    assert [1, -2, 3, 4, "end"] == desk.said


def test_what_nobody_foresaw_fails_all_that_was_taken_and_nothing_that_comes_after(tmp_path: Path) -> None:
    desk = Desk(Slow())
    desk.work.take([single(tmp_path, job) for job in (1, 2)])
    missing = single(tmp_path, 3)
    missing.decoded.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        desk.work.take([missing])
    desk.work.give_up(caught.value)
    assert [-1, -2, -3, "end", "end"] == desk.said
    desk.work.take([single(tmp_path, 4)])
    desk.work.rest()
    assert [4, "end"] == desk.said[5:]


def test_a_mask_is_the_models_own_or_cut_from_its_probabilities() -> None:
    one = np.array([[0.2, 0.5, 0.7]], np.float32)
    two = np.array([[[0.2, 0.5, 0.3]], [[0.1, 0.4, 0.9]]], np.float32)
    own = np.array([[0, 2, 1]], np.uint8)
    for prediction, expected in (
        (Prediction(probability=one), [[0, 0, 1]]),
        (Prediction(probability=two), [[0, 0, 2]]),
        (Prediction(probability=one, mask=own), own.tolist()),
        (Prediction(probability=None, mask=own), own.tolist()),
    ):
        labels = prediction.label_values(0.5)
        assert labels is not None
        assert (labels.dtype, labels.tolist()) == (np.uint8, expected)
    assert Prediction(probability=None).label_values(0.5) is None
