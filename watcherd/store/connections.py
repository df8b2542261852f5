"""Connections to the SQLite file, and its errors as ours.

One connection in the whole system writes (SQLite 3.7.0 to 3.51.2 can damage a WAL that two connections reset at once);
all others are opened read-only.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event, exc

from watcherd.errors import StoreError
from watcherd.store.tables import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_MS = 5000
"""Milliseconds that a statement waits for a lock."""

KEPT_OPEN = 3
"""Reading connections that the daemon keeps: its threads seldom read at the same time."""
KEPT_CACHE_KIB = 256
"""Pages that each of them keeps: with every commit of the writer SQLite drops them anyway, but not their memory."""
KEPT_STATEMENTS = 32
"""Prepared statements that each of them keeps: lists of ids make many that differ in their length alone."""

_PASSING = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
"""Results that say something about the machine, not about the database or the statement."""

_UNREADABLE = "malformed JSON"
"""What SQLite says of a row's content; it has no code of its own for it."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class StoreUnavailableError(StoreError):
    """The database cannot be used now, but may be later: a full disk, an I/O error, a lock."""

    transient: ClassVar[bool] = True


class CorruptDatabaseError(StoreError):
    """The file is damaged or is no database: set it aside and restore a backup."""


class UnreadableRowError(StoreError):
    """A row holds JSON that is none. The others can be read."""


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn the driver's errors about the database at ``path`` into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(path, error) from error
    except exc.DBAPIError as error:
        raise translated(path, error.orig) from error


def translated(path: Path, error: BaseException | None) -> StoreError:
    """The driver's error as one of ours."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary in _DAMAGE:
        return CorruptDatabaseError(
            f"The database {path} is damaged: {error}.",
            hint="Stop watcherd, move the file aside and restore the newest backup: watcherd db restore.",
        )
    if _UNREADABLE in str(error):
        return UnreadableRowError(
            f"A row of the database {path} cannot be read: {error}.", hint="watcherd doctor --repair"
        )
    if primary in _PASSING:
        return StoreUnavailableError(
            f"The database {path} cannot be used at the moment: {error}.", hint=_advice(primary)
        )
    return StoreError(f"The database {path} refused a statement: {error}.")


def _advice(code: int | None) -> str:
    if code == sqlite3.SQLITE_FULL:
        return "Make room on the disk that holds the state folder."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "Another program holds a lock on it: close shells and viewers that have a transaction open."
    return "Look at the disk, the permissions and the mount of the state folder."


def readable(content: bytes) -> str:
    """A text of the database, whatever is in it: one row that is no UTF-8 must not keep the others from being read.

    What cannot be read shows as U+FFFD; `unreadable` finds and mends such rows.
    """
    return content.decode("utf-8", "replace")


def writer(path: Path) -> Engine:
    """An engine for the one writing connection. Transactions are IMMEDIATE: a DEFERRED one that turns into a writer
    half-way fails with "database is locked", whatever the patience."""

    def connect() -> sqlite3.Connection:
        # No implicit transactions: SQLAlchemy's begin, below, is the only one. The thread that uses the connection
        # is not always the one that opened it, but there is only ever one.
        connection = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_MS / 1000, check_same_thread=False)
        connection.text_factory = readable
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection, for what must happen outside of transactions."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def address(path: Path) -> str:
    """The URI that opens ``path`` read-only, whatever characters are in it."""
    return f"file:{quote(bytes(path.absolute()))}?mode=ro"


@lru_cache(maxsize=8)
def _reading_engine(path: Path) -> Engine:
    return _readers(path, poolclass=NullPool)


def pooled_readers(path: Path) -> Engine:
    """An engine for read-only connections that are kept open: for the daemon, which reads many times a second.

    Threads may share it. `Engine.dispose` closes them, and must come before the file can leave WAL mode.
    """
    return _readers(
        path,
        cache_kib=KEPT_CACHE_KIB,
        statements=KEPT_STATEMENTS,
        poolclass=QueuePool,
        pool_size=KEPT_OPEN,
        max_overflow=-1,
        pool_use_lifo=True,
    )


def _readers(path: Path, *, cache_kib: int = 2000, statements: int = 128, **options: Any) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            address(path),
            uri=True,
            isolation_level=None,
            timeout=PATIENCE_MS / 1000,
            check_same_thread=False,
            cached_statements=statements,
        )
        connection.text_factory = readable
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        return connection

    engine = create_engine("sqlite+pysqlite://", creator=connect, **options)
    event.listen(engine, "begin", _begin_reading)
    return engine


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def reader(path: Path) -> Iterator[Connection]:
    """A read-only connection in one transaction: everything read through it is of one moment.

    It never blocks the daemon. Raises `StoreError` when there is no database, one that may not be read, or one of
    another version.
    """
    try:
        there = path.exists()
    except PermissionError as error:
        raise StoreError(
            f"You may not read {path}.", hint="Run it as root or as the service's user, or join the service's group."
        ) from error
    if not there:
        raise StoreError(f"There is no history at {path}.", hint="watcherd run makes it; look at [state] path.")
    with errors_of(path), _reading_engine(path).connect() as connection, connection.begin():
        refuse_other_version(path, version_of(connection))
        yield connection


def version_of(connection: Connection) -> str | None:
    """The newest migration that the database has seen; None for an empty one."""
    table = connection.exec_driver_sql("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").scalar()
    if table is None:
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version


def refuse_other_version(path: Path, version: str | None) -> None:
    """Raise `StoreError` unless the database is of this program's version."""
    refuse_newer(path, version)
    if version != HEAD:
        raise StoreError(
            f"The database {path} is of an older version ({version or 'empty'}; this program's is {HEAD}).",
            hint="Start the daemon of this version once, or run: watcherd db upgrade.",
        )


def refuse_newer(path: Path, version: str | None) -> None:
    """Raise `StoreError` for a database that a newer program has written."""
    if version is not None and version > HEAD:
        raise StoreError(
            f"The database {path} was written by a newer watcherd (version {version}; this program knows {HEAD}).",
            hint="Install that version again, or restore the backup made before the upgrade (watcherd.db.before-…).",
        )
