"""What is no longer needed, and what has to be tried again: copies in the spool, notes of failures, disposals."""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from watcherd.store.deliveries import _OUTPUT, _outputs
from watcherd.store.records import stamp
from watcherd.store.statements import one_by_one, select_in
from watcherd.store.tables import NOT_SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.store.records import Output

NO_LONGER_NEEDED = """
SELECT id, spool_name FROM scan INDEXED BY scan_spooled WHERE spool_name IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM job WHERE job.scan_id = scan.id AND (state <> 'succeeded' OR EXISTS (
        SELECT 1 FROM arrival WHERE arrival.job_id = job.id AND delivery IN ('waiting', 'due', 'intended'))))
ORDER BY id LIMIT ?
"""


def forget_spooled(connection: Connection, limit: int) -> list[str]:
    """Take note that scans whose jobs have all succeeded need no copy in the spool; the copies' names.

    The row goes first: a copy without a row is swept at the next start, a row without a copy would be a lie.
    """
    rows = connection.exec_driver_sql(NO_LONGER_NEEDED, (limit,)).fetchall()
    one_by_one(connection, "UPDATE scan SET spool_name = NULL WHERE id = :id", [{"id": row.id} for row in rows])
    return [row.spool_name for row in rows]


def spooled(connection: Connection, names: Sequence[str]) -> set[str]:
    """Which of these copies a scan's row names: needed ones, and those that `forget_spooled` has not come to."""
    sql = "SELECT spool_name FROM scan WHERE sha256 IN ({values}) AND spool_name IS NOT NULL"
    return {row.spool_name for row in select_in(connection, sql, names)}


def remember_spooled(connection: Connection, sha256: str, spool_name: str) -> None:
    """A copy of this scan lies in the spool again."""
    connection.exec_driver_sql("UPDATE scan SET spool_name = ? WHERE sha256 = ?", (spool_name, sha256))


def outputs_at(connection: Connection, finals: Sequence[bytes]) -> list[Output]:
    """The outputs that are promised or delivered at these paths below the outbox."""
    return _outputs(select_in(connection, _OUTPUT + "WHERE output.state <> 'removed' AND path IN ({values})", finals))


def outputs_of_all(connection: Connection, arrival_ids: Sequence[int]) -> dict[int, list[Output]]:
    """What is promised or delivered under the names of these arrivals; those without anything are left out."""
    found: dict[int, list[Output]] = {}
    sql = _OUTPUT + "WHERE output.state <> 'removed' AND arrival_id IN ({values})"
    for output in _outputs(select_in(connection, sql, arrival_ids)):
        found.setdefault(output.arrival_id, []).append(output)
    return found


def retry_disposals(connection: Connection) -> int:
    """Sources that could not be disposed of are due again; how many."""
    sql = "UPDATE arrival SET disposal = 'pending' WHERE disposal = 'failed' AND present = 1"
    return connection.exec_driver_sql(sql).rowcount


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanBytes:
    """Where the bytes of a job's scan may be.

    ``spool_name``: of its copy, if it should have one. ``archived``: paths below the archive; ``dropped``: paths below
    the inbox at which it was seen; both the newest first.
    """

    sha256: str
    size_bytes: int
    spool_name: str | None
    archived: tuple[bytes, ...]
    dropped: tuple[bytes, ...]


def scan_bytes(connection: Connection, job_id: int) -> ScanBytes:
    """Where to look for the scan of this job."""
    scan = connection.exec_driver_sql(
        "SELECT id, sha256, size_bytes, spool_name FROM scan WHERE id = (SELECT scan_id FROM job WHERE id = ?)",
        (job_id,),
    ).one()
    rows = connection.exec_driver_sql(
        "SELECT path, disposal, disposed_path FROM arrival JOIN job ON job.id = arrival.job_id "
        "WHERE job.scan_id = ? ORDER BY arrival.id DESC",
        (scan.id,),
    ).fetchall()
    return ScanBytes(
        sha256=scan.sha256,
        size_bytes=scan.size_bytes,
        spool_name=scan.spool_name,
        archived=tuple(row.disposed_path for row in rows if row.disposal == "archived" and row.disposed_path),
        dropped=tuple(dict.fromkeys(bytes(row.path) for row in rows)),
    )


def first_arrival(connection: Connection, job_id: int) -> int:
    """The arrival that a job was made for."""
    return int(connection.exec_driver_sql("SELECT arrival_id FROM job WHERE id = ?", (job_id,)).scalar_one())


def path_of(connection: Connection, arrival_id: int) -> bytes:
    """The path below the inbox at which an arrival was seen."""
    return bytes(connection.exec_driver_sql("SELECT path FROM arrival WHERE id = ?", (arrival_id,)).scalar_one())


def forget_failed(connection: Connection, before: datetime, limit: int) -> list[str]:
    """Give up the copies of scans whose jobs all ended before a time; the copies' names."""
    rows = connection.exec_driver_sql(
        "SELECT id, spool_name FROM scan INDEXED BY scan_spooled WHERE spool_name IS NOT NULL AND NOT EXISTS ("
        "    SELECT 1 FROM job WHERE job.scan_id = scan.id AND (finished_at IS NULL OR finished_at >= ? OR EXISTS ("
        "        SELECT 1 FROM arrival WHERE arrival.job_id = job.id AND (disposal = 'pending'"
        "            OR delivery IN ('waiting', 'due', 'intended'))))) LIMIT ?",
        (stamp(before), limit),
    ).fetchall()
    one_by_one(connection, "UPDATE scan SET spool_name = NULL WHERE id = :id", [{"id": row.id} for row in rows])
    return [row.spool_name for row in rows]


def needed_copies(connection: Connection) -> list[str]:
    """Hashes of scans with work to do: their copies must lie in the spool."""
    rows = connection.exec_driver_sql(
        "SELECT DISTINCT sha256 FROM job JOIN scan ON scan.id = job.scan_id "
        f"WHERE {NOT_SUCCEEDED} AND state IN ('queued', 'running')"
    )
    return [row.sha256 for row in rows]


def newest_outputs(connection: Connection, limit: int) -> list[Output]:
    """The results that were delivered last."""
    sql = _OUTPUT + "WHERE output.state = 'delivered' ORDER BY output.id DESC LIMIT ?"
    return _outputs(connection.exec_driver_sql(sql, (limit,)).fetchall())
