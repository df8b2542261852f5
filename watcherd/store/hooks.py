"""Calls of hooks that are due: the tables ``hook_wish`` and ``hook``.

The trigger ``job_calls_hooks`` (``rules.py``) writes a call down in the transaction that ends the job, whoever ends it.
So no end is missed by a crash, and where nothing is wished for no row is written. Calls never change a job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.file_names import storable
from watcherd.store.records import stamp
from watcherd.store.statements import one_by_one

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from sqlalchemy import Connection

DUE = """
SELECT id, job_id, key, target, event, tries FROM hook
WHERE state = 'waiting' AND not_before <= :now ORDER BY not_before, id LIMIT :limit
"""

CALLED = """
UPDATE hook SET state = 'called', tries = tries + 1, error = NULL, not_before = NULL, ended_at = :now
WHERE id = :id AND state = 'waiting'
"""

LATER = """
UPDATE hook SET tries = tries + 1, error = :error, not_before = :not_before WHERE id = :id AND state = 'waiting'
"""

GIVE_UP = """
UPDATE hook SET state = 'given-up', tries = tries + :tried, error = :error, not_before = NULL, ended_at = :now
WHERE id = :id AND state = 'waiting'
"""

UNWANTED = """
SELECT id, job_id, target FROM hook
WHERE state = 'waiting' AND target NOT IN (SELECT target FROM hook_wish)
"""

TELL = """
INSERT INTO event (at, job_id, kind, detail) VALUES (:now, :job_id, 'hook-given-up', :detail)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HookCall:
    """A call to be made. ``event``: the state in which the job ended. ``tries``: how often it has failed so far."""

    id: int
    job_id: int
    key: str
    target: str
    event: str
    tries: int


def wish(connection: Connection, wishes: Iterable[tuple[str, str]], *, now: datetime) -> int:
    """From now on write a call down for these ends of jobs (event and target), and for no others.

    Calls that wait for a target of which nothing is wished any more are given up; how many.
    """
    connection.exec_driver_sql("DELETE FROM hook_wish")
    rows = [{"event": event, "target": target} for event, target in wishes]
    one_by_one(connection, "INSERT OR IGNORE INTO hook_wish (event, target) VALUES (:event, :target)", rows)
    unwanted = connection.exec_driver_sql(UNWANTED).fetchall()
    for row in unwanted:
        error = f"hooks.{row.target} was taken out of the configuration"
        _give_up(connection, row.id, row.job_id, row.target, error, tried=0, now=now)
    return len(unwanted)


def due(connection: Connection, *, now: datetime, limit: int, but: Collection[int] = ()) -> list[HookCall]:
    """Calls whose time has come, the longest waiting first, leaving out those with ids in ``but``."""
    rows = connection.exec_driver_sql(DUE, {"now": stamp(now), "limit": limit + len(but)})
    return [HookCall(**row._mapping) for row in rows if row.id not in but][:limit]


def next_due(connection: Connection) -> str | None:
    """When the next call is to be made; None when none waits."""
    at: str | None = connection.exec_driver_sql("SELECT min(not_before) FROM hook WHERE state = 'waiting'").scalar()
    return at


def waiting(connection: Connection) -> int:
    """How many calls are still to be made, or made again."""
    return int(connection.exec_driver_sql("SELECT count(*) FROM hook WHERE state = 'waiting'").scalar_one())


def called(connection: Connection, call: HookCall, *, now: datetime) -> None:
    """The call went well."""
    connection.exec_driver_sql(CALLED, {"id": call.id, "now": stamp(now)})


def later(connection: Connection, call: HookCall, error: str, *, not_before: datetime) -> None:
    """The call failed, and will be made again."""
    connection.exec_driver_sql(LATER, {"id": call.id, "error": storable(error), "not_before": stamp(not_before)})


def give_up(connection: Connection, call: HookCall, error: str, *, now: datetime) -> None:
    """The call failed for the last time; the job's events say so."""
    _give_up(connection, call.id, call.job_id, call.target, error, tried=1, now=now)


def _give_up(
    connection: Connection, call_id: int, job_id: int, target: str, error: str, *, tried: int, now: datetime
) -> None:
    at = stamp(now)
    connection.exec_driver_sql(GIVE_UP, {"id": call_id, "error": storable(error), "tried": tried, "now": at})
    detail = json.dumps({"hook": target, "reason": f"hooks.{target}: {error}"})
    connection.exec_driver_sql(TELL, {"now": at, "job_id": job_id, "detail": detail})


def of_job(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """Every call for a job, in order."""
    sql = (
        "SELECT key, target, event, state, tries, created_at, not_before, ended_at, error FROM hook "
        "WHERE job_id = ? ORDER BY id"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql, (job_id,)).mappings()]


def given_up(connection: Connection, *, since: datetime, limit: int = 100) -> list[dict[str, Any]]:
    """Calls that were given up, newest first."""
    sql = (
        "SELECT job_id, target, event, tries, ended_at, error FROM hook "
        "WHERE state = 'given-up' AND ended_at >= ? ORDER BY ended_at DESC LIMIT ?"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql, (stamp(since), limit)).mappings()]
