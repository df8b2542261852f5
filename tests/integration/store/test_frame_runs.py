"""Frames of one run are claimed together: in order, when the run is complete, and nothing else with them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import (
    IN_USE,
    NOW,
    OPTIONS,
    claim,
    enqueue,
    failure,
    later,
    later_decision,
    scan,
    succeed,
)
from watcherd.job import ErrorClass, Options
from watcherd.store import queue, waits
from watcherd.store.frame_runs import Hold

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.store import ClaimedJob, NewArrival

QUIET = timedelta(seconds=10)
HOLD = Hold(quiet=QUIET, longest=30 * QUIET)


def frame(
    number: int | str, *, seen: datetime = NOW, content: int | None = None, mtime: int = 1, **options: object
) -> NewArrival:
    """A frame of the run ``a_frame_#.png``, held back as the intake does it."""
    name = number if isinstance(number, str) else f"a_frame_{number:04}.png"
    wanted = Options(group_frames=True, frame=name, **options)  # type: ignore[arg-type]
    arrival = scan(name, content, options=wanted, mtime=mtime)
    return replace(arrival, seen_at=seen, not_before=seen + QUIET)


def drop(connection: Connection, run_id: int, *frames: NewArrival) -> None:
    """Each in a transaction of its own, at the time at which it was seen."""
    for each in frames:
        enqueue(connection, run_id, each, now=each.seen_at)


def take(connection: Connection, run_id: int, seconds: float, limit: int = 8, hold: Hold = HOLD) -> list[ClaimedJob]:
    return queue.claim(connection, run_id=run_id, limit=limit, now=later(seconds=seconds), hold=hold, in_use=IN_USE)


def names(jobs: Sequence[ClaimedJob]) -> list[str]:
    return [job.source for job in jobs]


def numbers(jobs: Sequence[ClaimedJob]) -> list[int]:
    return [job.run.frame for job in jobs if job.run]


def apart(jobs: Sequence[ClaimedJob]) -> list[bool]:
    return [job.run.apart for job in jobs if job.run]


def test_a_run_is_claimed_together_in_the_order_of_its_numbers(connection: Connection, run_id: int) -> None:
    """Whatever the order of arrival and the limit; 10 comes behind 9, and other scans have claims of their own."""
    drop(connection, run_id, scan("first.png"), *(frame(number) for number in (10, 2, 9, 1)), scan("last.png"))
    assert ["first.png", "last.png"] == names(take(connection, run_id, 10))
    run = take(connection, run_id, 10, limit=1)
    assert [1, 2, 9, 10] == numbers(run)
    assert {"a_frame_#.png"} == {job.run.name for job in run if job.run}
    assert [False] * 4 == apart(run)
    assert [] == take(connection, run_id, 10)


def test_a_run_waits_until_no_frame_has_come_for_a_while(connection: Connection, run_id: int) -> None:
    """Each newcomer puts all of it off; what stands behind it in the queue does not wait, however small the limit."""
    drop(connection, run_id, frame(1), frame(2, seen=later(seconds=6)), frame(3, seen=later(seconds=12)))
    drop(connection, run_id, scan("other.png"))
    assert ["other.png"] == names(take(connection, run_id, 11, limit=1))
    assert [] == take(connection, run_id, 17)
    assert later(seconds=22) == queue.next_due(connection, now=NOW)
    assert [] == take(connection, run_id, 21.9)
    assert [1, 2, 3] == numbers(take(connection, run_id, 22))
    assert queue.next_due(connection, now=NOW) is None


def test_a_run_that_never_ends_is_claimed_piece_by_piece(connection: Connection, run_id: int) -> None:
    """Held back no longer than `Hold.longest`; the next piece knows that it is one."""
    drop(connection, run_id, *(frame(number, seen=later(seconds=9 * number)) for number in range(40)))
    first = take(connection, run_id, 300)
    rest = take(connection, run_id, 700)
    assert [[*range(34)], [*range(34, 40)]] == [numbers(first), numbers(rest)]
    assert {True} == {*apart(first), *apart(rest)}


def test_what_waited_while_no_daemon_ran_counts_from_its_start(connection: Connection, run_id: int) -> None:
    """The rest of a run that was being dropped when the service stopped is still waited for at the next start."""
    drop(connection, run_id, frame(1), frame(2, seen=later(hours=5, seconds=5)))
    restarted = Hold(quiet=QUIET, longest=30 * QUIET, since=later(hours=5))
    assert [] == take(connection, run_id, 5 * 3600 + 6, hold=restarted)
    assert [1, 2] == numbers(take(connection, run_id, 5 * 3600 + 15, hold=restarted))


def test_a_run_waits_for_files_that_are_on_their_way(connection: Connection, run_id: int) -> None:
    """Looked at again a second later; the question is asked with the beginning of the paths."""
    asked: list[bytes] = []
    hold = Hold(quiet=QUIET, longest=30 * QUIET, expected=lambda before: not asked.append(before))
    drop(connection, run_id, frame("x/a_frame_1.png"))
    assert [] == take(connection, run_id, 10, hold=hold)
    assert later(seconds=11) == queue.next_due(connection, now=NOW)
    assert [b"x/a_frame_"] == asked
    assert [1] == numbers(take(connection, run_id, 300, hold=hold))


@pytest.mark.parametrize("days", [-1, 1])
def test_a_run_waits_no_longer_and_no_shorter_when_the_clock_was_set(
    connection: Connection, run_id: int, days: int
) -> None:
    """For files on their way it waits as long as ever, counted from when its first frame was queued."""
    hold = Hold(quiet=QUIET, longest=30 * QUIET, expected=lambda _before: True)
    step = days * 86_400.0
    drop(connection, run_id, frame(1))
    waits.move(connection, step, right_since=later(seconds=step + 1), now=later(seconds=step + 1))
    assert [] == take(connection, run_id, step + 299, hold=hold)
    assert [1] == numbers(take(connection, run_id, step + 301, hold=hold))


def test_a_late_frame_is_apart(connection: Connection, run_id: int) -> None:
    """Its run was claimed before it came; a frame that had come in time and was given back is apart and not late."""
    drop(connection, run_id, frame(1), frame(2))
    for job in take(connection, run_id, 10):
        succeed(connection, job.claim, job.source)
    drop(connection, run_id, frame(3, seen=later(seconds=60)))
    late = take(connection, run_id, 70)
    assert ([3], [True], [True]) == (numbers(late), apart(late), [job.run.late for job in late if job.run])
    drop(connection, run_id, *(frame(f"b_frame_{number}.png") for number in (1, 2)))
    first, second = take(connection, run_id, 80)
    succeed(connection, first.claim, first.source)
    queue.release(connection, [second.claim], now=later(seconds=81))
    assert [(True, False)] == [(job.run.apart, job.run.late) for job in take(connection, run_id, 82) if job.run]


def test_frames_of_other_runs_are_not_taken_along(connection: Connection, run_id: int) -> None:
    """Another folder, name or kind of file, other options, a name that is no frame's: each has its own claim."""
    others = ["b/a_frame_0002.png", "a_frame_0002.jpg", "aa_frame_0002.png", "a_frame-0002.png"]
    drop(connection, run_id, frame(1), *(frame(name) for name in others), frame(2, threshold=0.3), frame(3))
    claims = [take(connection, run_id, 10) for _ in range(6)]
    assert [["a_frame_0001.png", "a_frame_0003.png"], *([name] for name in others), ["a_frame_0002.png"]] == [
        names(jobs) for jobs in claims
    ]


def test_equal_bytes_in_two_places_of_a_run_are_two_jobs(connection: Connection, run_id: int) -> None:
    """A mask depends on the frames around it; the same file dropped again is still the same job."""
    drop(connection, run_id, frame(1, content=7), frame(2, content=7), frame(1, content=7, mtime=2))
    assert [1, 2] == numbers(take(connection, run_id, 10))


def test_of_two_files_with_one_number_the_newer_is_the_frame(connection: Connection, run_id: int) -> None:
    """The file was overwritten before its turn came; the older bytes still get their result, by themselves."""
    drop(connection, run_id, frame(1, content=1), frame(2), frame(1, content=2, mtime=2))
    first, second = take(connection, run_id, 10), take(connection, run_id, 10)
    assert [3, 2] == [job.id for job in first]
    assert [1] == [job.id for job in second]
    assert [True] == apart(second)


def test_a_frame_that_has_to_run_alone_does(connection: Connection, run_id: int) -> None:
    """And the others of its run go on together without it, knowing that one is missing."""
    drop(connection, run_id, frame(1), frame(2), frame(3))
    jobs = take(connection, run_id, 10)
    queue.retry_later(
        connection, jobs[1].claim, failure(ErrorClass.CRASH), later_decision(10, solo=True), now=later(seconds=10)
    )
    queue.release(connection, [jobs[0].claim, jobs[2].claim], now=later(seconds=10))
    others, alone = take(connection, run_id, 20), take(connection, run_id, 20)
    assert ([2], [True]) == (numbers(alone), apart(alone))
    assert ([1, 3], [True, True]) == (numbers(others), apart(others))


def test_a_run_that_is_asked_for_again_is_a_run_again(connection: Connection, run_id: int) -> None:
    """After a retry of all its frames, with their files long gone from the inbox."""
    drop(connection, run_id, frame(2), frame(1))
    jobs = take(connection, run_id, 10)
    for job in jobs:
        succeed(connection, job.claim, job.source)
    queue.ask_again(connection, [job.id for job in jobs], now=later(seconds=60))
    again = take(connection, run_id, 60)
    assert ([1, 2], [False, False]) == (numbers(again), apart(again))


def test_a_claim_takes_no_more_frames_than_a_scan_may_have(connection: Connection, run_id: int) -> None:
    drop(connection, run_id, *(frame(number) for number in range(7)))
    hold = Hold(quiet=QUIET, longest=30 * QUIET, most=3)
    assert [[0, 1, 2], [3, 4, 5], [6]] == [numbers(take(connection, run_id, 10, hold=hold)) for _ in range(3)]


def test_names_of_any_bytes_make_runs(connection: Connection, run_id: int) -> None:
    """Not UTF-8, a backslash, a quote, wildcards of SQL."""
    before = b"M\xfcl'ler\\%_frame_"
    drop(connection, run_id, *(_raw(before + b"%d.png" % number) for number in (2, 1)))
    assert [1, 2] == numbers(take(connection, run_id, 10))


def _raw(path: bytes) -> NewArrival:
    return scan(path, options=Options(group_frames=True, frame=repr(path)))


def test_options_without_a_frame_are_written_as_ever() -> None:
    """So that scans that were done before are known again; those of a frame come back whole."""
    assert '"frame"' not in OPTIONS.to_json()
    framed = Options(group_frames=True, frame="a_frame_1.png")
    assert framed == Options.from_json(framed.to_json())


def test_without_runs_nothing_is_held(connection: Connection, run_id: int) -> None:
    drop(connection, run_id, scan("a.png"), scan("b.png"))
    assert ["a.png", "b.png"] == names(claim(connection, run_id, limit=8))


CASE = Hold(quiet=QUIET, longest=30 * QUIET, channels=2)


def channel(number: int, case: str = "a", *, seen: datetime = NOW) -> NewArrival:
    """A channel of a case, as the intake takes it."""
    name = f"{case}_{number:04}.nii.gz"
    arrival = scan(name, 100 * ord(case) + number, options=Options(frame=name))
    return replace(arrival, seen_at=seen, not_before=seen + QUIET)


def test_the_channels_of_a_case_are_claimed_together(connection: Connection, run_id: int) -> None:
    """In their order, a case at a time; one that is complete waits for nothing more."""
    drop(connection, run_id, channel(1), channel(1, "b"), channel(0), channel(0, "b", seen=later(seconds=9)))
    assert ["a_0000.nii.gz", "a_0001.nii.gz"] == names(take(connection, run_id, 10, hold=CASE))
    assert ["b_0000.nii.gz", "b_0001.nii.gz"] == names(take(connection, run_id, 10, hold=CASE))


def test_a_late_channel_takes_those_with_it_that_wait_for_another_try(connection: Connection, run_id: int) -> None:
    """Alone, or much later: none of them means anything without the others."""
    drop(connection, run_id, channel(0))
    [first] = take(connection, run_id, 10, hold=CASE)
    at = later(seconds=11)
    decision = later_decision(600, solo=True)
    queue.retry_later(connection, first.claim, failure(ErrorClass.TRANSIENT), decision, now=at)
    drop(connection, run_id, channel(1, seen=later(seconds=20)))
    assert ["a_0000.nii.gz", "a_0001.nii.gz"] == names(take(connection, run_id, 30, hold=CASE))


def test_a_case_that_has_to_run_alone_stays_whole(connection: Connection, run_id: int) -> None:
    drop(connection, run_id, channel(0), channel(1), scan("b.nii.gz", 7, options=OPTIONS))
    both = take(connection, run_id, 10, hold=CASE)
    if len(both) == 1:  # the other scan came first
        both = take(connection, run_id, 10, hold=CASE)
    for job in both:
        decision = later_decision(12, solo=True)
        queue.retry_later(connection, job.claim, failure(ErrorClass.CRASH), decision, now=later(seconds=11))
    assert ["a_0000.nii.gz", "a_0001.nii.gz"] == names(take(connection, run_id, 13, hold=CASE))
