"""An evaluation that `watcherd evaluate` found, on its way into the history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from watcherd.errors import UsageError
from watcherd.store import evaluations
from watcherd.store.tables import JudgedMasks, LengthUnit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from watcherd.store import Database

MOST_SCANS = 100_000
"""Scans of an evaluation that the history keeps."""


def record(database: Database, document: Mapping[str, Any], now: datetime) -> str:
    """Write it down; its number, in words. Raises `UsageError` for what is no evaluation."""
    one = _read(document)
    number = database.write(lambda c: evaluations.add(c, one, now=now))
    return f"evaluation {number}"


def _read(document: Mapping[str, Any]) -> evaluations.Evaluation:
    try:
        json.dumps(document, allow_nan=False)
        one = TypeAdapter(evaluations.Evaluation).validate_python(document)
    except (ValidationError, ValueError) as error:
        raise UsageError(
            f"This is no evaluation: {str(error).splitlines()[0]}", hint="Was it of another version?"
        ) from error
    if one.source not in JudgedMasks or any(scan.unit not in LengthUnit for scan in one.scans) or not one.scans:
        raise UsageError("This is no evaluation: its source, or the unit of a scan, is not known, or it has no scan.")
    if len(one.scans) > MOST_SCANS:
        raise UsageError(f"{len(one.scans):,} scans are more than the {MOST_SCANS:,} of one evaluation that are kept.")
    return one
