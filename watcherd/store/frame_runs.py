"""Which queued jobs are the frames of one run, and whether the run is complete enough to be claimed. Only reads.

A job is a frame when its options say so (`watcherd.job.Options.frame`); its run follows from its path. No table knows
of runs: the names of a run lie side by side in an index, so that a look at the neighbours finds them, and costs the
same with a million other jobs.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from watcherd.frame_names import frame_name
from watcherd.names import show
from watcherd.store.records import RunPlace, moment, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.frame_names import FrameName

AGAIN = timedelta(seconds=1)
"""A run whose other files are being taken is looked at again so much later."""

CLAIMABLE = """job.id, job.arrival_id, job.source, job.options, job.attempts, job.attempts_before, job.crashes_alone,
       job.interruptions, job.solo, job.priority, job.queued_at, arrival.path, scan.sha256, scan.spool_name,
       scan.size_bytes"""
"""What `queue.claim` has to know of a job."""

NEIGHBOURS = f"""
SELECT {CLAIMABLE}, job.state, job.not_before, json_remove(job.options, '$.frame') AS common
FROM arrival INDEXED BY arrival_name CROSS JOIN job ON job.id = arrival.job_id AND job.arrival_id = arrival.id
     CROSS JOIN scan ON scan.id = job.scan_id
WHERE arrival.path_text {{side}} :own AND arrival.path_text {{bound}}
ORDER BY arrival.path_text {{order}} LIMIT :most
"""
BEFORE = NEIGHBOURS.format(side="<", bound=">= :first", order="DESC")
AFTER = NEIGHBOURS.format(side=">=", bound="< :last", order="ASC")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """How long the frames of a run are held back for one another.

    ``quiet``: a run is complete when no frame has come for so long; ``longest``: it is held back no longer than this
    in all, counted from ``since`` for frames that had been waiting before. ``most``: frames of one run at most; what
    is beyond them is the next piece. ``expected``: whether files whose paths begin so may still be on their way.
    """

    quiet: timedelta = timedelta(0)
    longest: timedelta = timedelta(0)
    since: datetime | None = None
    most: int = 2000
    expected: Callable[[bytes], bool] = lambda _before: False


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """The queued frames of a run in order, with their places; ``until``: they have to wait for others so long."""

    rows: Sequence[Any]
    places: Mapping[int, RunPlace]
    until: str | None = None


def gather(connection: Connection, row: Any, hold: Hold, now: datetime) -> Gathered:
    """The run of a queued job that is a frame, as far as it is in the queue.

    Of two files with one number (one was overwritten before its turn came) the newer is the frame. Frames that wait
    for another try, or have to run alone, are no part of it: they come later, by themselves.
    """
    name = frame_name(row.path)
    if name is None:  # options of a later version, whose names we do not know
        return Gathered(rows=[row], places={})
    near = _near(connection, row, name, hold.most)
    at, soon = stamp(now), stamp(now + hold.quiet)
    queued = {
        found.number: other
        for other, found in sorted(near, key=lambda pair: pair[0].id)
        if other.state == "queued" and not other.solo and (other.not_before is None or other.not_before <= soon)
    }
    until = _until(list(queued.values()), hold, now, name.before)
    if until is not None:
        return Gathered(rows=[r for r in queued.values() if (r.not_before or at) <= at], places={}, until=until)
    numbers = sorted(queued)[: hold.most]
    apart = bool({found.number for _, found in near}.difference(numbers))
    places = {queued[number].id: RunPlace(name=shown(name), frame=number, apart=apart) for number in numbers}
    return Gathered(rows=[queued[number] for number in numbers], places=places)


def alone(row: Any) -> RunPlace | None:
    """The place of a frame that is claimed by itself; None for a job that is no frame."""
    name = frame_name(row.path)
    return RunPlace(name=shown(name), frame=name.number, apart=True) if name is not None else None


def shown(name: FrameName) -> str:
    """A run's name for people: that of its files, with ``#`` for the number."""
    return f"{show(name.before)}#{show(name.after)}"


def _until(queued: Sequence[Any], hold: Hold, now: datetime, before: bytes) -> str | None:
    """When to look again at a run that is not complete; None for one that is, or was held back long enough."""
    oldest = min(moment(row.queued_at) for row in queued)
    if now - max(oldest, hold.since or oldest) >= hold.longest:
        return None
    last = max((row.not_before for row in queued if row.not_before is not None), default="")
    if last > stamp(now):
        return str(last)
    return stamp(now + AGAIN) if hold.expected(before) else None


def _near(connection: Connection, row: Any, name: FrameName, most: int) -> list[tuple[Any, FrameName]]:
    """Jobs of the same run and options, ``most`` to either side of this one in the order of names."""
    first = show(name.before)
    values = {"own": show(row.path), "first": f"{first}0", "last": f"{first}:", "most": most}
    sides = [connection.exec_driver_sql(sql, values).fetchall() for sql in (BEFORE, AFTER)]
    (common,) = {other.common for other in sides[1] if other.id == row.id}
    found = [(other, frame_name(other.path)) for side in sides for other in side if other.common == common]
    return [(other, place) for other, place in found if place is not None and place.run == name.run]
