"""The figures of masks: the table ``measure``, a row for each frame of a job that has results.

Written with the promise of the results and replaced with them, so that figures and masks are of the same attempt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.store.connections import driver_of
from watcherd.store.statements import chunks, one_by_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from watcherd.values import FrameMeasure

FORGET = "DELETE FROM measure WHERE job_id IN (SELECT value FROM json_each(?))"

KEEP = """
INSERT INTO measure (job_id, frame, fullest, unit, area_fraction, components, length, mean_width, max_width)
VALUES (:job_id, :frame, :fullest, :unit, :area_fraction, :components, :length, :mean_width, :max_width)
"""

OF_JOB = """
SELECT frame, unit, area_fraction, components, length, mean_width, max_width FROM measure WHERE job_id = ?
ORDER BY frame
"""


def keep(connection: Connection, measures: Sequence[tuple[int, Sequence[FrameMeasure]]]) -> None:
    """Write the measures of these jobs (id and frames), in place of earlier ones."""
    forget(connection, [job_id for job_id, _ in measures])
    one_by_one(connection, KEEP, [row for job_id, frames in measures for row in _rows(job_id, frames)])


def forget(connection: Connection, job_ids: Sequence[int]) -> None:
    """These jobs have no results any more."""
    for piece in chunks(job_ids):
        driver_of(connection).execute(FORGET, (json.dumps(piece),))


def fullest(frames: Sequence[FrameMeasure]) -> FrameMeasure | None:
    """The frame with most mask, the first of equal ones: what stands for the whole scan."""
    return max(frames, key=lambda frame: frame.area_fraction, default=None)


def _rows(job_id: int, frames: Sequence[FrameMeasure]) -> list[dict[str, Any]]:
    chosen = fullest(frames)
    return [{**frame.columns(), "job_id": job_id, "fullest": frame is chosen} for frame in frames]


def of_job(connection: Connection, job_id: int) -> list[dict[str, Any]]:
    """The measures of a job's masks, frame by frame; empty when it has none."""
    return [dict(row) for row in connection.exec_driver_sql(OF_JOB, (job_id,)).mappings()]
