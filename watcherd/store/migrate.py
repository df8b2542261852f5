"""Bring a database to this program's version: tables by alembic, views and triggers as they stand in the code."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import StoreError
from watcherd.store.connections import driver_of, refuse_newer, version_of
from watcherd.store.rules import TRIGGERS
from watcherd.store.tables import HEAD
from watcherd.store.views import VIEWS

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

Mark = Callable[[float], None]
"""Told how far something is, 0 to 1."""

SPARE_BYTES = 64 << 20
COPIED_AT_ONCE = 8192
"""Pages that are copied between two marks: 32 MiB."""


def migrations() -> Path:
    """The folder of migrations: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(
        f"The migrations are missing beside {package}.", hint="The installation is incomplete: install again."
    )


def alembic_config(connection: Connection | None = None, mark: Mark | None = None) -> Config:
    """What alembic needs to know; it reads no file of its own. ``mark``: told by long migrations how far they are."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["mark"] = mark
    return config


def upgrade(path: Path, connection: Connection, mark: Mark = lambda _: None) -> None:
    """Migrate to `HEAD` in one transaction; a database that holds something is copied first.

    ``mark``: told again and again how far it is, 0 to 1: half is for the copy, half for the migrations. Raises
    `StoreError` for a database from a newer program, for want of room and for a migration that fails; nothing has
    changed then.
    """
    with connection.begin():
        version = version_of(connection)
        views_differ = _differing(connection) != {}
    refuse_newer(path, version)
    if version != HEAD:
        if version is not None:
            _check_room(path, connection)
            keep_copy(connection, path.with_name(f"{path.name}.before-{HEAD}"), lambda done: mark(done / 2))
        _migrate(path, connection, version, lambda done: mark(0.5 + done / 2))
    elif views_differ:
        with connection.begin():
            refresh(connection)


def _check_room(path: Path, connection: Connection) -> None:
    """Raise `StoreError` unless there is room for the copy, and for as much again that the migration may write."""
    driver = driver_of(connection)
    pages, size = (driver.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("page_count", "page_size"))
    needed, free = 2 * pages * size + SPARE_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"The database {path} has to be brought to version {HEAD}, for which {needed >> 20:,} MiB must be free on "
            f"its disk; {free >> 20:,} MiB are.",
            hint="Make room, then start again: nothing has changed. The old version of watcherd can still use it.",
        )


def keep_copy(connection: Connection, to: Path, mark: Mark = lambda _: None) -> None:
    """Copy the open database to ``to``, as it was at this moment."""

    def progress(_: int, remaining: int, total: int) -> None:
        mark(1 - remaining / max(1, total))

    copy = sqlite3.connect(to)
    try:
        driver_of(connection).backup(copy, pages=COPIED_AT_ONCE, progress=progress)
    finally:
        copy.close()


def _migrate(path: Path, connection: Connection, version: str | None, mark: Mark) -> None:
    from alembic import command

    # A migration that rebuilds a table must not take along the rows that point to it. The pragma has no effect inside
    # a transaction, so it stands before.
    driver_of(connection).execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            command.upgrade(alembic_config(connection, mark), "head")
            refresh(connection)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise StoreError(f"{len(broken)} rows would point to nothing, the first in {broken[0][0]}")  # noqa: TRY301
    except Exception as error:
        raise StoreError(
            f"The database {path} could not be brought from version {version or 'empty'} to {HEAD}: {error}",
            hint="It is unchanged: the version of watcherd that wrote it can still use it.",
        ) from error
    finally:
        driver_of(connection).execute("PRAGMA foreign_keys = ON")


def refresh(connection: Connection) -> None:
    """Replace the views and triggers whose text is not this program's. A person's own views stay."""
    for name, (kind, statement) in _differing(connection).items():
        connection.exec_driver_sql(f"DROP {kind} IF EXISTS {name}")
        connection.exec_driver_sql(statement)


def _differing(connection: Connection) -> dict[str, tuple[str, str]]:
    """Kind and statement of every view and trigger that is missing or outdated, by name."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger')")
    stored = {row.name: row.sql for row in rows}
    wanted = {name: ("view", cleandoc(sql)) for name, sql in VIEWS.items()}
    wanted |= {name: ("trigger", cleandoc(sql)) for name, sql in TRIGGERS.items()}
    return {name: made for name, made in wanted.items() if stored.get(name) != made[1]}
