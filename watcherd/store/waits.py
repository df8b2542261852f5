"""Waits that are written down as times of the wall clock: tries of jobs and of hooks that are to come, and frames that
wait for the rest of their run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.store.records import stamp

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import Connection

_NOT_BEFORE = "not_before = strftime('%Y-%m-%dT%H:%M:%fZ', not_before, :by)"
_QUEUED_AT = "queued_at = strftime('%Y-%m-%dT%H:%M:%fZ', queued_at, :by)"
_RIGHT = "BETWEEN :right_since AND :now"
MOVE = (
    f"""UPDATE job SET {_NOT_BEFORE}, {_QUEUED_AT}
    WHERE state = 'queued' AND not_before IS NOT NULL AND moved_at NOT {_RIGHT}""",  # noqa: S608
    f"""UPDATE hook SET {_NOT_BEFORE} WHERE state = 'waiting' AND (tries > 0 OR created_at NOT {_RIGHT})""",  # noqa: S608
)
"""The time since which a frame is held back is set, too. Of a call that has been tried nobody knows when that was
written: written in the second in which the clock was set, it may wait for as long as any call is made to."""

BOUND = (
    """UPDATE job SET not_before = min(not_before, :latest), queued_at = min(queued_at, :latest)
    WHERE state = 'queued' AND (not_before > :latest OR queued_at > :latest)""",
    "UPDATE hook SET not_before = :latest WHERE state = 'waiting' AND not_before > :latest",
)


def move(connection: Connection, seconds: float, *, right_since: datetime, now: datetime) -> int:
    """The wall clock was set by so many seconds: every wait is set with it; how many.

    But for those that were written down after that, from ``right_since`` to ``now`` as the clock shows it since.
    """
    values = {"by": f"{seconds:+.3f} seconds", "right_since": stamp(right_since), "now": stamp(now)}
    return sum(connection.exec_driver_sql(sql, values).rowcount for sql in MOVE)


def bound(connection: Connection, *, now: datetime, longest: timedelta) -> int:
    """Let nothing wait for longer than anything is ever made to: the clock was ahead when it was written; how many."""
    return sum(connection.exec_driver_sql(sql, {"latest": stamp(now + longest)}).rowcount for sql in BOUND)
