"""A real database file for each test."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import start_run
from watcherd.store import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, migrated once for all tests: alembic takes a fifth of a second."""
    path = tmp_path_factory.mktemp("template") / "watcherd.db"
    Database.open(path).close()
    return path


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    return shutil.copy(template, tmp_path / "watcherd.db")


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database.open(path) as database:
        yield database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """The writing connection, in a transaction that is kept; the thread that owns it is idle meanwhile."""
    with database._connection.begin():
        yield database._connection


@pytest.fixture
def run_id(connection: Connection) -> int:
    return start_run(connection)
