"""What ``watcherd prune`` takes away by age and size: old archive, old copies in the spool, old history.

Never touched: what has work to be done, what a name still waits for, what lies in the inbox. Nothing is removed for its
age by a wall clock that was set far ahead (`wall_clock.believed`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.store import backup, leftovers, runs
from watcherd.wall_clock import Belief, Reading, believed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.config import Config
    from watcherd.inbox.spool import Spool
    from watcherd.store import Connection, Database

JOBS_AT_ONCE = 20_000
"""Jobs that one `watcherd prune` takes out of the history; the next night goes on."""
SPOOL_AT_ONCE = 20_000
GIB = 1 << 30

BELIEF = "wall_clock"
"""The setting that keeps what is believed of the wall clock."""

DOUBT = (
    "The machine's clock is not believed: it is ahead of the time that has passed for sure, or nothing is known of it "
    "yet. {by}; it is believed when it has gone on for three days. If it is right: watcherd prune --trust-clock"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was taken away. ``doubt``: why the wall clock was not believed; empty: it was."""

    jobs: int = 0
    spool_files: int = 0
    archive_files: int = 0
    archive_bytes: int = 0
    doubt: str = ""

    def __str__(self) -> str:
        said = (
            f"{self.jobs} jobs from the history, {self.spool_files} copies of failed scans, "
            f"{self.archive_files} archived scans ({self.archive_bytes / 1e6:.1f} MB)"
        )
        return f"{said}\n{self.doubt}" if self.doubt else said


def prune(
    config: Config, database: Database, spool: Spool, now: Reading | None = None, *, trust_clock: bool = False
) -> Pruned:
    """Take away what `Retention` says. Only the thread that owns the spool may call it.

    ``now``: what the clocks say. ``trust_clock``: a person says that the wall clock is right.
    """
    belief = _belief(database, now or Reading.now(), trust_clock=trust_clock)
    keep = config.retention
    as_of = None if belief.trusted is None else datetime.fromtimestamp(min(belief.trusted, belief.at.wall), UTC)
    copies = jobs = 0
    if as_of is not None:
        # Copies first: with a scan's history goes the row that its copy is known by.
        days = min(filter(None, (keep.spool_days, keep.history_days)), default=0)
        copies = _prune_spool(database, spool, as_of - timedelta(days=days)) if days else 0
        jobs = _prune_history(database, as_of - timedelta(days=keep.history_days)) if keep.history_days else 0
    files, size = _prune_archive(config.inbox.archive_path, keep.archive_days, keep.archive_gib, as_of)
    doubt = _doubt(as_of) if belief.is_doubted else ""
    return Pruned(jobs=jobs, spool_files=copies, archive_files=files, archive_bytes=size, doubt=doubt)


def _belief(database: Database, now: Reading, *, trust_clock: bool) -> Belief:
    """What is believed of the wall clock, kept for the next time."""

    def look(connection: Connection) -> Belief:
        belief = believed(Belief.of(runs.setting(connection, BELIEF)), now)
        if trust_clock:
            belief = replace(belief, trusted=now.wall)
        runs.set_setting(connection, BELIEF, belief.to_json())
        return belief

    return database.write(look)


def _doubt(as_of: datetime | None) -> str:
    by = "Nothing is removed for its age" if as_of is None else f"Ages are counted up to {as_of:%Y-%m-%d %H:%M} UTC"
    return DOUBT.format(by=by)


def _prune_history(database: Database, before: datetime) -> int:
    removed = 0
    while removed < JOBS_AT_ONCE:
        count = database.write(lambda c: backup.prune(c, before=before))
        if not count:
            break
        removed += count
    if removed:
        database.write(backup.shrink)
    return removed


def _prune_spool(database: Database, spool: Spool, before: datetime) -> int:
    names = database.write(lambda c: leftovers.forget_failed(c, before, SPOOL_AT_ONCE))
    for name in names:
        spool.remove(name)
    return len(names)


def _prune_archive(archive: Path, days: float, gib: float, now: datetime | None) -> tuple[int, int]:
    """Remove archived scans that are too old, then the oldest until the rest is small enough.

    The age is that of the archiving (ctime), since copies keep the modification times of long ago. ``now``: None when
    that is not known, and nothing is too old.
    """
    if not (days or gib) or not archive.is_dir():
        return 0, 0
    oldest = now.timestamp() - days * 86400 if days and now else float("-inf")
    found = sorted(_archived(archive))
    total = sum(size for _, size, _ in found)
    room = gib * GIB if gib else float("inf")
    count = removed = 0
    for archived_at, size, path in found:
        if archived_at >= oldest and total - removed <= room:
            break
        path.unlink(missing_ok=True)
        count += 1
        removed += size
    return count, removed


def _archived(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            status = path.lstat()
            yield status.st_ctime, status.st_size, path
