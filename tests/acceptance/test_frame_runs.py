"""Single files of one run (``group_frames``), dropped one by one: followed as video, each with its own results."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service, broken, marked_png, png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FRAMES = 9
FIRST = "runs/Name(0)_1-3_frame_{:06}.png"
DROPPED = FRAMES + 1 + 4 + 2 + 4 + 2


def multi_page(numbers: range) -> bytes:
    """The same pictures as `png` makes, as one TIFF."""
    pages = [Image.open(io.BytesIO(png(number))) for number in numbers]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A run in shuffled order with pauses, the same as one TIFF; runs with a bad file, two sizes and a crash; then one
    more frame of the first run."""
    folder = tmp_path_factory.mktemp("runs")
    service = Service(
        folder,
        **{
            "inbox": {"run_quiet_seconds": 2.5},
            "model": {"segmenter": "fake"},
            "profiles.runs": {"folder": "runs", "group_frames": True},
        },
    )
    service.environment = {"WATCHERD_FAKE": json.dumps({"runs": True, "once": str(folder / "crashed")})}
    service.start()
    try:
        service.ready()
        order = list(range(FRAMES))
        random.Random(3).shuffle(order)
        for place, number in enumerate(order, 1):
            service.drop(FIRST.format(number), png(number))
            service.wait(lambda count=place: service.count_done() >= count, "the frame to be taken")  # type: ignore[misc]
        service.drop("runs/whole.tif", multi_page(range(FRAMES)))
        for number in range(4):
            service.drop(f"runs/bad-f{number}.png", broken(1) if number == 1 else png(20 + number))
            crashing = number == 2
            service.drop(f"runs/crash_f{number}.png", marked_png(40, "exit") if crashing else png(40 + number))
        for number in range(2):
            service.drop(f"runs/sizes_frame_{number}.png", png(30 + number, width=24 + number))
            service.drop(f"single_frame_{number}.png", png(50 + number))
        service.finished(DROPPED)
        service.drop(FIRST.format(FRAMES), png(60))
        service.finished(DROPPED + 1)
        yield service
    finally:
        service.end()


def record(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((service.outbox / "results" / name).with_suffix(".json").read_text())
    return found


def mask(service: Service, name: str) -> list[NDArray[np.uint8]]:
    with Image.open(service.outbox / "masks" / name) as image:
        return [np.array(page) for page in ImageSequence.Iterator(image)]


def test_each_file_has_the_mask_that_its_frame_has_in_one_scan(service: Service) -> None:
    """Bit for bit, although the files came in another order and one by one; by itself a frame would have another."""
    singles = [mask(service, FIRST.format(number))[0] for number in range(FRAMES)]
    whole = mask(service, "runs/whole.tif")
    assert FRAMES == len(whole)
    assert np.array_equal(np.stack(whole), np.stack(singles))
    last = np.asarray(Image.open(io.BytesIO(png(FRAMES - 1)))) <= 127
    assert not np.array_equal(last, whole[-1] > 0)


def test_each_record_says_which_run_and_where_in_it(service: Service) -> None:
    for number in range(FRAMES):
        found = record(service, FIRST.format(number))
        place = {"name": "runs/Name(0)_1-3_frame_#.png", "frame": number, "position": number + 1, "frames": FRAMES}
        assert {**place, "followed": True} == found["run"]
        assert f"frame {number + 1} of {FRAMES} of a run, followed together" == found["note"]
        assert (1, f"frame {number + 1}") == (found["attempts"], found["answer"])
    assert "run" not in record(service, "runs/whole.tif")


def test_a_late_frame_is_done_by_itself_and_says_so(service: Service) -> None:
    found = record(service, FIRST.format(FRAMES))
    assert "segmented by itself, apart from its run: it came after its run was segmented" == found["note"]
    assert found["run"]["followed"] is False
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(png(60)))) <= 127, mask(service, FIRST.format(FRAMES))[0] > 0
    )


def test_a_file_that_cannot_be_read_costs_the_others_nothing(service: Service) -> None:
    """The run goes on over the gap."""
    places = [record(service, f"runs/bad-f{number}.png")["run"] for number in (0, 2, 3)]
    assert [(0, 1, 3, True), (2, 2, 3, True), (3, 3, 3, True)] == [
        (place["frame"], place["position"], place["frames"], place["followed"]) for place in places
    ]
    assert (service.outbox / "failed/runs/bad-f1.txt").exists()


def test_frames_of_different_sizes_are_segmented_one_by_one(service: Service) -> None:
    for number in range(2):
        found = record(service, f"runs/sizes_frame_{number}.png")
        assert "its frames are of different sizes (24 x 16, 25 x 16)" in found["note"]
        assert found["run"]["followed"] is False


def test_after_a_crash_the_frame_under_way_runs_alone_and_the_rest_goes_on_as_a_run(service: Service) -> None:
    """The frames before it keep their masks, the one behind it was not begun; nobody loses a try."""
    found = [record(service, f"runs/crash_f{number}.png") for number in range(4)]
    assert [True, True, False, False] == [each["run"]["followed"] for each in found]
    assert "it has to run alone" in found[2]["note"]
    assert "other frames of its run were segmented apart from it" in found[3]["note"]
    assert [1, 1, 1, 1] == [each["attempts"] for each in found]


def test_outside_of_the_profile_such_names_mean_nothing(service: Service) -> None:
    assert "run" not in record(service, "single_frame_0.png")
    assert record(service, "single_frame_0.png")["note"] is None


def test_everything_adds_up(service: Service) -> None:
    assert 0 == service.stop()
    assert [] == check_invariants(service)
