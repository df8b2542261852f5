"""The database as the daemon has it: one writing connection, owned by one thread.

`Database.open` brings the file up to date; `submit` and `write` hand functions to the thread, which runs what has come
together in one IMMEDIATE transaction and commits it durably (WAL, ``synchronous=FULL``).
"""

from __future__ import annotations

import itertools
import queue
import sqlite3
import time
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Connection, exc

from watcherd.errors import StoreError
from watcherd.linux.threads import NamedThread
from watcherd.store import connections
from watcherd.store.connections import CorruptDatabaseError, StoreUnavailableError, driver_of, errors_of, translated
from watcherd.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

GROUP = 64
"""Functions that share a transaction, at most: one sync for all of them."""

GROUP_SECONDS = 0.02
"""Seconds after which a transaction is committed; what still waits gets another one."""

CHECKED_BYTES = 64 * 2**20
"""A database up to this size is looked through for damage at every start, in a tenth of a second. A larger one would
hold the start up: it is checked by `backup.check`, at night, and what is damaged says so when it is read."""

CLOSING_PATIENCE_MS = 400
"""Milliseconds for which a reader is waited for at the end, at most twice."""


class Turn(IntEnum):
    """Whose turn it is first."""

    SOON = 0
    """What is small, and somebody waits for: before everything else, and committed at once."""
    NORMAL = 1
    LATER = 2
    """What is long and nobody waits for."""
    END = 3
    """Of the database: when nothing else waits."""


@dataclass(order=True, slots=True)
class _Task:
    """A function that waits for its turn: those of one turn in the order of their numbers. The end has no ``work``."""

    turn: Turn
    number: int
    work: Callable[[Connection], Any] | None = field(compare=False)
    future: Future[Any] = field(compare=False, default_factory=Future)


class Database:
    """The writing side. Make one with `open`; use it as a context manager or `close` it."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._readers = connections.pooled_readers(path)
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = False
        self._door = Lock()  # nothing may queue up behind the end
        self._thread = NamedThread(target=self._serve, name="store", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, mark: Callable[[float], None] = lambda _: None) -> Self:
        """Open or make the database at ``path`` and migrate it to this program's version.

        ``mark``: told how far that is, 0 to 1, when there is something to migrate.
        Raises `CorruptDatabaseError` for a damaged file, `StoreUnavailableError` for what may pass (a full disk;
        somebody who holds a read transaction open on a database that was closed cleanly), and `StoreError` for one
        written by a newer program or a migration that failed; the file is then as it was.
        """
        with errors_of(path):
            connection = _connect(path)
            try:
                _look_for_damage(path, connection)
                _use_wal(path, connection)
                upgrade(path, connection, mark)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, work: Callable[[Connection], T], *, turn: Turn = Turn.NORMAL) -> Future[T]:
        """Have ``work`` done in a transaction; the result arrives once it is committed durably.

        ``work`` may share its transaction with others, but fails alone: what it did is then undone. It gets a
        connection inside the transaction and must not commit. The future raises what ``work`` raised, or
        `StoreUnavailableError` when the disk or a lock failed: nothing was recorded then, and it may be submitted
        again. Works of one turn come to pass in the order in which they were submitted.
        """
        task = _Task(turn, next(self._numbers), work)
        with self._door:
            if self._closed:
                raise StoreError(f"The database {self.path} is closed.")
            self._tasks.put(task)
        return task.future

    def write(self, work: Callable[[Connection], T]) -> T:
        """As `submit`, and wait for the result."""
        return self.submit(work).result()

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        """A read-only connection, in one transaction; see `connections.reader`. Only this one is kept open."""
        with errors_of(self.path), self._readers.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Finish what was submitted, then leave one self-contained file that anybody may read.

        Leaving WAL mode is tried only: a person's open read transaction delays it by a second at most, and the file
        then stays as it is, which is just as safe.
        """
        with self._door:
            if self._closed:
                return
            self._closed = True
            self._tasks.put(_Task(Turn.END, next(self._numbers), None))
        self._thread.join()
        self._readers.dispose()
        with suppress(exc.DBAPIError):
            _leave_wal(self._connection)
        self._connection.close()

    def _serve(self) -> None:
        while (first := self._tasks.get()).work is not None:
            if first.future.set_running_or_notify_cancel():
                self._run(first)

    def _run(self, first: _Task) -> None:
        """Run a task in a transaction, together with those that wait behind it."""
        tasks = [first]
        outcomes: list[tuple[Any, BaseException | None]] = []
        share = not self._tasks.empty()
        try:
            with errors_of(self.path), self._connection.begin():
                outcomes.append(self._one(first) if share else self._alone(first))
                for task in self._behind(first) if share else ():
                    tasks.append(task)
                    outcomes.append(self._one(task))
        except Exception as error:  # whatever it was belongs to those who wait for the result
            self._recover()
            for task in tasks:
                task.future.set_exception(error)
            return
        for task, (result, failure) in zip(tasks, outcomes, strict=True):
            if failure is not None:
                task.future.set_exception(failure)
            else:
                task.future.set_result(result)

    def _behind(self, last: _Task) -> Iterator[_Task]:
        """Tasks that wait, each when its turn has come, until the transaction has lasted, or holds one of an earlier
        turn: that one is committed first."""
        until = time.monotonic() + GROUP_SECONDS
        for _ in range(GROUP - 1):
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return
            if task.work is None or last.turn < task.turn or time.monotonic() > until:
                self._tasks.put(task)  # seen again in the next round
                return
            if task.future.set_running_or_notify_cancel():
                last = task
                yield task

    def _alone(self, task: _Task) -> tuple[Any, None]:
        assert task.work is not None
        return task.work(self._connection), None

    def _one(self, task: _Task) -> tuple[Any, BaseException | None]:
        """Run one of several tasks so that its failure undoes nothing but its own doing."""
        assert task.work is not None
        driver = driver_of(self._connection)  # SQLAlchemy would make more of each of these words than SQLite does
        driver.execute("SAVEPOINT task")
        try:
            with errors_of(self.path):
                result = task.work(self._connection)
        except (StoreUnavailableError, CorruptDatabaseError):
            raise  # SQLite may have undone the whole transaction by itself: nobody's work can be kept
        except Exception as error:  # handed to the task's future
            driver.execute("ROLLBACK TO task")
            driver.execute("RELEASE task")
            return None, error
        driver.execute("RELEASE task")
        return result, None

    def _recover(self) -> None:
        """Make sure that the connection is usable after a failed transaction: outside of any, or a new one."""
        with suppress(exc.SQLAlchemyError, sqlite3.Error):
            if (transaction := self._connection.get_transaction()) is not None:
                transaction.rollback()
            if not driver_of(self._connection).in_transaction:
                return
        with suppress(exc.SQLAlchemyError, sqlite3.Error):
            self._connection.invalidate()
            self._connection.close()
        with suppress(exc.SQLAlchemyError, sqlite3.Error):
            self._connection = _connect(self.path)


def _connect(path: Path) -> Connection:
    return connections.writer(path).connect()


def _look_for_damage(path: Path, connection: Connection) -> None:
    driver = driver_of(connection)
    driver.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if path.stat().st_size > CHECKED_BYTES:
        return
    findings = [str(row[0]).replace("\n", " ") for row in driver.execute("PRAGMA quick_check(5)")]
    if findings != ["ok"]:
        damage = sqlite3.DatabaseError("; ".join(findings))
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise translated(path, damage)


def _use_wal(path: Path, connection: Connection) -> None:
    driver = driver_of(connection)
    if driver.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
        driver.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only has an effect before the first table
    mode = driver.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"The database {path} cannot use a write-ahead log (journal mode {mode}).",
            hint="The state folder must be on a local file system.",
        )


def _leave_wal(connection: Connection) -> None:
    driver = driver_of(connection)
    driver.execute(f"PRAGMA busy_timeout = {CLOSING_PATIENCE_MS}")
    with suppress(sqlite3.Error):
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        driver.execute("PRAGMA journal_mode = DELETE").fetchall()
