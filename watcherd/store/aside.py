"""What was set aside: items that could not be handled, as rows of the table ``setting``, and an event for each time.

Why and when is for ``watcherd.set_aside`` to decide; ``status`` and ``doctor`` read it here, daemon or not.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from watcherd.store.records import stamp
from watcherd.store.statements import select_in

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

PREFIX = "set-aside:"
"""Beginning of the keys of these settings."""

STARTS = 3
"""Starts of the service that an item may end; then it is left alone until a person asks for it."""

TELL = """
INSERT INTO event (at, job_id, arrival_id, kind, run_id, detail)
VALUES (:at, :job_id, :arrival_id, 'set-aside', :run_id, :detail)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aside:
    """One item that was set aside.

    ``loop``: which part of the service failed with it. ``item``: what it is, for people. ``since``: a stamp.
    ``times``: how often it failed. ``ended``: how many starts of the service it ended.
    """

    loop: str
    item: str
    error: str
    since: str
    job_id: int | None = None
    arrival_id: int | None = None
    times: int = 0
    ended: int = 0

    @property
    def left_alone(self) -> bool:
        """Whether it is not tried again by itself."""
        return self.ended >= STARTS


def everything(connection: Connection) -> dict[str, Aside]:
    """All that is set aside, by key, the oldest first."""
    sql = f"SELECT key, value FROM setting WHERE key GLOB '{PREFIX}*' ORDER BY rowid"
    found: dict[str, Aside] = {}
    for row in connection.exec_driver_sql(sql):
        with suppress(ValueError, TypeError):  # of another version, or of somebody else: the item is simply tried again
            found[row.key.removeprefix(PREFIX)] = Aside(**json.loads(row.value))
    return found


def ended(connection: Connection, job_ids: Iterable[int | None]) -> set[int]:
    """Which of these jobs are not on their way any more, or are not there."""
    wanted = {job_id for job_id in job_ids if job_id is not None}
    sql = "SELECT id FROM job WHERE id IN ({values}) AND finished_at IS NULL"
    return wanted - {row.id for row in select_in(connection, sql, sorted(wanted))}


def keep(connection: Connection, key: str, item: Aside) -> None:
    """Remember that an item is set aside."""
    connection.exec_driver_sql(
        "INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (PREFIX + key, json.dumps(asdict(item))),
    )


def tell(connection: Connection, item: Aside, *, run_id: int | None, now: datetime) -> None:
    """Have the history say that it was."""
    detail = json.dumps({"loop": item.loop, "item": item.item, "reason": item.error, "times": item.times})
    row: dict[str, Any] = {"job_id": item.job_id, "arrival_id": item.arrival_id, "run_id": run_id}
    connection.exec_driver_sql(TELL, row | {"at": stamp(now), "detail": detail})


def forget(connection: Connection, keys: Iterable[str]) -> None:
    """These were handled, or are to be tried anew."""
    for key in keys:
        connection.exec_driver_sql("DELETE FROM setting WHERE key = ?", (PREFIX + key,))


def forget_jobs(connection: Connection, job_ids: Iterable[int]) -> list[int]:
    """A person wants these jobs tried anew; the ids of those of which something was set aside."""
    wanted = set(job_ids)
    found = {key: item.job_id for key, item in everything(connection).items() if item.job_id in wanted}
    forget(connection, found)
    return sorted({job_id for job_id in found.values() if job_id is not None})
