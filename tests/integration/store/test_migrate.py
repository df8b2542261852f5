"""The migrations make what the tables say; a migration that fails, or a newer database, changes nothing."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.integration.store.helpers import enqueue, scan, start_run
from watcherd.errors import StoreError
from watcherd.job import ErrorClass, Fate, State
from watcherd.store import Database, history, migrate, reader, tables
from watcherd.store.rules import TRIGGERS
from watcherd.store.tables import HEAD
from watcherd.store.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@pytest.fixture
def made(tmp_path: Path) -> Iterator[sa.Connection]:
    """What the tables' own definitions make, without any migration."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/made.db", poolclass=sa.NullPool)
    tables.metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection


def schema(connection: Connection) -> dict[str, str]:
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL "
        "AND name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
    )
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


def test_migrations_make_exactly_what_the_tables_say(connection: Connection, made: Connection) -> None:
    """To the letter, but for white space: columns, CHECKs, partial indexes, STRICT."""
    assert schema(connection) == schema(made)


def test_alembic_finds_no_difference(connection: Connection) -> None:
    """But for two indexes, whose descending columns it cannot compare; the test above does."""

    def comparable(_: object, name: str | None, *__: object) -> bool:
        return name not in {"job_claim", "job_of_model", "alembic_version"}

    context = MigrationContext.configure(connection, opts={"include_object": comparable})
    assert compare_metadata(context, tables.metadata) == []


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("job", "state", State),
        ("job", "error_class", ErrorClass),
        ("attempt", "error_class", ErrorClass),
        ("arrival", "fate", Fate),
    ],
)
def test_the_database_knows_the_same_words_as_the_program(
    connection: Connection, table: str, column: str, words: type[Any]
) -> None:
    """compare_metadata does not see a new word in a CHECK."""
    sql = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).scalar_one()
    allowed = re.search(rf"CHECK \(\s*{column} IN \(([^)]*)\)", sql)
    assert allowed is not None
    assert re.findall(r"'([^']*)'", allowed[1]) == [word.value for word in words]


def test_every_table_is_strict(connection: Connection) -> None:
    rows = connection.exec_driver_sql(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    )
    loose = {name for name, strict in rows if not strict and not name.startswith("sqlite_")}
    assert loose == {"alembic_version"}


def test_the_newest_migration_is_the_one_the_program_names() -> None:
    script = ScriptDirectory.from_config(migrate.alembic_config())
    assert script.get_heads() == [tables.HEAD]


VERSIONS = [script.revision for script in ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions()]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_each_earlier_version_becomes_like_a_new_one(
    tmp_path: Path, connection: Connection, version: str
) -> None:
    """Also where a column or an index was added later."""
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as old, old.begin():
        command.upgrade(migrate.alembic_config(old), version)
    Database.open(path).close()
    with engine.connect() as old:
        assert schema(connection) == schema(old)


def test_migrations_are_found_in_a_checkout_and_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert migrate.migrations().parent == Path(migrate.__file__).parents[2]
    package = tmp_path / "site-packages" / "watcherd"
    (package / "store").mkdir(parents=True)
    shutil.copytree(migrate.migrations(), package / "migrations")
    monkeypatch.setattr(migrate, "__file__", str(package / "store" / "migrate.py"))
    assert migrate.migrations() == package / "migrations"
    Database.open(tmp_path / "new.db").close()
    shutil.rmtree(package / "migrations")
    with pytest.raises(StoreError, match="migrations are missing"):
        migrate.migrations()


def test_views_and_triggers_of_another_version_are_replaced(path: Path) -> None:
    with closing(sqlite3.connect(path)) as person, person:
        person.execute("DROP VIEW jobs")
        person.execute("CREATE VIEW jobs AS SELECT 1 AS old")
        person.execute("DROP TRIGGER job_moved")
        person.execute("CREATE VIEW forgotten AS SELECT 1 AS old")
    Database.open(path).close()
    with closing(sqlite3.connect(path)) as person:
        rows = person.execute("SELECT name FROM sqlite_schema WHERE type IN ('view', 'trigger')").fetchall()
        assert {name for (name,) in rows} == VIEWS.keys() | TRIGGERS.keys() | {"forgotten"}
        assert person.execute("SELECT * FROM jobs").description[0][0] == "id"


def test_a_database_of_a_newer_program_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="written by a newer watcherd"):
        Database.open(path)
    with pytest.raises(StoreError, match="written by a newer watcherd"), reader(path):
        pass
    with closing(sqlite3.connect(path)) as newer:
        assert newer.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    assert len(path.read_bytes()) == len(before)


@pytest.fixture
def older(path: Path) -> Path:
    """A database with a job in it, as an older program left it."""
    with Database.open(path) as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("a.png")))
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("UPDATE alembic_version SET version_num = '0000'")
    return path


def upgrades(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Let the next migration be these statements."""

    def command(config: Any, _: str) -> None:
        for statement in statements:
            config.attributes["connection"].exec_driver_sql(statement)

    monkeypatch.setattr("alembic.command.upgrade", command)


def test_a_reader_says_that_an_older_database_needs_an_upgrade(older: Path) -> None:
    with pytest.raises(StoreError, match="of an older version"), reader(older):
        pass


def test_a_migration_is_preceded_by_a_copy(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = f"UPDATE alembic_version SET version_num = '{HEAD}'"  # noqa: S608 - a number of ours
    upgrades(monkeypatch, "ALTER TABLE job ADD COLUMN extra TEXT", done)
    Database.open(older).close()
    copy = older.with_name(f"watcherd.db.before-{HEAD}")
    with closing(sqlite3.connect(copy)) as before:
        assert before.execute("SELECT count(*) FROM job").fetchone() == (1,)
        assert before.execute("SELECT version_num FROM alembic_version").fetchone() == ("0000",)


@pytest.mark.parametrize(
    "statements",
    [("DROP TABLE attempt_device", "this is no SQL"), ("DELETE FROM scan",)],
    ids=["a statement fails", "rows are left that point to nothing"],
)
def test_a_migration_that_fails_leaves_the_database_as_it_was(
    older: Path, monkeypatch: pytest.MonkeyPatch, statements: tuple[str, ...]
) -> None:
    upgrades(monkeypatch, "ALTER TABLE job ADD COLUMN extra TEXT", *statements)
    with pytest.raises(StoreError, match=f"could not be brought from version 0000 to {HEAD}") as caught:
        Database.open(older)
    assert "It is unchanged" in caught.value.hint
    with closing(sqlite3.connect(older)) as old, old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == ("0000",)
        old.execute("UPDATE alembic_version SET version_num = ?", (HEAD,))
    with reader(older) as connection:
        (record,) = history.jobs(connection)
        assert "extra" not in record
        assert record["devices"] == []
