"""Attributes of scans that results may repeat: the table ``attribute``, filled only where the configuration asks.

Written with the promise of the results and replaced with them, as `figures` are.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from watcherd.file_names import storable
from watcherd.store.connections import driver_of
from watcherd.store.statements import chunks, one_by_one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

FORGET = "DELETE FROM attribute WHERE job_id IN (SELECT value FROM json_each(?))"
KEEP = "INSERT INTO attribute (job_id, keyword, value) VALUES (:job_id, :keyword, :value)"


def keep(connection: Connection, told: Sequence[tuple[int, Mapping[str, str]]]) -> None:
    """Write what these jobs' scans say (id, and values by keyword), in place of earlier ones."""
    for piece in chunks([job_id for job_id, _ in told]):
        driver_of(connection).execute(FORGET, (json.dumps(piece),))
    rows = [
        {"job_id": job_id, "keyword": storable(keyword), "value": storable(value)}
        for job_id, values in told
        for keyword, value in values.items()
    ]
    one_by_one(connection, KEEP, rows)
