"""What people say of masks that they have looked at: one verdict for each job, of the attempt that they saw."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.file_names import storable
from watcherd.store.records import stamp
from watcherd.store.statements import select_in
from watcherd.store.tables import Verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

VERDICTS = Verdicts
FIELDS = (
    "job_id", "verdict", "source", "note", "reviewer", "at", "outdated", "profile", "model_name", "segmenter", "model",
    "model_revision", "threshold", "mask_fraction", "state", "attempt_id",
)  # fmt: skip
"""Columns of the view ``reviews``."""

_PUT = """
INSERT INTO review (job_id, attempt_id, verdict, note, reviewer, at)
VALUES (:job_id, :attempt_id, :verdict, :note, :reviewer, :at)
ON CONFLICT (job_id) DO UPDATE SET attempt_id = excluded.attempt_id, verdict = excluded.verdict, note = excluded.note,
    reviewer = excluded.reviewer, at = excluded.at
"""

_EVENT = "INSERT INTO event (at, job_id, kind, detail) VALUES (:at, :job_id, :kind, :detail)"

_SELECT = "SELECT * FROM reviews"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What somebody says of a job's mask. ``verdict``: one of `VERDICTS`, or None to take back what was said.

    ``attempt``: whose mask was looked at; None: whichever there is now.
    """

    job: int
    verdict: str | None
    note: str = ""
    reviewer: str = ""
    attempt: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgeable:
    """A job as far as a verdict needs it. ``attempt``: that made the mask which is there now."""

    state: str
    attempt: int | None


def judgeable(connection: Connection, job_id: int) -> Judgeable | None:
    """The job of this number; None when there is none."""
    row = connection.exec_driver_sql("SELECT state, attempt_id FROM job WHERE id = ?", (job_id,)).first()
    return Judgeable(state=row.state, attempt=row.attempt_id) if row is not None else None


def put(connection: Connection, said: Verdict, *, attempt: int | None, now: datetime) -> None:
    """Write a verdict down in place of an earlier one, which stays in the job's events."""
    at = stamp(now)
    values = {
        "job_id": said.job,
        "attempt_id": attempt,
        "verdict": said.verdict,
        "note": storable(said.note),
        "reviewer": storable(said.reviewer),
        "at": at,
    }
    if said.verdict is None:
        connection.exec_driver_sql("DELETE FROM review WHERE job_id = ?", (said.job,))
    else:
        connection.exec_driver_sql(_PUT, values)
    detail = {"reason": ": ".join(filter(None, map(storable, (said.reviewer, said.note))))}
    kind = said.verdict or "review-taken-back"
    event = {"at": at, "job_id": said.job, "kind": kind, "detail": json.dumps(detail)}
    connection.exec_driver_sql(_EVENT, event)


def of_jobs(connection: Connection, job_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Reviews by their jobs; jobs without one are left out."""
    rows = select_in(connection, _SELECT + " WHERE job_id IN ({values})", job_ids)
    return {row.job_id: _review(row) for row in rows}


def every(connection: Connection, *, verdict: str | None = None) -> list[dict[str, Any]]:
    """All reviews, or those of one verdict, in the order of their jobs."""
    where, values = (" WHERE verdict = ?", (verdict,)) if verdict else ("", ())
    rows = connection.exec_driver_sql(f"{_SELECT}{where} ORDER BY job_id", values)
    return [_review(row) for row in rows]


def _review(row: Any) -> dict[str, Any]:
    return dict(row._mapping) | {"outdated": bool(row.outdated)}
