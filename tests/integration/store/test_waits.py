"""Waits are as long as they were when the wall clock is set, and never longer than anything is made to wait."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import NOW, claim_one, enqueue, failure, later, later_decision, scan
from watcherd.service.clock import move_all
from watcherd.store import queue, stamp, waits
from watcherd.wall_clock import Step

if TYPE_CHECKING:
    from sqlalchemy import Connection

LONGEST = timedelta(minutes=12)


def retried(connection: Connection, run_id: int, *, seconds: float) -> None:
    """A job that waits for another try, and one that waits for nothing."""
    enqueue(connection, run_id, scan("a.png"))
    queue.retry_later(connection, claim_one(connection, run_id), failure(), later_decision(seconds), now=NOW)
    enqueue(connection, run_id, scan("b.png"))


def step(seconds: float, *, at: timedelta = timedelta(seconds=1)) -> Step:
    """The clock was set by so many seconds at this time after NOW, and that was seen at once."""
    return Step(seconds=seconds, before=(NOW + at).timestamp() + seconds)


def times(connection: Connection) -> list[str | None]:
    return list(connection.exec_driver_sql("SELECT not_before FROM job ORDER BY id").scalars())


def test_a_try_in_30_seconds_is_in_30_seconds_when_the_clock_was_set_back_a_day(
    connection: Connection, run_id: int
) -> None:
    """Forward too: it does not come at once."""
    retried(connection, run_id, seconds=30)
    move_all(connection, [step(-86_400.0)], later(seconds=2 - 86_400))
    assert [stamp(later(seconds=30) - timedelta(days=1)), None] == times(connection)
    move_all(connection, [step(90_000.5, at=timedelta(days=-1))], later(seconds=3602.5))
    assert [stamp(later(seconds=3630.5)), None] == times(connection)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_try_that_was_written_down_after_the_clock_was_set_is_not_set_again(
    connection: Connection, run_id: int, days: int
) -> None:
    """Set a second before it, seen a second after it: it would come at once, or a day later."""
    retried(connection, run_id, seconds=30)
    set_before = Step(seconds=86_400.0 * days, before=later(seconds=-1).timestamp())
    move_all(connection, [set_before], later(seconds=1))
    assert [stamp(later(seconds=30)), None] == times(connection)


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_try_that_was_written_down_between_two_steps_is_set_by_the_second(
    connection: Connection, run_id: int, seconds: float
) -> None:
    """The disk had refused to set them after the first."""
    retried(connection, run_id, seconds=30)
    first, second = Step(seconds=86_400.0, before=later(seconds=-1).timestamp()), step(seconds)
    move_all(connection, [first, second], later(seconds=seconds + 2))
    assert [stamp(later(seconds=seconds + 30)), None] == times(connection)


def test_nothing_waits_for_longer_than_anything_is_made_to(connection: Connection, run_id: int) -> None:
    """The clock was a day ahead when it was written down, and set before this start."""
    retried(connection, run_id, seconds=86_400)
    assert 1 == waits.bound(connection, now=NOW, longest=LONGEST)
    assert [stamp(NOW + LONGEST), None] == times(connection)
    assert 0 == waits.bound(connection, now=NOW, longest=LONGEST)


def test_calls_of_hooks_are_set_and_bounded_too(connection: Connection, run_id: int) -> None:
    """They are written down in the same way."""
    connection.exec_driver_sql("INSERT INTO hook_wish (event, target) VALUES ('failed', 'url')")
    enqueue(connection, run_id, scan("a.png"))
    connection.exec_driver_sql("UPDATE hook SET not_before = not_before")
    job = claim_one(connection, run_id)
    queue.give_up(connection, job, failure(), later_decision().__class__(state=queue.State.FAILED, why="bad"), now=NOW)
    move_all(connection, [step(86_400.0)], later(seconds=86_402))
    (at,) = connection.exec_driver_sql("SELECT not_before FROM hook").scalars()
    assert stamp(NOW + timedelta(days=1)) == at
    waits.bound(connection, now=NOW, longest=LONGEST)
    assert [stamp(NOW + LONGEST)] == list(connection.exec_driver_sql("SELECT not_before FROM hook").scalars())
