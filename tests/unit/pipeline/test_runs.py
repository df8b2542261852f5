"""What frames of a run are told about their place, and how long a run is waited for."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

from watcherd.flights import Flight
from watcherd.frame_files import as_frame, quiet_time
from watcherd.job import Options
from watcherd.pipeline.runs import arrange
from watcherd.store import RunPlace

RUNS = Options(group_frames=True)


def flight(
    number: int | None,
    *,
    size: tuple[int, int] = (8, 8),
    pages: int = 1,
    apart: bool = False,
    late: bool = False,
    solo: bool = False,
    tries: int = 1,
) -> Flight:
    """A decoded scan; ``number``: of a frame, None for a scan of no run."""
    run = None if number is None else RunPlace(name="a_f#.png", frame=number, apart=apart, late=late)
    job = cast("Any", SimpleNamespace(run=run, solo=solo, tries=tries))
    decoded = cast("Any", SimpleNamespace(width=size[0], height=size[1], frames=pages))
    return Flight(job, decoded=decoded)


def note_of(*flights: Flight) -> str:
    """What is noted of the first by number."""
    return arrange(flights)[0].note


def test_frames_go_in_the_order_of_their_numbers() -> None:
    found = arrange([flight(10), flight(2), flight(9)])
    places = [place for each in found if (place := each.place)]
    assert [(2, 1, 3), (9, 2, 3), (10, 3, 3)] == [(place.frame, place.position, place.frames) for place in places]
    assert {"a_f#.png"} == {each.together for each in found}
    assert "frame 1 of 3 of a run, followed together" == found[0].note


def test_scans_of_no_run_keep_their_order_and_are_told_nothing() -> None:
    scans = [flight(None), flight(None, size=(9, 9))]
    assert scans == arrange(scans)
    assert [(None, "", "")] * 2 == [(each.place, each.together, each.note) for each in scans]


def test_a_frame_that_is_all_there_is_of_its_run_is_a_picture() -> None:
    lone = flight(3)
    assert "" == note_of(lone)
    assert "" == lone.together


def test_why_a_frame_is_apart_from_its_run() -> None:
    """The weightiest reason is said: it must run alone, it is tried again, it came late, or only part was claimed."""
    assert "it came after its run was segmented" in note_of(flight(3, apart=True, late=True))
    assert "tried again" in note_of(flight(3, apart=True, late=True, tries=2))
    assert "run alone" in note_of(flight(3, apart=True, tries=2, solo=True))
    assert "other frames of its run" in note_of(flight(3, apart=True))
    assert "segmented by itself" in note_of(flight(3, apart=True))
    assert "followed together; it came after" in note_of(*(flight(n, apart=True, late=True) for n in (1, 2)))


def test_frames_that_make_no_video_are_segmented_one_by_one() -> None:
    """Two sizes, or a file that is a run itself."""
    assert "different sizes (8 x 8, 9 x 8)" in note_of(flight(1), flight(2), flight(3, size=(9, 8)))
    pages = [flight(1), flight(2, pages=4)]
    assert "several frames itself" in note_of(*pages)
    assert ["", ""] == [each.together for each in pages]


def test_only_frames_of_folders_that_want_runs_are_frames() -> None:
    assert "x/a_f1.png" == as_frame(RUNS, b"x/a_f1.png").frame
    assert RUNS == as_frame(RUNS, b"x/a1.png")
    assert Options() == as_frame(Options(), b"x/a_f1.png")


def test_where_no_event_tells_of_new_files_a_sweep_is_waited_for_besides() -> None:
    assert timedelta(seconds=10) == quiet_time(10, sweep_seconds=60, told=True)
    assert timedelta(seconds=70) == quiet_time(10, sweep_seconds=60, told=False)
