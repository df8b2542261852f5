"""Attributes of scans that results may repeat: the table ``attribute``, filled only where the configuration asks.

Written with the promise of the results and replaced with them, as `figures` are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.file_names import storable
from watcherd.store.statements import one_by_one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

FORGET = "DELETE FROM attribute WHERE job_id = :job_id"
KEEP = "INSERT INTO attribute (job_id, keyword, value) VALUES (:job_id, :keyword, :value)"


def keep(connection: Connection, told: Sequence[tuple[int, Mapping[str, str]]]) -> None:
    """Write what these jobs' scans say (id, and values by keyword), in place of earlier ones."""
    one_by_one(connection, FORGET, [{"job_id": job_id} for job_id, _ in told])
    rows = [
        {"job_id": job_id, "keyword": storable(keyword), "value": storable(value)}
        for job_id, values in told
        for keyword, value in values.items()
    ]
    one_by_one(connection, KEEP, rows)
