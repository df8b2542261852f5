"""Reading what happened: for the command line, the metrics and the result files. Nothing here changes anything.

Every function takes a connection (`connections.reader` or the daemon's own) and answers with plain dicts and lists that
``json.dumps`` takes as they are. All of them are quick with a million jobs: they read totals, or rows by an index.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from watcherd.file_names import show, without_addition
from watcherd.job import ErrorClass, Fate, State
from watcherd.store.records import stamp
from watcherd.store.statements import select_in
from watcherd.store.tables import NOT_SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import Connection

JobRecord = dict[str, Any]
"""A job with the fields of the view ``jobs``; ``devices`` and ``outputs`` are lists of dicts, ``dicom`` is a dict."""


Sort = Literal[
    "newest",
    "oldest",
    "finished",
    "name",
    "queue_ms",
    "decode_ms",
    "inference_ms",
    "render_ms",
    "size_bytes",
    "attempts",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which jobs, in which order, and how many.

    ``model``: its name in the configuration. ``name``: of a dropped file, any of the job's; a part of it, or with ``*``
    or ``?`` a pattern for all of it, with or without its folders. ``since``, ``until``: by creation.
    ``sort``: ``newest``, ``oldest``, ``finished`` (what has ended, the latest first), ``name``, or a column of the
    view, the largest first. ``before``: only jobs with a lower number, for the next page of the newest. ``verdict``:
    only those of which somebody said this.
    """

    states: Sequence[State] = ()
    error_class: ErrorClass | None = None
    profile: str | None = None
    model: str | None = None
    name: str | None = None
    sha256: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    sort: Sort = "newest"
    limit: int | None = 50
    offset: int = 0
    before: int | None = None
    verdict: str | None = None


_ORDERS = {"newest": "id DESC", "oldest": "id", "finished": "finished_at DESC, id DESC", "name": "source, id"}


def jobs(connection: Connection, wanted: Filter | None = None) -> list[JobRecord]:
    """The jobs that match."""
    wanted = wanted or Filter()
    conditions, values = _conditions(wanted)
    order = _ORDERS.get(wanted.sort, f"{wanted.sort} DESC, id")
    # First which rows, then all about them: a row's devices and outputs are questions of their own.
    chosen = f"SELECT id FROM jobs {conditions} ORDER BY {order} LIMIT :limit OFFSET :offset"
    sql = f"SELECT * FROM jobs WHERE id IN ({chosen}) ORDER BY {order}"
    values |= {"limit": -1 if wanted.limit is None else wanted.limit, "offset": wanted.offset}
    return [_record(row) for row in connection.exec_driver_sql(sql, values).mappings()]


def _conditions(wanted: Filter) -> tuple[str, dict[str, Any]]:
    terms: list[str] = []
    values: dict[str, Any] = {}
    if wanted.states and State.SUCCEEDED not in wanted.states:
        terms.append(NOT_SUCCEEDED)
    if wanted.states:
        terms.append("state IN (" + ", ".join(f"'{State(state).value}'" for state in wanted.states) + ")")
    if wanted.name is not None:
        patterns = _patterns(wanted.name)
        either = " OR ".join(f"path_text LIKE :name{i} ESCAPE '\\'" for i in range(len(patterns)))
        terms.append(f"id IN (SELECT job_id FROM arrival WHERE {either})")
        values |= {f"name{i}": pattern for i, pattern in enumerate(patterns)}
    if wanted.verdict is not None:
        terms.append("id IN (SELECT job_id FROM review WHERE verdict = :verdict)")
        values["verdict"] = wanted.verdict
    if wanted.before is not None:
        terms.append("id < :before")
        values["before"] = wanted.before
    if wanted.sort == "finished":
        terms.append("finished_at IS NOT NULL")
    for column, value in (
        ("error_class", wanted.error_class),
        ("profile", wanted.profile),
        ("model_name", wanted.model),
        ("sha256", wanted.sha256),
    ):
        if value is not None:
            terms.append(f"{column} = :{column}")
            values[column] = str(value)
    for bound, comparison in (("since", ">="), ("until", "<")):
        if (when := getattr(wanted, bound)) is not None:
            terms.append(f"created_at {comparison} :{bound}")
            values[bound] = stamp(when)
    return ("WHERE " + " AND ".join(terms) if terms else ""), values


def _patterns(name: str) -> list[str]:
    """What LIKE has to match for a part of a name, or for a shell pattern."""
    pattern = _literal(name)
    if "*" not in name and "?" not in name:
        return [f"%{pattern}%"]
    pattern = pattern.replace("*", "%").replace("?", "_")
    return [pattern, f"%/{pattern}"]


def _literal(text: str) -> str:
    """``text`` for LIKE, with its wildcards taken as they stand."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def fields_of_a_job(connection: Connection) -> list[str]:
    """The names of what a `JobRecord` holds, in order."""
    return list(connection.exec_driver_sql("SELECT * FROM jobs LIMIT 0").keys())


def _record(row: Any) -> JobRecord:
    record = dict(row)
    record["devices"] = json.loads(record["devices"])
    record["outputs"] = json.loads(record["outputs"])
    record["dicom"] = json.loads(record["dicom"])
    record["solo"] = bool(record["solo"])
    return record


def job(connection: Connection, job_id: int) -> JobRecord | None:
    """One job; None when there is none of this id."""
    row = connection.exec_driver_sql("SELECT * FROM jobs WHERE id = ?", (job_id,)).mappings().first()
    return _record(row) if row is not None else None


def records(connection: Connection, job_ids: Sequence[int]) -> dict[int, JobRecord]:
    """Several jobs by their ids."""
    rows = select_in(connection, "SELECT * FROM jobs WHERE id IN ({values})", job_ids)
    return {row.id: _record(row._mapping) for row in rows}


def events(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """Everything that happened to a job, in order."""
    sql = "SELECT at, kind, from_state, to_state, run_id, arrival_id, detail FROM event WHERE job_id = ? ORDER BY id"
    rows = connection.exec_driver_sql(sql, (job_id,)).mappings()
    return [dict(row) | {"detail": _json(row["detail"]) or {}} for row in rows]


def _json(text: str | None) -> Any:
    """What a text of the history says; None where there is none, or one that is no JSON."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


_ATTEMPTS = """
SELECT attempt.*, replica.number AS replica, replica.placement, replica.segmenter, replica.model,
       replica.model_revision, replica.dtype
FROM attempt LEFT JOIN replica ON replica.id = attempt.replica_id WHERE job_id = ? ORDER BY attempt.id
"""


def attempts(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """Every try at a job, in order, each with its ``devices``, and the replica's ``placement`` and model."""
    rows = connection.exec_driver_sql(_ATTEMPTS, (job_id,)).mappings()
    return [_attempt(connection, dict(row)) for row in rows]


def _attempt(connection: Connection, row: dict[str, Any]) -> dict[str, Any]:
    used = connection.exec_driver_sql("SELECT * FROM attempt_device WHERE attempt_id = ?", (row["id"],)).mappings()
    row["devices"] = [{key: value for key, value in device.items() if key != "attempt_id"} for device in used]
    row["placement"] = _json(row["placement"])
    return row


def arrivals(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """Every name under which a job's scan was dropped, with what became of it and its ``outputs``."""
    rows = connection.exec_driver_sql(
        "SELECT id, path_text AS source, fate, reason, seen_at, ingested_at, size_bytes, duplicate_of, delivery, "
        "disposal, disposed_at, disposed_path, file_of FROM arrival WHERE job_id = ? ORDER BY id",
        (job_id,),
    ).mappings()
    return [
        dict(row)
        | {
            "disposed_path": None if (path := row["disposed_path"]) is None else show(path),
            "outputs": _outputs(connection, row["id"]),
        }
        for row in rows
    ]


def _outputs(connection: Connection, arrival_id: int) -> list[dict[str, Any]]:
    sql = (
        "SELECT kind, path_text AS path, sha256, bytes, delivered_at FROM output "
        "WHERE arrival_id = ? AND state = 'delivered' ORDER BY id"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql, (arrival_id,)).mappings()]


def counts(connection: Connection) -> dict[State, int]:
    """Jobs by state; every state is there."""
    totals = _totals(connection)
    return {state: totals.get(f"job.{state}", 0) for state in State}


def fates(connection: Connection) -> dict[str, int]:
    """Arrivals by what became of them: every arrival counts once, the taken ones by their job's state."""
    totals = _totals(connection)
    fate = {fate.value: totals.get(f"arrival.{fate}", 0) for fate in (Fate.IGNORED, Fate.SETTLING, Fate.DUPLICATE)}
    return fate | {state.value: totals.get(f"job.{state}", 0) for state in State}


def arrivals_in_all(connection: Connection) -> int:
    """How many arrivals there are; `fates` adds up to this."""
    return sum(count for name, count in _totals(connection).items() if name.startswith("arrival."))


def _totals(connection: Connection) -> dict[str, int]:
    return {row.name: row.count_ for row in connection.exec_driver_sql("SELECT name, count AS count_ FROM total")}


def oldest_queued(connection: Connection) -> str | None:
    """Since when the longest waiting job has waited (or its ``not_before``, if that is later); None when none waits."""
    since: str | None = connection.exec_driver_sql("SELECT min(queued_at) FROM job WHERE state = 'queued'").scalar()
    return since


def active(connection: Connection) -> list[dict[str, Any]]:
    """The jobs that are being worked on or delivered."""
    sql = (
        "SELECT id, state, source, attempts, started_at, run_id FROM job "
        f"WHERE {NOT_SUCCEEDED} AND state IN ('running', 'delivering') ORDER BY id"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql).mappings()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Jobs that ended in the last ``minutes``."""

    minutes: float
    succeeded: int
    failed: int

    @property
    def per_minute(self) -> float:
        """Of both."""
        return (self.succeeded + self.failed) / self.minutes


def rate(connection: Connection, *, minutes: float, now: datetime) -> Rate:
    """How fast work goes."""
    ended = "SELECT count(*) FROM job WHERE finished_at IS NOT NULL AND finished_at >= ?"
    gave_up = "SELECT count(*) FROM job WHERE state IN ('failed', 'quarantined') AND finished_at >= ?"
    since = (stamp(now - timedelta(minutes=minutes)),)
    failed = connection.exec_driver_sql(gave_up, since).scalar_one()
    return Rate(
        minutes=minutes, succeeded=connection.exec_driver_sql(ended, since).scalar_one() - failed, failed=failed
    )


def failures(connection: Connection, limit: int = 10) -> list[dict[str, Any]]:
    """The last failures, newest first."""
    return [dict(row) for row in connection.exec_driver_sql("SELECT * FROM failures LIMIT ?", (limit,)).mappings()]


def failures_by_class(connection: Connection, *, since: datetime) -> dict[str, int]:
    """Failed and quarantined jobs by error class."""
    sql = (
        "SELECT error_class, count(*) AS jobs FROM job WHERE state IN ('failed', 'quarantined') AND finished_at >= ? "
        "GROUP BY error_class"
    )
    return {row.error_class: row.jobs for row in connection.exec_driver_sql(sql, (stamp(since),))}


def runs(connection: Connection, limit: int = 10) -> list[dict[str, Any]]:
    """The daemon's last runs, newest first."""
    sql = "SELECT * FROM run ORDER BY id DESC LIMIT ?"
    return [dict(row) for row in connection.exec_driver_sql(sql, (limit,)).mappings()]


def replicas(connection: Connection, run_id: int) -> list[dict[str, Any]]:
    """The replicas of a run, ended ones too."""
    rows = connection.exec_driver_sql("SELECT * FROM replica WHERE run_id = ? ORDER BY id", (run_id,)).mappings()
    return [
        dict(row)
        | {
            "placement": _json(row["placement"]),
            "weights_mib": _json(row["weights_mib"]),
        }
        for row in rows
    ]


def unfinished_arrivals(connection: Connection, limit: int = 100) -> list[dict[str, Any]]:
    """Arrivals without a job: still settling, or ignored; newest first, with the reasons."""
    sql = (
        "SELECT id, path_text AS source, fate, reason, seen_at, present FROM arrival "
        "WHERE fate IN ('settling', 'ignored') ORDER BY id DESC LIMIT ?"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql, (limit,)).mappings()]


def open_arrivals(connection: Connection, *, but: Collection[int] = ()) -> bool:
    """Whether some name still waits for its result, or some file for its disposal, leaving out those in ``but``."""
    sql = (
        "SELECT id FROM arrival WHERE delivery IN ('due', 'intended') "
        "UNION ALL SELECT id FROM arrival WHERE disposal = 'pending' AND delivery IN ('delivered', 'none') "
        "AND awaited = 0 LIMIT ?"
    )
    return any(row.id not in but for row in connection.exec_driver_sql(sql, (2 * len(but) + 1,)))


def vram_now(connection: Connection) -> float | None:
    """The peak of allocated device memory in the last attempt, in MiB over all its devices; None where unknown."""
    sql = (
        "SELECT sum(vram_peak_allocated_mib) FROM attempt_device "
        "WHERE attempt_id = (SELECT max(attempt_id) FROM attempt_device)"
    )
    peak: float | None = connection.exec_driver_sql(sql).scalar()
    return peak


def known_results(connection: Connection, paths: Sequence[bytes]) -> set[bytes]:
    """Which of these paths below the outbox are results, promised or delivered."""
    sql = "SELECT path FROM output WHERE state <> 'removed' AND path IN ({values})"
    return {bytes(row.path) for row in select_in(connection, sql, paths)}


def known_in_archive(connection: Connection, paths: Sequence[bytes]) -> set[bytes]:
    """Which of these paths below the archive are files that were put there by us.

    The history finds an arrival by the path at which it was seen, which follows from the one in the archive.
    """
    origins = {show(origin) for path in paths for origin in _origins(path)}
    sql = "SELECT disposed_path FROM arrival WHERE path_text IN ({values}) AND disposed_path IS NOT NULL"
    return {bytes(row.disposed_path) for row in select_in(connection, sql, sorted(origins))}


def _origins(path: bytes) -> Iterator[bytes]:
    """Paths below the inbox at which a file may have been seen that lies at ``path`` below the archive."""
    for below in (path, path.removeprefix(b"failed/")):
        folder, slash, name = below.rpartition(b"/")
        yield below
        yield folder + slash + without_addition(name)


def spool_names(connection: Connection, names: Sequence[str]) -> set[str]:
    """Which of these files in the spool some scan still points to."""
    return {row.spool_name for row in select_in(connection, _SPOOLED, names)}


_SPOOLED = "SELECT spool_name FROM scan WHERE spool_name IN ({values})"
