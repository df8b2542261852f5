"""Bring a database to this program's version: tables by alembic, views and triggers as they stand in the code."""

from __future__ import annotations

import sqlite3
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


def migrations() -> Path:
    """The folder of migrations: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(
        f"The migrations are missing beside {package}.", hint="The installation is incomplete: install again."
    )


def alembic_config(connection: Connection | None = None) -> Config:
    """What alembic needs to know; it reads no file of its own."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(path: Path, connection: Connection) -> None:
    """Migrate to `HEAD` in one transaction; a database that holds something is copied first.

    Raises `StoreError` for a database from a newer program and for a migration that fails; nothing has changed then.
    """
    with connection.begin():
        version = version_of(connection)
        views_differ = _differing(connection) != {}
    refuse_newer(path, version)
    if version != HEAD:
        if version is not None:
            keep_copy(connection, path.with_name(f"{path.name}.before-{HEAD}"))
        _migrate(path, connection, version)
    elif views_differ:
        with connection.begin():
            refresh(connection)


def keep_copy(connection: Connection, to: Path) -> None:
    """Copy the open database to ``to``, as it was at this moment."""
    copy = sqlite3.connect(to)
    try:
        driver_of(connection).backup(copy)
    finally:
        copy.close()


def _migrate(path: Path, connection: Connection, version: str | None) -> None:
    from alembic import command

    # A migration that rebuilds a table must not take along the rows that point to it. The pragma has no effect inside
    # a transaction, so it stands before.
    driver_of(connection).execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            command.upgrade(alembic_config(connection), "head")
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
