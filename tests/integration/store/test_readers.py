"""The daemon's reading connections are kept open, and no reader ever sees more than one moment."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from watcherd.errors import StoreError
from watcherd.store import Database

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

COUNT = "SELECT count(*) FROM setting"


def put(key: str) -> object:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO setting VALUES (?, 'x')", (key,))

    return work


def count(connection: Connection) -> int:
    return int(connection.exec_driver_sql(COUNT).scalar_one())


def test_each_reader_sees_what_was_committed_before_it(tmp_path: Path) -> None:
    """Though the connection is the same: a transaction of its own each time."""
    with Database.open(tmp_path / "watcherd.db") as database:
        with database.reader() as connection:
            before = count(connection)
            database.write(put("a"))  # type: ignore[arg-type]
            assert before == count(connection)
        with database.reader() as connection:
            assert before + 1 == count(connection)


def test_a_reader_that_fails_leaves_a_usable_one_behind(tmp_path: Path) -> None:
    with Database.open(tmp_path / "watcherd.db") as database:
        with pytest.raises(StoreError), database.reader() as connection:
            connection.exec_driver_sql("SELECT * FROM nothing")
        database.write(put("a"))  # type: ignore[arg-type]
        with database.reader() as connection:
            assert count(connection) >= 1


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    """More than there are connections kept."""
    found: list[int] = []
    together = threading.Barrier(8)

    def read(database: Database) -> None:
        with database.reader() as connection:
            together.wait(30)
            found.append(count(connection))

    with Database.open(tmp_path / "watcherd.db") as database:
        threads = [threading.Thread(target=read, args=(database,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_kept_connections_do_not_keep_the_file_from_standing_alone(tmp_path: Path) -> None:
    """After a clean end nothing lies beside it, and it is in no WAL mode."""
    with Database.open(tmp_path / "watcherd.db") as database:
        database.write(put("a"))  # type: ignore[arg-type]
        with database.reader() as connection:
            count(connection)
    assert [entry.name for entry in tmp_path.iterdir()] == ["watcherd.db"]
    with sqlite3.connect(f"file:{tmp_path / 'watcherd.db'}?mode=ro&immutable=1", uri=True) as person:
        assert person.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    person.close()
