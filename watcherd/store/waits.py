"""Waits that are written down as times of the wall clock: tries of jobs and of hooks that are to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.store.records import stamp

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import Connection

_MOVED = "SET not_before = strftime('%Y-%m-%dT%H:%M:%fZ', not_before, :by)"
MOVE = (
    f"UPDATE job {_MOVED} WHERE state = 'queued' AND not_before IS NOT NULL",
    f"UPDATE hook {_MOVED} WHERE state = 'waiting'",
)

BOUND = (
    "UPDATE job SET not_before = :latest WHERE state = 'queued' AND not_before > :latest",
    "UPDATE hook SET not_before = :latest WHERE state = 'waiting' AND not_before > :latest",
)


def move(connection: Connection, seconds: float) -> int:
    """The wall clock was set by so many seconds: every wait is set with it; how many."""
    return sum(connection.exec_driver_sql(sql, {"by": f"{seconds:+.3f} seconds"}).rowcount for sql in MOVE)


def bound(connection: Connection, *, now: datetime, longest: timedelta) -> int:
    """Let nothing wait for longer than anything is ever made to: the clock was ahead when it was written; how many."""
    return sum(connection.exec_driver_sql(sql, {"latest": stamp(now + longest)}).rowcount for sql in BOUND)
