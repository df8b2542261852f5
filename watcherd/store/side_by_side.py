"""Which jobs of two models are of the same scans, for `watcherd compare`. Only reads.

The same scan is the same bytes, and for a frame of a run the same path, since its mask depends on its neighbours. Of
several jobs of a model the newest counts that has something to be compared with: the other's job of the same file,
where a profile's `models` have both compute it, or one that was asked for alike.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from watcherd.job import FINISHED, State
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

JOBS = """
SELECT id, scan_id, model_name, state, source,
    CAST(coalesce(json_extract(options, '$.threshold'), threshold, 0) AS REAL) AS threshold,
    coalesce(json_extract(options, '$.prompt'), '') AS prompt, coalesce(json_extract(options, '$.frame'), '') AS frame
FROM job WHERE model_name IN (:first, :second) AND json_valid(options) AND scan_id IN (
    SELECT scan_id FROM job WHERE model_name IN (:first, :second)
        AND (:since IS NULL OR created_at >= :since) AND (:profile IS NULL OR profile = :profile)
        AND (:folder IS NULL OR (source >= :folder || '/' AND source < :folder || '0')))
ORDER BY id DESC
"""
"""``0`` comes after ``/``: what is between is below the folder."""

SAME_FILE = """
SELECT coalesce(arrival.file_of, arrival.id) AS file, arrival.job_id FROM arrival
WHERE arrival.file_of IS NOT NULL OR arrival.id IN (SELECT file_of FROM arrival WHERE file_of IS NOT NULL)
"""

HAS_JOBS = "SELECT EXISTS (SELECT 1 FROM job WHERE model_name = ?)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which scans: those of which either model's job was made since a time, for a profile, of a file below a folder of
    the inbox; None: all."""

    since: datetime | None = None
    profile: str | None = None
    folder: str | None = None


@dataclass(kw_only=True, slots=True)
class SideBySide:
    """What two models have in common, the newest first.

    ``pairs``: for each scan that both have done, the first one's job and the second one's. ``otherwise``: such scans
    whose jobs were asked for with another threshold or prompt, each with how. ``only``: scans that one model alone has
    a job for, ``failed``: those that it gave no mask for, by its name; ``unfinished``: those that are not done yet.
    """

    pairs: list[tuple[int, int]] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)
    only: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0


def has_jobs(connection: Connection, model: str) -> bool:
    """Whether the history knows of a job for the model of this name."""
    return bool(connection.exec_driver_sql(HAS_JOBS, (model,)).scalar())


def find(connection: Connection, first: str, second: str, wanted: Wanted) -> SideBySide:
    """The scans of two models, by their names in the configuration."""
    values = {
        "first": first,
        "second": second,
        "since": stamp(wanted.since) if wanted.since else None,
        "profile": wanted.profile,
        "folder": wanted.folder,
    }
    scans: dict[tuple[int, str], dict[str, list[Any]]] = {}
    for row in connection.exec_driver_sql(JOBS, values):
        scans.setdefault((row.scan_id, row.frame), {first: [], second: []})[row.model_name].append(row)
    files = _files(connection)
    found = SideBySide(only={first: 0, second: 0}, failed={first: 0, second: 0})
    for jobs in scans.values():
        _sort(found, jobs[first], jobs[second], files, (first, second))
    found.pairs.sort(key=max, reverse=True)
    return found


def _files(connection: Connection) -> dict[int, set[int]]:
    """The files that several models compute, by the jobs that were made of them."""
    found: dict[int, set[int]] = defaultdict(set)
    for row in connection.exec_driver_sql(SAME_FILE):
        found[row.job_id].add(row.file)
    return found


def _sort(
    found: SideBySide, first: Sequence[Any], second: Sequence[Any], files: dict[int, set[int]], names: tuple[str, str]
) -> None:
    """Take note of one scan: what it counts as."""
    if not first or not second:
        found.only[names[0] if first else names[1]] += 1
        return
    done = [[row for row in rows if row.state == State.SUCCEEDED] for rows in (first, second)]
    if all(done):
        _pair(found, done[0], done[1], files)
        return
    lacking = [(name, rows) for name, rows, good in zip(names, (first, second), done, strict=True) if not good]
    if any(row.state not in FINISHED for _, rows in lacking for row in rows):
        found.unfinished += 1
        return
    for name, _ in lacking:
        found.failed[name] += 1


def _pair(found: SideBySide, first: Iterable[Any], second: Sequence[Any], files: dict[int, set[int]]) -> None:
    pairs = [(one, other) for one in first for other in second]
    good = [
        pair for pair in pairs if not _difference(*pair) or files.get(pair[0].id, set()) & files.get(pair[1].id, set())
    ]
    if good:
        one, other = max(good, key=lambda pair: (max(pair[0].id, pair[1].id), min(pair[0].id, pair[1].id)))
        found.pairs.append((one.id, other.id))
        return
    one, other = pairs[0]
    found.otherwise.append(f"{one.source}: jobs {one.id} and {other.id} were asked for with {_difference(one, other)}.")


def _difference(one: Any, other: Any) -> str:
    """In what two jobs were asked for otherwise, in words; a model that is told nothing has no prompt."""
    if one.threshold != other.threshold:
        return f"the thresholds {one.threshold:g} and {other.threshold:g}"
    if one.prompt and other.prompt and one.prompt != other.prompt:
        return f"the prompts {one.prompt!r} and {other.prompt!r}"
    return ""
