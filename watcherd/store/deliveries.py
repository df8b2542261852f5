"""What is promised to the outbox, and what lies there: the tables ``output`` and ``arrival.delivery``.

Names and hashes are written down before a file gets its final name, so that a crash in between can be finished from
here. Each dropped name has its own results: those of a job's first arrival are delivered with the job
(`queue.begin_delivery`), those of duplicates and the notes of failed jobs one arrival at a time (`begin_redelivery`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.file_names import show
from watcherd.job import State
from watcherd.store.records import ArrivalInfo, Output, PathSignature, stamp
from watcherd.store.statements import one_by_one, select_in
from watcherd.values import Intent

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.store.statements import Row

REPLACE = "UPDATE output SET state = 'removed' WHERE path = :path AND job_id = :job_id AND state <> 'removed'"

PROMISE = """
INSERT INTO output (job_id, arrival_id, attempt_id, kind, path, path_text, staged_path, sha256, bytes, state)
VALUES (:job_id, :arrival_id, :attempt_id, :kind, :path, :path_text, :staged_path, :sha256, :bytes, 'intended')
"""

KEEP_PROMISE = """
UPDATE output SET state = 'delivered', delivered_at = :now WHERE arrival_id = :arrival_id AND state = 'intended'
"""

JOB_ENDED = """
UPDATE arrival SET delivery = CASE
    WHEN id = :delivered_arrival THEN 'delivered'
    WHEN EXISTS (SELECT 1 FROM arrival AS other WHERE other.job_id = arrival.job_id AND other.path = arrival.path
                 AND (other.id < arrival.id OR other.id = :delivered_arrival)) THEN 'none'
    ELSE 'due' END
WHERE job_id = :job_id AND delivery = 'waiting'
"""
"""What an ended job means to the names that wait for it. A name that was dropped twice gets its result once."""

JOB_WAITS = "UPDATE arrival SET delivery = 'waiting' WHERE job_id = :job_id"

DROP_PROMISES = (
    "UPDATE output SET state = 'delivered', delivered_at = :now WHERE job_id = :job_id AND state = 'intended'"
)
"""A job was asked for again while its note was being put into place. The note may lie there or not: it counts as
delivered, so that `outdated_outputs` names it when the new result is there."""


def promised(
    intents: Sequence[Intent], *, job_id: int, arrival_id: int, attempt_id: int | None
) -> list[dict[str, Any]]:
    """Rows for `promise`."""
    return [
        {
            "job_id": job_id,
            "arrival_id": arrival_id,
            "attempt_id": attempt_id,
            "kind": intent.kind,
            "path": intent.final,
            "path_text": show(intent.final),
            "staged_path": os.fsencode(intent.staged),
            "sha256": intent.sha256,
            "bytes": intent.bytes,
        }
        for intent in intents
    ]


def promise(connection: Connection, rows: Sequence[Row]) -> None:
    """Write down names and hashes; a job's own earlier result under the same name is replaced.

    Raises `StoreError` when a name belongs to another job: see `owners`.
    """
    owned = owners(connection, [row["path"] for row in rows])
    one_by_one(connection, REPLACE, [row for row in rows if row["path"] in owned])
    one_by_one(connection, PROMISE, rows)


def notes(connection: Connection, arrival_ids: Sequence[int]) -> dict[int, str]:
    """What the history says beside each of these names (`records.NewArrival`), where it says anything."""
    sql = "SELECT id, reason FROM arrival WHERE id IN ({values}) AND reason IS NOT NULL"
    return {row.id: row.reason for row in select_in(connection, sql, list(arrival_ids))}


def begin_redelivery(connection: Connection, arrival_id: int, intents: Sequence[Intent]) -> None:
    """Promise results (or a failed job's note) to an arrival that `arrivals_to_deliver` named."""
    job_id, attempt_id = connection.exec_driver_sql(
        "SELECT job.id, job.attempt_id FROM arrival JOIN job ON job.id = arrival.job_id WHERE arrival.id = ?",
        (arrival_id,),
    ).one()
    promise(connection, promised(intents, job_id=job_id, arrival_id=arrival_id, attempt_id=attempt_id))
    connection.exec_driver_sql("UPDATE arrival SET delivery = 'intended' WHERE id = ?", (arrival_id,))


def finish_redelivery(connection: Connection, arrival_ids: Sequence[int], *, now: datetime) -> None:
    """The promised results of these arrivals lie in the outbox.

    An arrival whose job was asked for again in between waits for the new result.
    """
    rows = [{"arrival_id": arrival_id, "now": stamp(now)} for arrival_id in arrival_ids]
    one_by_one(connection, KEEP_PROMISE, rows)
    one_by_one(
        connection, "UPDATE arrival SET delivery = 'delivered' WHERE id = :arrival_id AND delivery = 'intended'", rows
    )


def skip_delivery(connection: Connection, arrival_ids: Sequence[int]) -> None:
    """Nothing is to be delivered to these arrivals; their files may be disposed of."""
    rows = [{"arrival_id": arrival_id} for arrival_id in arrival_ids]
    one_by_one(
        connection,
        "UPDATE arrival SET delivery = 'none' WHERE id = :arrival_id AND delivery IN ('due', 'intended')",
        rows,
    )


def mark_removed(connection: Connection, output_ids: Sequence[int]) -> None:
    """These results were taken out of the outbox."""
    rows = [{"id": output_id} for output_id in output_ids]
    one_by_one(connection, "UPDATE output SET state = 'removed' WHERE id = :id", rows)


_OUTPUT = """
SELECT output.id, output.job_id, output.arrival_id, output.state, output.kind, output.staged_path, output.path,
       output.sha256, output.bytes
FROM output
"""


def _outputs(rows: Sequence[Any]) -> list[Output]:
    return [
        Output(
            id=row.id,
            job_id=row.job_id,
            arrival_id=row.arrival_id,
            state=row.state,
            intent=Intent(
                kind=row.kind,
                staged=Path(os.fsdecode(row.staged_path)),
                final=row.path,
                sha256=row.sha256,
                bytes=row.bytes,
            ),
        )
        for row in rows
    ]


def outputs_of(connection: Connection, arrival_id: int) -> list[Output]:
    """What is promised or delivered under this arrival's name, in order of delivery."""
    sql = _OUTPUT + "WHERE arrival_id = ? AND state <> 'removed' ORDER BY id"
    return _outputs(connection.exec_driver_sql(sql, (arrival_id,)).fetchall())


def outdated_outputs(connection: Connection, arrival_id: int) -> list[Output]:
    """Delivered under this arrival's name by an earlier attempt than the job's last: a failure's note, for example."""
    sql = _OUTPUT + (
        "JOIN job ON job.id = output.job_id "
        "WHERE output.arrival_id = ? AND output.state = 'delivered' AND output.attempt_id IS NOT job.attempt_id"
    )
    return _outputs(connection.exec_driver_sql(sql, (arrival_id,)).fetchall())


def owners(connection: Connection, finals: Sequence[bytes]) -> dict[bytes, int]:
    """Which of these paths below the outbox are some job's result, and which job's."""
    sql = "SELECT path, job_id FROM output WHERE state <> 'removed' AND path IN ({values})"
    return {row.path: row.job_id for row in select_in(connection, sql, finals)}


_ARRIVAL = """
SELECT arrival.id, arrival.job_id, job.state, arrival.path, arrival.size_bytes, arrival.mtime_ns, arrival.device,
       arrival.inode, arrival.ctime_ns, scan.sha256, arrival.path_text, arrival.duplicate_of,
       CASE WHEN arrival.file_of IS NULL THEN '' ELSE job.model_name END AS beside
FROM arrival JOIN job ON job.id = arrival.job_id JOIN scan ON scan.id = job.scan_id
"""

_OF_ALL = """CASE WHEN job.state <> 'succeeded' THEN job.state ELSE coalesce((
    SELECT of_other.state FROM arrival AS other JOIN job AS of_other ON of_other.id = other.job_id
    WHERE other.file_of = arrival.id AND of_other.state <> 'succeeded' LIMIT 1), job.state) END AS state"""
"""The state of all jobs of a file: succeeded when every model's has."""

_TO_DISPOSE = _ARRIVAL.replace("job.state", _OF_ALL, 1)

_UNDER_WAY = "WHERE arrival.delivery IN ('due', 'intended') AND "
"""As the partial index has it, to the letter: SQLite does not conclude it from what follows."""


def _arrivals(rows: Sequence[Any]) -> list[ArrivalInfo]:
    return [
        ArrivalInfo(
            id=row.id,
            job_id=row.job_id,
            state=State(row.state),
            signature=PathSignature.of(row),
            sha256=row.sha256,
            source=row.path_text,
            duplicate_of=row.duplicate_of,
            beside=row.beside,
        )
        for row in rows
    ]


def arrivals_to_deliver(connection: Connection, limit: int, *, but: Collection[int] = ()) -> list[ArrivalInfo]:
    """Arrivals whose job has ended, while nothing is visible under their own name yet, leaving out those in ``but``.

    Duplicates of a job that succeeded, and every arrival of one that failed, was quarantined or cancelled.
    """
    sql = _ARRIVAL + _UNDER_WAY + "arrival.delivery = 'due' ORDER BY arrival.id LIMIT ?"
    return _but(connection.exec_driver_sql(sql, (limit + len(but),)).fetchall(), but, limit)


def arrivals_promised(connection: Connection) -> list[ArrivalInfo]:
    """Arrivals whose redelivery was begun and not finished: publish what `outputs_of` says, and finish."""
    sql = _ARRIVAL + _UNDER_WAY + "arrival.delivery = 'intended' ORDER BY arrival.id"
    return _arrivals(connection.exec_driver_sql(sql).fetchall())


def arrivals_to_dispose(connection: Connection, limit: int, *, but: Collection[int] = ()) -> list[ArrivalInfo]:
    """Arrivals that are done with by all their models, visible results included, and whose file still lies in the
    inbox; not ``but``."""
    sql = _TO_DISPOSE + (
        "WHERE arrival.disposal = 'pending' AND arrival.delivery IN ('delivered', 'none') AND arrival.awaited = 0 "
        "ORDER BY arrival.id LIMIT ?"
    )
    return _but(connection.exec_driver_sql(sql, (limit + len(but),)).fetchall(), but, limit)


def _but(rows: Sequence[Any], but: Collection[int], limit: int) -> list[ArrivalInfo]:
    return _arrivals([row for row in rows if row.id not in but][:limit])
