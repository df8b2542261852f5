"""When the queue is looked at next, and what comes together at a station."""

from __future__ import annotations

import queue
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from watcherd.pipeline.belts import Due, come_together

if TYPE_CHECKING:
    import pytest


def test_the_first_of_several_is_due() -> None:
    due, now = Due(), datetime.now(UTC)
    assert due.seconds == float("inf")
    for minutes in (3, 1, 2):
        due.tell(now + timedelta(minutes=minutes))
    assert 50 < due.seconds <= 60


def test_what_is_to_come_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was due when the queue was looked at."""
    seconds = 0.0
    monkeypatch.setattr("watcherd.pipeline.belts.time.monotonic", lambda: seconds)
    due = Due()
    due.tell(datetime.now(UTC) + timedelta(minutes=1))
    due.forget_past()
    assert due.seconds <= 60
    seconds = 61.0
    due.forget_past()
    assert due.seconds == float("inf")


def test_what_came_meanwhile_comes_together() -> None:
    belt: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(5):
        belt.put(number)
    assert [0, 1, 2] == come_together(belt, 3)
    assert [3, 4] == come_together(belt, 3)
