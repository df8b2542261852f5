"""Single files of one run in a replica: followed as video, each with its own answer, and none lost for another."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.unit.inference.fakes import Told, answers
from watcherd.errors import InputError
from watcherd.inference.base import Frame, Prediction, RunSegmenter
from watcherd.inference.fake import FollowingFake, marked
from watcherd.inference.messages import NotSegmented, Segmented, WorkItem
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter
    from watcherd.inference.messages import Outcome

RNG = np.random.default_rng(5)


def save(folder: Path, job: int, pixels: NDArray[np.uint8], *, run: str = "a_#.png", note: str = "") -> WorkItem:
    """A decoded scan; ``pixels`` (height, width) or (frames, height, width)."""
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    np.save(folder / f"{job}.npy", pixels)
    return WorkItem(
        job_id=job,
        decoded=folder / f"{job}.npy",
        frames=len(pixels),
        options=Options(outputs=("mask", "probability")),
        target=folder / str(job),
        run=run,
        note=note,
    )


def pictures(count: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (count, 8, 12), dtype=np.uint8)


def work(
    segmenter: Segmenter, items: list[WorkItem], marks: Callable[[tuple[int, ...]], None] = lambda jobs: None
) -> list[Outcome]:
    """The outcomes in the order in which they come."""
    return answers(segmenter, items, 4, marks)


def masks(outcomes: Iterable[Outcome], folder: Path) -> NDArray[np.uint16]:
    """The probabilities that were written, by job."""
    assert all(isinstance(outcome, Segmented) for outcome in outcomes)
    jobs = sorted(outcome.job_id for outcome in outcomes)
    return np.concatenate([np.load(folder / f"{job}-probability.npy") for job in jobs])


class Ahead(FollowingFake):
    """Reads four frames before it answers the first of them, and as many each time, as Sa2VA does."""

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        rest = iter(frames)
        while window := [frame for _, frame in zip(range(4), rest, strict=False)]:
            yield from super().predict_run(window)


def test_single_files_get_what_the_frames_of_one_scan_get(tmp_path: Path) -> None:
    """Bit for bit; each file is answered for by itself, in order, and says that it was followed."""
    frames = pictures(9)
    singles = work(FollowingFake({}), [save(tmp_path, number, frame) for number, frame in enumerate(frames)])
    one = work(FollowingFake({}), [save(tmp_path, 99, frames, run="")])
    assert [*range(9)] == [outcome.job_id for outcome in singles]
    assert np.array_equal(masks(one, tmp_path), masks(singles, tmp_path))
    assert [True] * 9 == [outcome.followed for outcome in singles if isinstance(outcome, Segmented)]
    assert [f"frame {place}" for place in range(1, 10)] == [
        outcome.answer for outcome in singles if isinstance(outcome, Segmented)
    ]


def test_neighbours_of_other_runs_and_scans_of_none_are_apart(tmp_path: Path) -> None:
    """A lone frame is a picture like any other."""
    frames = pictures(6)
    runs = ["a", "a", "b", "b", "c", ""]
    found = work(FollowingFake({}), [save(tmp_path, job, frames[job], run=run) for job, run in enumerate(runs)])
    answers = {each.job_id: (each.answer, each.followed) for each in found if isinstance(each, Segmented)}
    first, second, alone = ("frame 1", True), ("frame 2", True), (None, False)
    assert {0: first, 1: second, 2: first, 3: second, 4: alone, 5: alone} == answers


def test_the_others_go_on_when_the_run_breaks_off(tmp_path: Path) -> None:
    """What came before keeps its masks; what comes after is segmented frame by frame, and says why."""
    frames = pictures(6)
    frames[3] = marked(frames[3], "input")
    found = {
        each.job_id: each for each in work(FollowingFake({}), [save(tmp_path, n, f) for n, f in enumerate(frames)])
    }
    bad = found.pop(3)
    assert isinstance(bad, NotSegmented)
    assert "refuses this frame" in bad.error
    assert {0: True, 1: True, 2: True, 4: False, 5: False} == {
        job: each.followed for job, each in found.items() if isinstance(each, Segmented)
    }
    assert "broke off (The fake segmenter refuses this frame" in str(getattr(found[4], "note", ""))
    assert getattr(found[2], "note", "") is None


def test_a_frame_without_a_mask_is_the_only_one_that_fails(tmp_path: Path) -> None:
    frames = pictures(4)
    frames[1] = marked(frames[1], "no-mask")
    found = work(FollowingFake({}), [save(tmp_path, number, frame) for number, frame in enumerate(frames)])
    assert [True, False, True, True] == [isinstance(each, Segmented) for each in found]


def test_a_run_that_ends_too_early_leaves_no_frame_without_an_answer(tmp_path: Path) -> None:
    class Short(FollowingFake):
        def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
            for _, prediction in zip(range(2), super().predict_run(frames), strict=False):
                yield prediction

    found = work(Short({}), [save(tmp_path, number, frame) for number, frame in enumerate(pictures(4))])
    assert [True, True, False, False] == [each.followed for each in found if isinstance(each, Segmented)]


def test_only_frames_under_way_are_under_suspicion(tmp_path: Path) -> None:
    """Those that the model has been given and has not answered: the window, never the whole run."""
    told: list[tuple[int, ...]] = []
    work(Ahead({}), [save(tmp_path, number, frame) for number, frame in enumerate(pictures(6))], told.append)
    assert [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (4,), (4, 5)] == told


def test_a_scan_of_many_frames_shows_a_sign_of_life_with_each(tmp_path: Path) -> None:
    """Or a long run would be taken for one that hangs."""
    told: list[tuple[int, ...]] = []
    work(FollowingFake({}), [save(tmp_path, 7, pictures(5), run="")], told.append)
    assert [(7,)] * 5 == told


def test_a_model_without_memory_segments_frames_one_by_one_and_says_so(tmp_path: Path) -> None:
    assert not isinstance(Told(), RunSegmenter)
    items = [save(tmp_path, number, frame, note="followed together") for number, frame in enumerate(pictures(2))]
    found = work(Told(), items)
    assert ["segmented by itself, apart from its run: this model follows no runs"] * 2 == [
        each.note for each in found if isinstance(each, Segmented)
    ]


def test_the_note_of_the_run_stands_before_the_models_own(tmp_path: Path) -> None:
    class Noting(FollowingFake):
        def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
            yield from (Prediction(probability=frame.pixels / np.float32(255), note="turned") for frame in frames)

    items = [save(tmp_path, number, frame, note=f"frame {number}") for number, frame in enumerate(pictures(2))]
    found = work(Noting({}), items)
    assert ["frame 0; turned", "frame 1; turned"] == [each.note for each in found if isinstance(each, Segmented)]


def test_a_run_of_more_files_than_may_be_open_is_followed(tmp_path: Path) -> None:
    """Files are opened as the model asks for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    items = [save(tmp_path, number, frame) for number, frame in enumerate(pictures(200))]
    open_now = len(
        list(Path("/proc/self/fd").iterdir())
    )  # tests that ran before in this process may have left some open
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 100, hard))
    try:
        found = work(FollowingFake({}), items)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert 200 == sum(isinstance(each, Segmented) for each in found)


def test_errors_that_poison_the_process_go_through(tmp_path: Path) -> None:
    """Nothing is tried again in it, even if that would seem to work."""
    frames = pictures(2)
    frames[1] = marked(frames[1], "sticky")
    with pytest.raises(RuntimeError, match="CUDA error"):
        work(
            FollowingFake({"once": str(tmp_path / "once")}),
            [save(tmp_path, number, frame) for number, frame in enumerate(frames)],
        )


def test_a_refused_frame_by_itself_is_bad_input() -> None:
    """What the fake does with such a frame outside of a run."""
    frame = Frame(pixels=marked(pictures(1)[0], "input"), options=Options())
    with pytest.raises(InputError):
        FollowingFake({}).predict([frame])
