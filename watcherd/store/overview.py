"""Reading what is now: for screens that are looked at again and again, and for whoever waits for a scan.

As in `history`, every function takes a connection and answers with plain values, quickly however long the history is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.store import unreadable
from watcherd.store.records import stamp
from watcherd.store.statements import select_in
from watcherd.store.tables import NOT_SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

NEXT = """
SELECT id, state, source, priority, attempts, not_before, queued_at AS since, error_class, error FROM job
WHERE state = 'queued' ORDER BY priority DESC, id LIMIT ?
"""

ACTIVE = f"""
SELECT id, state, source, priority, attempts, started_at AS since FROM job
WHERE {NOT_SUCCEEDED} AND state IN ('running', 'delivering') ORDER BY started_at, id
"""  # noqa: S608 - words of our own

RECENT = """
SELECT id, state, source, attempts, finished_at AS since, queue_ms, decode_ms, inference_ms, render_ms, mask_fraction,
    error_class, error
FROM job WHERE finished_at IS NOT NULL ORDER BY finished_at DESC, id DESC LIMIT ?
"""

WAITED_FOR = """
SELECT arrival.id, arrival.path_text AS source, arrival.fate, arrival.reason, arrival.job_id, arrival.delivery,
    coalesce(arrival.file_of, arrival.id) AS file, job.model_name, job.state, job.error, job.error_class, job.advice
FROM arrival LEFT JOIN job ON job.id = arrival.job_id WHERE arrival.path_text IN ({values})
"""


def queue(connection: Connection, *, now: datetime) -> dict[str, Any]:
    """What waits: ``ready`` at once, ``later`` for another try, the first of those at ``next_try``; since when the
    longest waiting one of the ready has waited (``oldest``)."""
    row = connection.exec_driver_sql(
        "SELECT count(*) AS waiting, coalesce(sum(not_before > :now), 0) AS later, "
        "min(CASE WHEN not_before > :now THEN not_before END) AS next_try FROM job WHERE state = 'queued'",
        {"now": stamp(now)},
    ).one()
    oldest = connection.exec_driver_sql("SELECT min(queued_at) FROM job WHERE state = 'queued'").scalar()
    ready = row.waiting - row.later
    return {"ready": ready, "later": row.later, "next_try": row.next_try, "oldest": oldest if ready else None}


def queued_by_model(connection: Connection) -> dict[str, int]:
    """How many jobs are queued for each model, by its name; models without any are left out."""
    sql = "SELECT model_name, count(*) AS jobs FROM job INDEXED BY job_of_model WHERE state = 'queued' GROUP BY 1"
    return {row.model_name: row.jobs for row in connection.exec_driver_sql(sql)}


def queued_for(connection: Connection, model_name: str) -> list[int]:
    """The jobs that wait for this model, in the order in which they would be taken."""
    sql = (
        "SELECT id FROM job INDEXED BY job_of_model WHERE state = 'queued' AND model_name = ? "
        "ORDER BY priority DESC, id"
    )
    return list(connection.exec_driver_sql(sql, (model_name,)).scalars())


def next_jobs(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The jobs that will be taken next, in this order."""
    return [dict(row) for row in connection.exec_driver_sql(NEXT, (limit,)).mappings()]


def active_jobs(connection: Connection) -> list[dict[str, Any]]:
    """The jobs that are worked on or delivered, those under way longest first."""
    return [dict(row) for row in connection.exec_driver_sql(ACTIVE).mappings()]


def recent_jobs(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The jobs that ended last, the latest first."""
    return [dict(row) for row in connection.exec_driver_sql(RECENT, (limit,)).mappings()]


def today(connection: Connection) -> dict[str, int]:
    """How many jobs ended since midnight of the machine's clock, by state."""
    return {
        row.state: row.jobs
        for row in connection.exec_driver_sql("SELECT state, count(*) AS jobs FROM today GROUP BY state")
    }


def last_event_at(connection: Connection) -> str | None:
    """When something was written down last; None when nothing ever happened."""
    at: str | None = connection.exec_driver_sql("SELECT at FROM event WHERE id = (SELECT max(id) FROM event)").scalar()
    return at


def options(connection: Connection, job_id: int) -> dict[str, Any]:
    """What a job was frozen with when its scan was taken; where that cannot be read, why it is refused."""
    text = connection.exec_driver_sql("SELECT options FROM job WHERE id = ?", (job_id,)).scalar()
    if not text:
        return {}
    asked = unreadable.options(text)
    found: dict[str, Any] = json.loads(asked.to_json() if asked.refused else text)
    return found


def jobs_of_name(connection: Connection, name: str) -> list[int]:
    """The jobs of what was dropped at exactly this path below the inbox, those of the latest file first; of a file that
    several models compute, the first one's before the others'."""
    sql = (
        "SELECT job_id, max(coalesce(file_of, id)) AS file, max(id) AS last FROM arrival "
        "WHERE path_text = ? AND job_id IS NOT NULL GROUP BY job_id ORDER BY file DESC, last"
    )
    return [row.job_id for row in connection.exec_driver_sql(sql, (name,))]


BESIDE = """
WITH file AS (SELECT DISTINCT coalesce(file_of, id) AS id FROM arrival WHERE job_id = :job_id)
SELECT DISTINCT job.id, job.model_name, job.state FROM (
    SELECT job_id FROM arrival WHERE id IN (SELECT id FROM file)
    UNION SELECT job_id FROM arrival WHERE file_of IN (SELECT id FROM file)
) AS other JOIN job ON job.id = other.job_id WHERE job.id <> :job_id ORDER BY job.id
"""


def jobs_beside(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """The jobs of other models for the same files, each with its ``model_name`` and ``state``."""
    return [dict(row) for row in connection.exec_driver_sql(BESIDE, {"job_id": job_id}).mappings()]


def last_arrival_id(connection: Connection) -> int:
    """The number of the latest arrival; what comes in from now on has a higher one."""
    return int(connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM arrival").scalar_one())


def waited_for(connection: Connection, names: Sequence[str], *, after: int) -> dict[str, list[dict[str, Any]]]:
    """What became of the files that came in under these names after arrival ``after``, with their jobs' states: of the
    latest file of a name a row for each of its models, the first one's first."""
    found: dict[str, list[dict[str, Any]]] = {}
    rows = select_in(connection, WAITED_FOR, list(names))
    for row in sorted((row for row in rows if row.id > after), key=lambda row: (row.file, row.id)):
        of_file = found.setdefault(row.source, [])
        if of_file and of_file[0]["file"] != row.file:
            of_file.clear()
        of_file.append(dict(row._mapping))
    return found


def results_of(connection: Connection, arrival_id: int) -> list[dict[str, Any]]:
    """What lies in the outbox for an arrival; what an earlier one of the same name and job has, it shares."""
    sql = (
        "SELECT output.kind, output.path_text AS path, output.sha256, output.bytes FROM arrival AS asked "
        "JOIN arrival AS same ON same.job_id = asked.job_id AND same.path = asked.path "
        "JOIN output ON output.arrival_id = same.id WHERE asked.id = ? AND output.state = 'delivered' "
        "ORDER BY output.id"
    )
    return [dict(row) for row in connection.exec_driver_sql(sql, (arrival_id,)).mappings()]


def runs_of_job(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """The daemon's runs that did something with a job, each with its ``pid``, its replicas' ``pids`` and its boot."""
    rows = connection.exec_driver_sql(
        "SELECT id, pid, boot_id, started_at FROM run WHERE id IN (SELECT run_id FROM event WHERE job_id = :job "
        "UNION SELECT run_id FROM attempt WHERE job_id = :job "
        "UNION SELECT run_id FROM arrival WHERE job_id = :job) ORDER BY id",
        {"job": job_id},
    ).mappings()
    return [dict(row) | {"pids": _replica_pids(connection, row["id"])} for row in rows]


def _replica_pids(connection: Connection, run_id: int) -> list[int]:
    sql = "SELECT pid FROM replica WHERE run_id = ? AND pid IS NOT NULL ORDER BY id"
    return [row.pid for row in connection.exec_driver_sql(sql, (run_id,))]
