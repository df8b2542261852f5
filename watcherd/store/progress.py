"""What has ended since somebody last looked: for counters that must neither miss a job nor count one twice.

The events are append-only and have ascending numbers, so "since the last look" is a range of their key, and whoever
moved a job, a recovery after a crash or a person with a command, is counted alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.store.records import milliseconds

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIB = 1 << 20

ENDED = """
SELECT event.to_state, event.at, json_extract(event.detail, '$.error_class') AS error_class, job.started_at,
    job.queue_ms, job.decode_ms, job.inference_ms, job.render_ms, job.model_name
FROM event LEFT JOIN job ON job.id = event.job_id
WHERE event.id > :after AND event.id <= :until
    AND event.to_state IN ('succeeded', 'failed', 'quarantined', 'cancelled')
"""

RETRIED = """
SELECT json_extract(event.detail, '$.error_class') AS error_class, count(*) AS jobs FROM event
WHERE event.id > :after AND event.id <= :until AND event.kind = 'retry' GROUP BY 1
"""

USED = """
SELECT d.device, coalesce(d.name, '') AS name, sum(coalesce(job.inference_ms, 0)) AS busy_ms,
    max(d.vram_peak_allocated_mib) AS allocated_mib, max(d.vram_peak_reserved_mib) AS reserved_mib
FROM event JOIN job ON job.id = event.job_id JOIN attempt_device AS d ON d.attempt_id = job.attempt_id
WHERE event.id > :after AND event.id <= :until AND event.to_state IN ('succeeded', 'failed', 'quarantined')
GROUP BY 1, 2
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job that ended. ``durations_ms`` by stage, None where it is not known; ``model``: by its name, so too."""

    state: str
    error_class: str | None
    durations_ms: dict[str, int | None]
    model: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What jobs used of a device. Memory in bytes, None where it is not known."""

    device: str
    name: str
    busy_ms: int
    allocated_bytes: float | None
    reserved_bytes: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What happened up to the event ``until``."""

    until: int
    ended: list[Ended]
    retried: dict[str, int]
    used: list[Used]


def last_event(connection: Connection) -> int:
    """The number of the newest event; 0 when there is none."""
    return int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM event").scalar_one())


def since(connection: Connection, after: int) -> Progress:
    """What happened after the event ``after``.

    Numbers come back when `backup.prune` takes out every event there is, which leaves a daemon that was idle for days
    with a number from before: then counting goes on from the newest there is.
    """
    until = last_event(connection)
    bounds = {"after": min(after, until), "until": until}
    return Progress(
        until=until,
        ended=[_ended(row) for row in connection.exec_driver_sql(ENDED, bounds)],
        retried={row.error_class: row.jobs for row in connection.exec_driver_sql(RETRIED, bounds)},
        used=[_used(row) for row in connection.exec_driver_sql(USED, bounds)],
    )


def _ended(row: Any) -> Ended:
    waited = row.queue_ms
    worked = milliseconds(row.started_at, row.at) if row.started_at and waited is not None else None
    return Ended(
        state=row.to_state,
        error_class=row.error_class,
        model=row.model_name,
        durations_ms={
            "queue": waited,
            "decode": row.decode_ms,
            "inference": row.inference_ms,
            "render": row.render_ms,
            "total": None if worked is None else waited + worked,
        },
    )


def _used(row: Any) -> Used:
    return Used(
        device=row.device,
        name=row.name,
        busy_ms=row.busy_ms,
        allocated_bytes=None if row.allocated_mib is None else row.allocated_mib * MIB,
        reserved_bytes=None if row.reserved_mib is None else row.reserved_mib * MIB,
    )
