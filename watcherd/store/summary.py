"""Reading a whole period of the history for a report: what ended in it, how long it took, what it used.

A long history is not read row by row: throughput and cards come from tables that are added up hour by hour, durations
of very many jobs from an even sample. Only the slowest jobs need every job of the period; they are found in one pass.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.store.records import moment, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection

Row = dict[str, Any]

SAMPLE = 20_000
"""Jobs whose durations are looked at, about: a percentile of so many is right to half a percentile."""

_ENDED = "finished_at IS NOT NULL AND finished_at >= :since AND finished_at < :until"
_SUCCEEDED = f"{_ENDED} AND state = 'succeeded'"
_TOTAL = "CAST(round((julianday(finished_at) - julianday(queued_at)) * 86400000) AS INTEGER) AS total_ms"
_STAGES = "queue_ms, decode_ms, inference_ms, render_ms"

# Looked up in the index alone: only the rows of the sample are read. Ids are mixed before they are counted off, as
# batches and replicas take turns and every tenth job might be of the same card. Knuth's multiplicative hash.
_EVERY = "(id * 2654435761 >> 8) % :step = 0"

SAMPLED = f"""
SELECT finished_at, {_TOTAL}, {_STAGES}, segmenter, model, model_revision, dtype, host_peak_rss_mib
FROM job INDEXED BY job_finished WHERE {_SUCCEEDED} AND {_EVERY} ORDER BY finished_at
"""

MEMORY = f"""
SELECT job.id, job.finished_at, used.device, used.vram_peak_allocated_mib AS mib
FROM job INDEXED BY job_finished JOIN attempt_device AS used ON used.attempt_id = job.attempt_id
WHERE {_SUCCEEDED} AND {_EVERY} AND used.vram_peak_allocated_mib IS NOT NULL ORDER BY job.finished_at
"""

HOURS = "SELECT hour, succeeded, failed FROM hour WHERE hour >= :from_hour AND hour < :until ORDER BY hour"

DEVICE_HOURS = """
SELECT hour, device, name, attempts, busy_ms, vram_peak_allocated_mib AS mib FROM device_hour
WHERE hour >= :from_hour AND hour < :until ORDER BY device, name, hour
"""

FAILURES = """
SELECT error_class, error, max(advice) AS advice, count(*) AS jobs, max(finished_at) AS last_at, max(id) AS last_id
FROM job WHERE state IN ('failed', 'quarantined') AND finished_at >= :since AND finished_at < :until
GROUP BY error_class, error ORDER BY jobs DESC
"""

EVALUATIONS = """
SELECT id, at, model, threshold, profile, truth, scans, failed,
    dice, dice_low, dice_high, cldice, cldice_low, cldice_high
FROM evaluations WHERE at >= :since AND at < :until ORDER BY id DESC LIMIT :limit
"""

_SHAPE = "job.id, job.source, scan.size_bytes, scan.width, scan.height, scan.frames"

SLOWEST = f"""
SELECT {_SHAPE}, {_TOTAL}, {_STAGES}, finished_at FROM job JOIN scan ON scan.id = job.scan_id
WHERE job.id IN (SELECT id FROM job INDEXED BY job_finished WHERE {_SUCCEEDED}
                 ORDER BY coalesce(decode_ms, 0) + coalesce(inference_ms, 0) + coalesce(render_ms, 0) DESC LIMIT :limit)
ORDER BY coalesce(decode_ms, 0) + coalesce(inference_ms, 0) + coalesce(render_ms, 0) DESC, job.id
"""

LARGEST = f"""
SELECT {_SHAPE}, used.device, used.name, used.vram_peak_allocated_mib AS mib, attempt.batch_size
FROM attempt_device AS used JOIN attempt ON attempt.id = used.attempt_id JOIN job ON job.id = attempt.job_id
JOIN scan ON scan.id = job.scan_id
WHERE used.vram_peak_allocated_mib IS NOT NULL AND attempt.ended_at >= :since AND attempt.ended_at < :until
ORDER BY used.vram_peak_allocated_mib DESC LIMIT :limit
"""

DUPLICATES = """
SELECT count(*) AS files, count(DISTINCT job_id) AS scans FROM arrival
WHERE fate = 'duplicate' AND file_of IS NULL AND seen_at >= :since AND seen_at < :until
"""

RUNS = """
SELECT id, started_at, ended_at, end_reason, version FROM run
WHERE started_at < :until AND (ended_at IS NULL OR ended_at >= :since) ORDER BY id
"""

REPLICAS = """
SELECT run_id, number, segmenter, model, model_revision, dtype, started_at, ready_at, load_ms, ended_at, end_reason
FROM replica WHERE started_at < :until AND (ended_at IS NULL OR ended_at >= :since) ORDER BY id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """From ``since``, a full hour as totals are kept by the hour, to just before ``until``."""

    since: datetime
    until: datetime

    def __post_init__(self) -> None:
        if (self.since.minute, self.since.second, self.since.microsecond) != (0, 0, 0):
            raise ValueError(f"{self.since} is no full hour")

    @property
    def values(self) -> dict[str, Any]:
        """For the statements."""
        since = stamp(self.since)
        return {"since": since, "until": stamp(self.until), "from_hour": since[:13]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One row for every ``step``-th job or so; all of them when ``step`` is 1."""

    step: int
    rows: list[Row]


def begun_at(connection: Connection) -> datetime | None:
    """When the history begins, to the hour; None when there is none."""
    hours = "SELECT min(hour) AS begun FROM hour UNION SELECT min(substr(started_at, 1, 13)) FROM run"
    hour = connection.exec_driver_sql(f"SELECT min(begun) FROM ({hours})").scalar()
    return moment(f"{hour}:00:00.000Z") if hour else None


def ended(connection: Connection, period: Period) -> dict[str, int]:
    """Jobs that ended, by state."""
    sql = f"SELECT state, count(*) AS jobs FROM job INDEXED BY job_finished WHERE {_ENDED} GROUP BY state"
    return {row["state"]: row["jobs"] for row in _rows(connection, sql, period.values)}


def sample(connection: Connection, period: Period, *, of: int, size: int = SAMPLE) -> Sample:
    """Durations of about ``size`` of the ``of`` jobs that succeeded, in the order in which they did."""
    step = _step(of, size)
    return Sample(step=step, rows=_rows(connection, SAMPLED, period.values | {"step": step}))


def memory(connection: Connection, period: Period, *, of: int, size: int) -> Sample:
    """Peaks of allocated memory of about ``size`` of the ``of`` jobs that succeeded, on each of their devices."""
    step = _step(of, size)
    return Sample(step=step, rows=_rows(connection, MEMORY, period.values | {"step": step}))


def hours(connection: Connection, period: Period) -> list[Row]:
    """How many jobs succeeded and failed in each hour (UTC) that had any."""
    return _rows(connection, HOURS, period.values)


def device_hours(connection: Connection, period: Period) -> list[Row]:
    """What each device did in each hour (UTC) in which it did anything."""
    return _rows(connection, DEVICE_HOURS, period.values)


def failures(connection: Connection, period: Period) -> list[Row]:
    """Failed and quarantined jobs by class and words of the error, the most frequent first."""
    return _rows(connection, FAILURES, period.values)


def slowest(connection: Connection, period: Period, limit: int) -> list[Row]:
    """The jobs that were worked on longest; waiting does not count."""
    return _rows(connection, SLOWEST, period.values | {"limit": limit})


def largest(connection: Connection, period: Period, limit: int) -> list[Row]:
    """The attempts with the highest peaks of device memory; jobs of one batch share a peak."""
    return _rows(connection, LARGEST, period.values | {"limit": limit})


def duplicates(connection: Connection, period: Period) -> Row:
    """``files`` that were dropped though their bytes were known, and of how many ``scans``."""
    (row,) = _rows(connection, DUPLICATES, period.values)
    return row


def runs(connection: Connection, period: Period) -> list[Row]:
    """The daemon's runs that touch the period, the oldest first."""
    return _rows(connection, RUNS, period.values)


def replicas(connection: Connection, period: Period) -> list[Row]:
    """The copies of the model that were there in the period, the oldest first."""
    return _rows(connection, REPLICAS, period.values)


def evaluations(connection: Connection, period: Period, limit: int) -> list[Row]:
    """What was evaluated in the period, the newest first."""
    return _rows(connection, EVALUATIONS, period.values | {"limit": limit})


def _step(of: int, size: int) -> int:
    return max(1, -(-of // size))


def _rows(connection: Connection, sql: str, values: Mapping[str, Any]) -> list[Row]:
    return [dict(row) for row in connection.exec_driver_sql(sql, dict(values)).mappings()]
