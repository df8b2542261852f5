"""Which queued jobs are the frames of one run, and whether the run is complete enough to be claimed. Only reads.

A job is a frame when its options say so (`watcherd.job.Options.frame`); its run follows from its path. No table knows
of runs: the names of a run lie side by side in an index, so that a look at the neighbours finds them, and costs the
same with a million other jobs.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from watcherd.file_names import show
from watcherd.frame_files import name_of_several
from watcherd.store.records import RunPlace, moment, stamp
from watcherd.store.statements import select_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.frame_files import FrameName

AGAIN = timedelta(seconds=1)
"""Time until the next look at a run whose other files are being taken."""

CLAIMABLE = """job.id, job.arrival_id, job.source, job.options, job.attempts, job.attempts_before, job.crashes_alone,
       job.interruptions, job.solo, job.priority, job.queued_at, job.scan_id, job.overrides, job.segmenter, job.model,
       job.model_revision, job.dtype, arrival.path, arrival.file_of, scan.sha256, scan.spool_name, scan.size_bytes"""
"""What `queue.claim` has to know of a job."""

NEIGHBOURS = """
SELECT job.id, job.state, job.solo, job.not_before, job.queued_at, job.started_at, arrival.path
FROM arrival INDEXED BY arrival_name CROSS JOIN job ON job.id = arrival.job_id AND job.arrival_id = arrival.id
WHERE arrival.path_text {side} :own AND arrival.path_text {bound}
  AND json_remove(job.options, '$.frame', '$.pictures') =
    (SELECT json_remove(options, '$.frame', '$.pictures') FROM job WHERE id = :job_id)
ORDER BY arrival.path_text {order} LIMIT :most
"""
BEFORE = NEIGHBOURS.format(side="<", bound=">= :first", order="DESC")
AFTER = NEIGHBOURS.format(side=">=", bound="< :last", order="ASC")
CHOSEN = f"""
SELECT {CLAIMABLE} FROM job JOIN arrival ON arrival.id = job.arrival_id JOIN scan ON scan.id = job.scan_id
WHERE job.id IN ({{values}})
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """How long the frames of a run are held back for one another.

    ``quiet``: a run is complete when no frame has come for so long; ``longest``: it is held back no longer than this
    in all, counted from ``since`` for frames that had been waiting before. ``most``: frames of one run at most; what
    is beyond them is the next piece. ``expected``: whether files whose paths begin so may still be on their way.
    ``channels``: more than 1 where the files are the channels of a case, of which there are so many: all that are
    queued belong to it, those too that wait for another try, for none means anything without the others.
    """

    quiet: timedelta = timedelta(0)
    longest: timedelta = timedelta(0)
    since: datetime | None = None
    most: int = 2000
    expected: Callable[[bytes], bool] = lambda _before: False
    channels: int = 1

    @property
    def is_case(self) -> bool:
        """Whether the files are the channels of a case."""
        return self.channels > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Gathered:
    """The queued frames of a run in order, with their places by job; or, ``until`` when the jobs ``waiting`` have to
    wait for others."""

    rows: Sequence[Any] = ()
    places: Mapping[int, RunPlace] = field(default_factory=dict)
    waiting: Sequence[int] = ()
    until: str | None = None


def gather(connection: Connection, row: Any, hold: Hold, now: datetime) -> Gathered:
    """The run of a queued job that is a frame, as far as it is in the queue.

    Of two files with one number (one was overwritten before its turn came) the newer is the frame. Frames that wait
    for another try, or have to run alone, are no part of it: they come later, by themselves.
    """
    name = name_of_several(row.path)
    if name is None:  # options of a later version, whose names we do not know
        return Gathered(rows=[row])
    near = _near(connection, row, name, hold.most)
    at, soon = stamp(now), stamp(now + hold.quiet)
    queued = {
        number: job
        for number, job in sorted(near, key=lambda pair: pair[1].id)
        if job.state == "queued" and (hold.is_case or (not job.solo and (job.not_before or at) <= soon))
    }
    whole = hold.is_case and set(range(hold.channels)) <= set(queued)
    until = None if whole else _until(queued.values(), hold, now, name.before)
    if until is not None:
        return Gathered(waiting=[job.id for job in queued.values() if (job.not_before or at) <= at], until=until)
    chosen = {queued[number].id: number for number in sorted(queued)[: hold.most]}
    numbers = set(chosen.values())
    others = [job for number, job in near if number not in numbers]
    claimed_at = max((job.started_at or "" for job in others), default="")
    places = {
        queued[number].id: RunPlace(
            name=shown(name),
            frame=number,
            apart=bool(others),
            late=bool(others) and "" < claimed_at <= queued[number].queued_at,
        )
        for number in chosen.values()
    }
    rows = {row.id: row for row in select_in(connection, CHOSEN, list(chosen))}
    return Gathered(rows=[rows[job_id] for job_id in chosen], places=places)


def alone(row: Any) -> RunPlace | None:
    """The place of a frame that is claimed by itself; None for a job that is no frame."""
    name = name_of_several(row.path)
    return RunPlace(name=shown(name), frame=name.number, apart=True) if name is not None else None


def shown(name: FrameName) -> str:
    """A run's name for people: that of its files, with ``#`` for the number."""
    return f"{show(name.before)}#{show(name.after)}"


def _until(queued: Collection[Any], hold: Hold, now: datetime, before: bytes) -> str | None:
    """When to look again at a run that is not complete; None for one that is, or was held back long enough."""
    oldest = min(moment(row.queued_at) for row in queued)
    if now - max(oldest, hold.since or oldest) >= hold.longest:
        return None
    last = max((row.not_before for row in queued if row.not_before is not None), default="")
    if last > stamp(now):
        return str(last)
    return stamp(now + AGAIN) if hold.expected(before) else None


def _near(connection: Connection, row: Any, name: FrameName, most: int) -> list[tuple[int, Any]]:
    """Jobs of the same run and options with their numbers, ``most`` to either side of this one by name."""
    first = show(name.before)
    values = {"own": show(row.path), "first": f"{first}0", "last": f"{first}:", "job_id": row.id, "most": most}
    found = [job for sql in (BEFORE, AFTER) for job in connection.exec_driver_sql(sql, values)]
    places = [(name_of_several(job.path), job) for job in found]
    return [(place.number, job) for place, job in places if place is not None and place.run == name.run]
