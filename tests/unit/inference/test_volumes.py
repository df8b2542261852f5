"""Volumes in a replica: given in the order of the file, answered on its voxels, written as frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.unit.inference.fakes import answers
from watcherd.formats.npy_frames import FrameFile
from watcherd.formats.volumes import Grid, Turn, VolumeFile
from watcherd.inference.base import Volume, VolumePrediction
from watcherd.inference.fake import VolumeFake
from watcherd.inference.messages import BatchEnded, NotSegmented, Segmented, WorkItem, Worn
from watcherd.inference.probing import Probe
from watcherd.inference.replica.vram import Meter
from watcherd.inference.replica.work import Work
from watcherd.job import ErrorClass, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

IDENTITY = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
GRID = Grid(spacing_mm=(2.5, 0.8, 0.7), affine=IDENTITY)
TURN = Turn(swap=True, down=True, across=False)
SHAPE = (3, 4, 5)


class Marks(VolumeFake):
    """Its mask is 1 where the first channel is above 10; it remembers what it was given."""

    def __init__(self, channels: int = 1, whole: bool = True) -> None:
        super().__init__({"volumes": channels})
        self.whole = whole
        self.given: list[Volume] = []
        self.fail: Exception | None = None

    def takes_whole(self, volume: Volume) -> bool:
        return self.whole

    def predict_volume(self, volume: Volume, mark: Any) -> VolumePrediction:
        self.given.append(volume)
        mark("computing", 0.5)
        if self.fail is not None:
            raise self.fail
        mask = (volume.channels[0] > 10).astype(np.uint8)
        return VolumePrediction(mask=mask, probability=mask.astype(np.float32), labels=("above",), note="seen")


def numbers(shape: tuple[int, ...] = SHAPE) -> NDArray[np.int16]:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape) - 20


def scan(
    folder: Path, job: int, *, shape: tuple[int, ...] = SHAPE, channel: int | None = None, **volume: Any
) -> WorkItem:
    """A scan as the imaging workers leave it: 8-bit frames, and its own numbers."""
    np.save(folder / f"{job}.npy", np.zeros(shape[:3], np.uint8))
    np.save(folder / f"{job}-volume.npy", numbers(shape))
    file = VolumeFile(path=folder / f"{job}-volume.npy", format="NIFTI", **{"turn": TURN, "grid": GRID} | volume)
    return WorkItem(
        job_id=job,
        decoded=folder / f"{job}.npy",
        frames=shape[0],
        options=Options(outputs=("mask", "probability")),
        target=folder / str(job),
        volume=file,
        run="case" if channel is not None else "",
        channel=channel,
    )


def test_a_volume_is_given_in_the_order_of_the_file_and_its_mask_comes_back_as_frames(tmp_path: Path) -> None:
    segmenter = Marks()
    item = scan(tmp_path, 1)
    [answer] = answers(segmenter, [item])
    assert isinstance(answer, Segmented)
    assert np.array_equal(numbers() > 10, np.stack(list(FrameFile(answer.mask))) == 1)
    assert answer.probability is not None
    assert np.array_equal(numbers() > 10, np.stack(list(FrameFile(answer.probability))) == 65535)
    assert (("above",), "seen") == (answer.labels, answer.note)
    [volume] = segmenter.given
    assert (2.5, 0.8, 0.7) == volume.spacing_mm
    assert item.volume is not None
    assert np.array_equal(item.volume.stored(), volume.channels[0])
    assert np.array_equal(np.eye(4), volume.affine if volume.affine is not None else ())
    assert not volume.channels[0].flags.writeable


def test_slices_of_no_volume_come_one_by_one(tmp_path: Path) -> None:
    """As planes without neighbours, each by itself; the job is named again for each, as a sign of life."""
    segmenter = Marks(whole=False)
    alive: list[tuple[int, ...]] = []
    [answer] = answers(segmenter, [scan(tmp_path, 1)], working_on=alive.append)
    assert isinstance(answer, Segmented)
    assert np.array_equal(numbers() > 10, np.stack(list(FrameFile(answer.mask))) == 1)
    assert [(1, 4, 5)] * 3 == [volume.shape for volume in segmenter.given]
    assert {(None, 0.8, 0.7)} == {volume.spacing_mm for volume in segmenter.given}
    assert [(1,)] * 4 == alive


def test_colours_are_three_channels(tmp_path: Path) -> None:
    segmenter = Marks(channels=1)
    answers(segmenter, [scan(tmp_path, 1, shape=(1, 4, 5, 3), turn=Turn(), grid=None)])
    [volume] = segmenter.given
    assert 3 == len(volume.channels)
    assert np.array_equal(numbers((1, 4, 5, 3))[..., 2], volume.channels[2])
    assert volume.spacing_mm is None


def test_the_channels_of_a_case_get_the_mask_of_the_case(tmp_path: Path) -> None:
    """It is computed once."""
    segmenter = Marks(channels=2)
    found = answers(segmenter, [scan(tmp_path, 1, channel=0), scan(tmp_path, 2, channel=1)])
    assert [1, 2] == [answer.job_id for answer in found]
    masks = [np.stack(list(FrameFile(answer.mask))) for answer in found if isinstance(answer, Segmented)]
    assert 2 == len(masks)
    assert np.array_equal(masks[0], masks[1])
    [volume] = segmenter.given
    assert 2 == len(volume.channels)


@pytest.mark.parametrize(
    ("second", "said", "kind"),
    [
        (None, "of its 2 channels, 0001 is missing", ErrorClass.TRANSIENT),
        ({"channel": 3}, "this is channel 0003", ErrorClass.INPUT),
        ({"channel": 1, "shape": (3, 4, 6)}, "different sizes", ErrorClass.INPUT),
        ({"channel": 1, "grid": replace(GRID, spacing_mm=(2.5, 0.8, 0.8))}, "lies elsewhere", ErrorClass.INPUT),
        ({"channel": 1, "grid": Grid(spacing_mm=(2.5, 0.8, 0.7))}, "lies elsewhere", ErrorClass.INPUT),
        ({"channel": 1, "turn": Turn()}, "lies elsewhere", ErrorClass.INPUT),
    ],
)
def test_channels_that_do_not_fit_are_refused(
    tmp_path: Path, second: dict[str, Any] | None, said: str, kind: ErrorClass
) -> None:
    segmenter = Marks(channels=2)
    items = [scan(tmp_path, 1, channel=0), *([scan(tmp_path, 2, **second)] if second else [])]
    for answer in answers(segmenter, items):
        assert isinstance(answer, NotSegmented)
        assert said in answer.error
        assert kind is answer.error_class
    assert [] == segmenter.given


def test_a_file_whose_name_says_no_channel_is_refused(tmp_path: Path) -> None:
    [answer] = answers(Marks(channels=2), [scan(tmp_path, 1)])
    assert isinstance(answer, NotSegmented)
    assert "does not say which of them it is" in answer.error
    assert "case_0001.nii.gz" in answer.hint


def test_a_scan_that_was_decoded_for_frames_is_tried_again(tmp_path: Path) -> None:
    [answer] = answers(Marks(), [replace(scan(tmp_path, 1), volume=None)])
    assert isinstance(answer, NotSegmented)
    assert ErrorClass.TRANSIENT is answer.error_class


@pytest.mark.parametrize(
    "wrong",
    [lambda mask: mask[:-1], lambda mask: mask.astype(np.int32)],
)
def test_a_broken_answer_gives_no_mask(tmp_path: Path, wrong: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    class Wrong(Marks):
        def predict_volume(self, volume: Volume, mark: Any) -> VolumePrediction:
            return VolumePrediction(mask=wrong(super().predict_volume(volume, mark).mask))

    [answer] = answers(Wrong(), [scan(tmp_path, 1)])
    assert isinstance(answer, NotSegmented)
    assert "The segmenter gave a mask" in answer.error
    assert [] == list(tmp_path.glob("*-mask.npy"))


def test_an_error_that_is_not_ours_ends_the_process_behind_its_scan(tmp_path: Path) -> None:
    """What comes after is not computed here, nor answered for; an error of ours costs its scan alone."""
    told: list[Any] = []
    segmenter = Marks()
    segmenter.fail = ValueError("inside")
    work = Work(segmenter, Probe(batch_size=1), Meter(("cpu",)), told.extend, lambda _: None)
    work.take([scan(tmp_path, 1), scan(tmp_path, 2)])
    assert [1] == [answer.job_id for answer in told if isinstance(answer, NotSegmented)]
    assert not any(isinstance(each, BatchEnded) for each in told)
    assert "inside" in work.worn
    assert Worn(error=work.worn) == told[-1]
    assert 1 == len(segmenter.given)


def test_the_last_scan_of_a_list_does_not_end_it_when_the_process_does(tmp_path: Path) -> None:
    """The next list would be sent to a process that is about to go, and its first scan would be called a crash."""
    told: list[Any] = []
    segmenter = Marks()
    segmenter.fail = ValueError("inside")
    Work(segmenter, Probe(batch_size=1), Meter(("cpu",)), told.extend, lambda _: None).take([scan(tmp_path, 1)])
    assert [NotSegmented, Worn] == [type(each) for each in told]


def test_an_error_of_ours_leaves_the_process_as_it_is(tmp_path: Path) -> None:
    refused = [replace(scan(tmp_path, 1), volume=None), scan(tmp_path, 2)]
    told: list[Any] = []
    work = Work(Marks(), Probe(batch_size=1), Meter(("cpu",)), told.extend, lambda _: None)
    work.take(refused)
    assert "" == work.worn
    assert isinstance(told[1], Segmented)
