"""Whose mask it is: results name the model of the replica that made them, and jobs keep what their sidecars said.

Until now a job's model was the one that was loaded when its file was taken. Where another one had computed the result,
`attempt.replica_id` proves it, and the job is put right; a result without that proof is marked as of an unknown model.
Jobs that are in the queue are left: they are made anew for the model in use when their turn comes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from alembic import op

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STEP = 20_000
"""Jobs that are looked at together, by their numbers: memory does not grow with the history."""

OLD_WORDS = "error_class IN ('input', 'transient', 'memory', 'crash', 'no-mask')"
NEW_WORDS = "error_class IN ('input', 'transient', 'memory', 'crash', 'no-mask', 'lost')"

WRONG = """
SELECT job.id, job.scan_id, job.options, job.segmenter, job.model, job.model_revision, job.dtype,
       coalesce(replica.segmenter, 'unknown') AS true_segmenter, coalesce(replica.model, '') AS true_model,
       coalesce(replica.model_revision, '') AS true_revision, coalesce(replica.dtype, '') AS true_dtype
FROM job LEFT JOIN attempt ON attempt.id = job.attempt_id
         LEFT JOIN replica ON replica.id = attempt.replica_id AND replica.ready_at IS NOT NULL
WHERE job.id > ? AND job.id <= ?
  AND (job.state IN ('succeeded', 'delivering') OR job.state IN ('failed', 'quarantined') AND replica.id IS NOT NULL)
  AND (replica.id IS NULL OR (job.segmenter, job.model, job.model_revision, job.dtype)
       <> (replica.segmenter, replica.model, replica.model_revision, replica.dtype))
ORDER BY job.id
"""

TAKEN = "SELECT 1 FROM job WHERE scan_id = ? AND options_key = ? AND id <> ?"

PUT_RIGHT = """
UPDATE job SET options_key = ?, segmenter = ?, model = ?, model_revision = ?, dtype = ? WHERE id = ?
"""

TELL = """
INSERT INTO event (at, job_id, kind, detail) VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?, 'corrected', ?)
"""


def upgrade() -> None:
    """Add the column and the word, then go through the jobs."""
    connection = op.get_bind()
    connection.exec_driver_sql("ALTER TABLE job ADD COLUMN overrides TEXT")
    _let_jobs_be_lost(connection)
    context = op.get_context().environment_context
    mark = context.config.attributes.get("mark") if context is not None else None
    _put_right(connection, mark or (lambda _: None))


def _let_jobs_be_lost(connection: Connection) -> None:
    """Allow one more class of errors, without writing a million rows anew.

    SQLite names this way for changes that leave the rows as they are: https://www.sqlite.org/lang_altertable.html, at
    the end of section 7.
    """
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name IN ('job', 'attempt')",
        (OLD_WORDS, NEW_WORDS),
    ).rowcount
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    if changed != 2:
        raise RuntimeError(f"{changed} of the tables job and attempt were found")


def _put_right(connection: Connection, mark: Callable[[float], None]) -> None:
    last = connection.exec_driver_sql("SELECT max(id) FROM job").scalar() or 0
    for start in range(0, last, STEP):
        for row in connection.exec_driver_sql(WRONG, (start, start + STEP)).fetchall():
            _correct(connection, row)
        mark(min(1.0, (start + STEP) / last))


def _correct(connection: Connection, row: Any) -> None:
    old = [row.segmenter, row.model, row.model_revision, row.dtype]
    true = [row.true_segmenter, row.true_model, row.true_revision, row.true_dtype]
    key = hashlib.sha256(f"{row.options}\n{json.dumps(true)}".encode()).hexdigest()
    if connection.exec_driver_sql(TAKEN, (row.scan_id, key, row.id)).scalar():
        key = f"{key}-{row.id}"  # another job of these bytes has it: this one shares its result with nobody
    connection.exec_driver_sql(PUT_RIGHT, (key, *true, row.id))
    names = ("segmenter", "model", "model_revision", "dtype")
    detail = {"from": dict(zip(names, old, strict=True)), "to": dict(zip(names, true, strict=True))}
    connection.exec_driver_sql(TELL, (row.id, json.dumps(detail)))
