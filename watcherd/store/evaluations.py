"""Evaluations in the history: how good masks were where somebody had drawn some, so that models compare over months."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence  # noqa: TC003 - the service checks documents against these fields
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.file_names import storable
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedScan:
    """One scan of an evaluation. ``figures``: by name, None for what it does not have; lengths are in ``unit``."""

    name: str
    group_name: str
    unit: str
    figures: Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What one `watcherd evaluate` found.

    ``source``: whose masks, one of `tables.JudgedMasks`; ``judged``: where they were; ``truth``: the folder of drawn
    masks. ``figures``: of each the mean over the scans with its interval (``low``, ``high``). ``failed``: scans that
    could not be judged.
    """

    version: str
    source: str
    model: str
    threshold: float | None
    profile: str | None
    truth: str
    judged: str
    against: str | None
    failed: int
    figures: Mapping[str, Figures]
    scans: Sequence[EvaluatedScan]


_ADD = """
INSERT INTO evaluation (at, version, source, model, threshold, profile, truth, judged, against, scans, failed, figures)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
"""

_ADD_SCAN = "INSERT INTO evaluation_scan (evaluation_id, number, name, group_name, unit, figures) VALUES (?,?,?,?,?,?)"


def add(connection: Connection, one: Evaluation, *, now: datetime) -> int:
    """Write it down; its id."""
    values = (
        stamp(now),
        one.version,
        one.source,
        storable(one.model),
        one.threshold,
        one.profile,
        storable(one.truth),
        storable(one.judged),
        None if one.against is None else storable(one.against),
        len(one.scans),
        one.failed,
        json.dumps(one.figures),
    )
    found = int(connection.exec_driver_sql(_ADD, values).scalar_one())
    rows = [
        (found, number, storable(scan.name), storable(scan.group_name), scan.unit, json.dumps(scan.figures))
        for number, scan in enumerate(one.scans, start=1)
    ]
    connection.exec_driver_sql(_ADD_SCAN, rows)
    return found
