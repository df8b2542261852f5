"""Copies are whole, checks find damage, and pruning takes only what nobody waits for."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import (
    NOW,
    claim_one,
    damage_quietly,
    enqueue,
    failure,
    intents,
    later,
    scan,
    start_run,
    succeed,
)
from watcherd.errors import StoreError
from watcherd.job import ErrorClass, State
from watcherd.store import CorruptDatabaseError, Database, arrivals, backup, deliveries, history, queue, reader
from watcherd.store.tables import HEAD

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection


@pytest.fixture
def filled(database: Database) -> Database:
    """One succeeded job, one that waits."""
    run_id = database.write(start_run)
    database.write(lambda c: enqueue(c, run_id, scan("a.png"), scan("b.png")))
    database.write(lambda c: succeed(c, claim_one(c, run_id)))
    return database


def test_a_backup_is_one_file_that_stands_alone(filled: Database, path: Path, tmp_path: Path) -> None:
    to = tmp_path / "backup.db"
    backup.backup(path, to)
    assert backup.check(to) == []
    with reader(to) as connection:
        assert history.counts(connection) == {**dict.fromkeys(State, 0), State.SUCCEEDED: 1, State.QUEUED: 1}
    assert sorted(entry.name for entry in tmp_path.iterdir() if "backup" in entry.name) == ["backup.db"]


def test_the_daemon_writes_on_during_a_backup(filled: Database, path: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            filled.write(lambda c: c.exec_driver_sql("INSERT INTO setting VALUES (hex(randomblob(9)), 'x')"))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(5):
            backup.backup(path, tmp_path / f"{number}.backup")
            assert backup.check(tmp_path / f"{number}.backup") == []
    finally:
        stop.set()
        thread.join()


def test_a_damaged_database_gives_no_backup(path: Path, tmp_path: Path) -> None:
    with Database.open(path) as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, *(scan(f"{number}.png") for number in range(500))))
    damage_quietly(path)
    good = tmp_path / "backup.db"
    good.write_bytes(b"yesterday's")
    with pytest.raises(CorruptDatabaseError):
        backup.backup(path, good)
    assert good.read_bytes() == b"yesterday's"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["backup.db", "watcherd.db"]


def test_a_backup_can_be_restored_over_a_damaged_database(filled: Database, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    backup.backup(path, copy)
    filled.close()
    path.write_bytes(b"damaged" * 1000)
    aside = backup.restore(copy, path, now=NOW)
    assert aside is not None
    assert aside.read_bytes() == b"damaged" * 1000
    with Database.open(path) as database, database.reader() as connection:
        assert len(history.jobs(connection)) == 2


def test_a_damaged_backup_is_not_restored(filled: Database, path: Path, tmp_path: Path) -> None:
    filled.close()
    copy = tmp_path / "backup.db"
    copy.write_bytes(b"damaged" * 1000)
    before = path.read_bytes()
    with pytest.raises(CorruptDatabaseError):
        backup.restore(copy, path, now=NOW)
    with pytest.raises(StoreError, match="no backup"):
        backup.restore(tmp_path / "none.db", path, now=NOW)
    assert path.read_bytes() == before


def test_a_check_counts_again(filled: Database, path: Path) -> None:
    filled.write(lambda c: c.exec_driver_sql("UPDATE total SET count = 7 WHERE name = 'job.queued'"))
    assert backup.check(path) == ["the total job.queued says 7, but there are 1"]


def test_only_the_newest_backups_are_kept(tmp_path: Path) -> None:
    for day in range(1, 6):
        (tmp_path / f"watcherd-2026010{day}.db").touch()
    (tmp_path / "other").touch()
    assert len(backup.rotate(tmp_path, "watcherd-*.db", 2)) == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "other",
        "watcherd-20260104.db",
        "watcherd-20260105.db",
    ]


def dispose(connection: Connection, arrival_id: int, how: str = "archived") -> None:
    arrivals.record_disposal(connection, [(arrival_id, how, None)], now=NOW)  # type: ignore[list-item]


def test_pruning_takes_all_that_belongs_to_an_old_job(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    succeed(connection, claim_one(connection, run_id))
    dispose(connection, 1)
    assert backup.prune(connection, before=NOW) == 0
    assert backup.prune(connection, before=later(seconds=1)) == 1
    for table in ("job", "arrival", "scan", "attempt", "attempt_device", "output", "event"):
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0  # noqa: S608
    assert sum(history.fates(connection).values()) == 0
    assert connection.exec_driver_sql("SELECT succeeded FROM hour").scalar() == 1
    (item,) = enqueue(connection, run_id, scan("a.png"))
    assert item.job_id == 2


def test_pruning_never_takes_what_somebody_waits_for(connection: Connection, run_id: int) -> None:
    """Unfinished jobs, undelivered results, sources that are still to be disposed of, files that stay in the inbox."""
    enqueue(
        connection, run_id, *(scan(f"{name}.png") for name in ("undisposed", "kept", "failed", "running", "queued"))
    )
    succeed(connection, claim_one(connection, run_id))
    succeed(connection, claim_one(connection, run_id))
    dispose(connection, 2, "kept")
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.INPUT), now=NOW)
    claim_one(connection, run_id)
    assert backup.prune(connection, before=later(days=1)) == 0
    deliveries.begin_redelivery(connection, 3, intents("failed", ["failed"]))
    assert backup.prune(connection, before=later(days=1)) == 0
    deliveries.finish_redelivery(connection, [3], now=NOW)
    dispose(connection, 3)
    assert backup.prune(connection, before=later(days=1)) == 1


def test_a_scan_with_another_job_stays(connection: Connection, run_id: int) -> None:
    from watcherd.job import Options

    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1, options=Options(threshold=0.1)))
    succeed(connection, claim_one(connection, run_id))
    dispose(connection, 1)
    assert backup.prune(connection, before=later(days=1)) == 1
    assert connection.exec_driver_sql("SELECT count(*) FROM scan").scalar() == 1


def test_what_was_ignored_and_is_gone_is_pruned_too(connection: Connection, run_id: int) -> None:
    signature = scan("a.part").signature
    arrivals.ignored(connection, [(signature, "on its way")], run_id=run_id, now=NOW)
    backup.prune(connection, before=later(days=1))
    assert len(history.unfinished_arrivals(connection)) == 1
    arrivals.vanished(connection, [b"a.part"], now=NOW)
    backup.prune(connection, before=later(days=1))
    assert history.unfinished_arrivals(connection) == []


def test_free_pages_are_given_back(database: Database, path: Path) -> None:
    database.write(lambda c: c.exec_driver_sql("INSERT INTO setting VALUES ('a', ?)", ("x" * 4_000_000,)))
    database.write(lambda c: c.exec_driver_sql("DELETE FROM setting"))
    assert backup.facts(path)["free_bytes"] > 4_000_000
    assert database.write(lambda c: backup.shrink(c, 100_000)) == 0
    assert backup.facts(path)["bytes"] < 1_000_000


def test_facts_are_there_for_a_doctor(filled: Database, path: Path) -> None:
    facts = backup.facts(path)
    assert facts["sqlite"] == sqlite3.sqlite_version
    assert (facts["version"], facts["journal_mode"]) == (HEAD, "wal")
    assert facts["wal_bytes"] > 0


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 9), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((3, 6, 0), False),
    ],
)
def test_releases_with_the_wal_fault_are_known(version: tuple[int, int, int], faulty: bool) -> None:
    assert backup.has_wal_reset_fault(version) is faulty


def test_the_database_is_closed_by_all_that_look_at_it(path: Path, tmp_path: Path) -> None:
    """A file that somebody holds open could not be restored over."""
    backup.facts(path)
    backup.check(path)
    backup.backup(path, tmp_path / "b.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as alone:
        assert alone.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone() == ("exclusive",)
        alone.execute("BEGIN EXCLUSIVE")
