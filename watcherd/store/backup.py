"""Looking after the file: copies of it, checks, taking old history out, and what a doctor wants to know."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import StoreError
from watcherd.files import sync_folder
from watcherd.store import queue
from watcherd.store.connections import CorruptDatabaseError, address, driver_of, errors_of
from watcherd.store.records import stamp
from watcherd.store.statements import chunks, one_by_one

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

WAL_RESET_FIXED = {(3, 44): 6, (3, 50): 7, (3, 51): 3}
"""Releases with the cure for a rare corruption when two connections write or checkpoint a WAL at once."""

PRUNE_AT_ONCE = 500
"""Jobs in one transaction of `prune`: the queue waits for no longer than that takes."""

SIDE_FILES = ("", "-wal", "-shm", "-journal")


def backup(path: Path, to: Path) -> None:
    """Copy the database at ``path``, in use or not, to the self-contained file ``to``.

    The copy is checked, then appears under its name as a whole or not at all. The daemon goes on writing meanwhile.
    Raises `CorruptDatabaseError` when what was copied is damaged, `StoreError` when the copy cannot be written.
    """
    partial = to.with_name(f".{to.name}.partial")
    try:
        partial.write_bytes(b"")
    except OSError as error:
        raise StoreError(f"The copy {to} cannot be written: {error.strerror}.", hint="Give another place.") from error
    try:
        with errors_of(path), closing(_open(path)) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # the WAL mode is copied along, and wants files beside it
            findings = _integrity(copy)
        if findings:
            raise CorruptDatabaseError(f"The copy of {path} is damaged: {findings[0]}.", hint="Run: watcherd db check.")
        _sync(partial)
        partial.rename(to)
        sync_folder(to.parent)
    finally:
        partial.unlink(missing_ok=True)


def restore(copy: Path, path: Path, *, now: datetime) -> Path | None:
    """Put a backup into the place of the database; where the old one was moved to, if there was one.

    Nothing may have the database open. Raises `CorruptDatabaseError` for a damaged backup; nothing has changed then.
    """
    if not copy.is_file():
        raise StoreError(f"There is no backup at {copy}.", hint="Look for the newest file in the folder of backups.")
    with errors_of(copy), closing(_open(copy)) as connection:
        findings = _integrity(connection)
    if findings:
        raise CorruptDatabaseError(f"The backup {copy} is damaged: {findings[0]}.", hint="Try an older one.")
    fresh = path.with_name(f".{path.name}.restored")
    shutil.copyfile(copy, fresh)
    _sync(fresh)
    aside = set_aside(path, now=now)
    fresh.rename(path)
    sync_folder(path.parent)
    return aside


def set_aside(path: Path, *, now: datetime) -> Path | None:
    """Move a database out of the way, with the files beside it; its new name, or None when there is none."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.aside-{re.sub('[^0-9]', '', stamp(now))}")
    for suffix in SIDE_FILES:
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    sync_folder(path.parent)
    return aside


def check(path: Path) -> list[str]:
    """Everything that is wrong with the database, in plain words; empty when nothing is.

    Reads all of it: a second for a few hundred thousand jobs.
    """
    with errors_of(path), closing(_open(path)) as connection:
        findings = _integrity(connection)
        if findings:
            return findings
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            findings.append(f"{len(broken)} rows point to nothing, the first in {broken[0][0]}")
        return [*findings, *_wrong_totals(connection), *_wrongly_awaited(connection)]


_WRONGLY_AWAITED = """
SELECT path_text, awaited FROM arrival AS file
WHERE (awaited <> 0 OR id IN (SELECT file_of FROM arrival WHERE file_of IS NOT NULL)) AND awaited <> (
    SELECT count(*) FROM arrival WHERE file_of = file.id AND delivery IN ('waiting', 'due', 'intended'))
"""


def _wrongly_awaited(connection: sqlite3.Connection) -> list[str]:
    return [
        f"{path} waits for the results of {awaited} more models, which is not so"
        for path, awaited in connection.execute(_WRONGLY_AWAITED)
    ]


def _wrong_totals(connection: sqlite3.Connection) -> list[str]:
    kept = {name: count for name, count in connection.execute("SELECT name, count FROM total") if count}
    counted = dict(
        connection.execute(
            "SELECT 'job.' || state, count(*) FROM job GROUP BY state "
            "UNION ALL SELECT 'arrival.' || fate, count(*) FROM arrival GROUP BY fate"
        ).fetchall()
    )
    return [
        f"the total {name} says {kept.get(name, 0)}, but there are {counted.get(name, 0)}"
        for name in sorted(kept.keys() | counted.keys())
        if kept.get(name, 0) != counted.get(name, 0)
    ]


def rotate(folder: Path, pattern: str, keep: int, *, newest: str = "") -> list[Path]:
    """Delete the oldest files that match, all but ``keep``; names must sort by age. What was deleted.

    ``newest``: the name of the one that was just made, if known. Those that sort after it are from a time when the
    clock was ahead, and go first.
    """
    old = sorted(folder.glob(pattern), key=lambda path: (not newest or path.name <= newest, path.name))[:-keep]
    for path in old:
        path.unlink(missing_ok=True)
    return old


def prune(connection: Connection, *, before: datetime, limit: int = PRUNE_AT_ONCE) -> int:
    """Take out up to ``limit`` jobs that ended before a time, with all that belongs to them; how many.

    Call it again until it returns 0. Kept are jobs that a name or a hook still waits for, whose file is still to be
    disposed of, or whose file lies in the inbox: without its row it would be taken for a new one.
    """
    ids = connection.exec_driver_sql(
        "SELECT id FROM job WHERE finished_at IS NOT NULL AND finished_at < ? AND NOT EXISTS ("
        "    SELECT 1 FROM arrival WHERE job_id = job.id AND (present = 1 OR disposal = 'pending'"
        "        OR delivery IN ('waiting', 'due', 'intended'))) "
        "AND NOT EXISTS (SELECT 1 FROM hook WHERE job_id = job.id AND state = 'waiting') ORDER BY finished_at LIMIT ?",
        (stamp(before), limit),
    ).scalars()
    jobs = list(ids)
    for piece in chunks(jobs):
        _remove(connection, piece)
    connection.exec_driver_sql(
        "DELETE FROM arrival WHERE fate IN ('ignored', 'settling') AND present = 0 AND seen_at < ?", (stamp(before),)
    )
    return len(jobs)


_DELETE_JOINED = """
DELETE FROM event
WHERE job_id IN (SELECT json_extract(detail, '$.job') FROM event WHERE job_id = :id AND kind = 'joined')
"""
"""What is left of the jobs that were joined with this one: see `identity.renew`."""


def _remove(connection: Connection, jobs: Sequence[int]) -> None:
    rows = [{"id": job_id} for job_id in jobs]
    marks = ",".join(map(str, jobs))
    scans = connection.exec_driver_sql(f"SELECT scan_id FROM job WHERE id IN ({marks})").scalars().all()  # noqa: S608 - ids
    for statement in (
        "DELETE FROM output WHERE job_id = :id",
        "DELETE FROM measure WHERE job_id = :id",
        "DELETE FROM review WHERE job_id = :id",
        "DELETE FROM attribute WHERE job_id = :id",
        "DELETE FROM attempt_device WHERE attempt_id IN (SELECT id FROM attempt WHERE job_id = :id)",
        "DELETE FROM attempt WHERE job_id = :id",
        _DELETE_JOINED,
        "DELETE FROM event WHERE job_id = :id",
        "DELETE FROM hook WHERE job_id = :id",
        "DELETE FROM arrival WHERE job_id = :id",
    ):
        one_by_one(connection, statement, rows)
    queue.remove(connection, jobs)
    one_by_one(
        connection,
        "DELETE FROM scan WHERE id = :id AND NOT EXISTS (SELECT 1 FROM job WHERE scan_id = :id)",
        [{"id": scan_id} for scan_id in set(scans)],
    )


def shrink(connection: Connection, pages: int = 2000) -> int:
    """Give up to ``pages`` free pages back to the file system; how many free ones are left."""
    driver = driver_of(connection)
    free = _freelist(driver)
    for _ in range(min(pages, free)):
        driver.execute("PRAGMA incremental_vacuum(1)")  # Python's driver takes one step, and a step frees one page
    return _freelist(driver)


def _freelist(driver: sqlite3.Connection) -> int:
    return int(driver.execute("PRAGMA freelist_count").fetchone()[0])


def facts(path: Path) -> dict[str, Any]:
    """What a doctor looks at: versions, sizes in bytes, the journal mode, and known faults of this SQLite."""
    with errors_of(path), closing(_open(path)) as connection:
        page, pages, free = (
            connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            for pragma in ("page_size", "page_count", "freelist_count")
        )
        return {
            "sqlite": sqlite3.sqlite_version,
            "sqlite_wal_reset_fault": has_wal_reset_fault(sqlite3.sqlite_version_info),
            "version": connection.execute("SELECT version_num FROM alembic_version").fetchone()[0],
            "journal_mode": connection.execute("PRAGMA journal_mode").fetchone()[0],
            "bytes": page * pages,
            "free_bytes": page * free,
            "wal_bytes": _size(Path(f"{path}-wal")),
        }


def has_wal_reset_fault(version: tuple[int, ...]) -> bool:
    """Whether a release of SQLite may damage a WAL that two connections reset at once: 3.7.0 to 3.51.2, but two."""
    major, minor, patch = version[:3]
    if (major, minor) in WAL_RESET_FIXED:
        return patch < WAL_RESET_FIXED[major, minor]
    return (3, 7) <= (major, minor) < (3, 51)


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(address(path), uri=True, isolation_level=None)


def _integrity(connection: sqlite3.Connection) -> list[str]:
    rows = [str(row[0]).replace("\n", " ") for row in connection.execute("PRAGMA integrity_check(20)")]
    return [] if rows == ["ok"] else rows


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
