"""The measures of masks live and die with the results that they describe."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command

from tests.integration.store.helpers import NOW, claim_one, enqueue, later, scan, staged, start_run
from watcherd.errors import StaleJobError
from watcherd.store import Claim, Database, arrivals, backup, deliveries, figures, history, migrate, queue
from watcherd.values import FrameMeasure

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection


def measures(*areas: float) -> tuple[FrameMeasure, ...]:
    return tuple(
        FrameMeasure(
            frame=number, unit="mm", area_fraction=area, components=2, length=10 * area, mean_width=0.5, max_width=1.5
        )
        for number, area in enumerate(areas, start=1)
    )


def deliver(connection: Connection, claim: Claim, found: tuple[FrameMeasure, ...]) -> None:
    queue.begin_delivery(connection, [replace(staged(claim), measures=found)], now=NOW)
    queue.finish_delivery(connection, [claim], now=NOW)


@pytest.fixture
def delivered(connection: Connection, run_id: int) -> int:
    """A job of three frames, of which the second is the fullest."""
    enqueue(connection, run_id, scan("a.png"), scan("b.png"))
    claim = claim_one(connection, run_id)
    deliver(connection, claim, measures(0.1, 0.4, 0.4))
    return claim.job_id


def test_every_frame_is_kept_and_the_fullest_stands_for_the_scan(connection: Connection, delivered: int) -> None:
    """The first of equal ones."""
    rows = figures.of_job(connection, delivered)
    assert [one.columns() for one in measures(0.1, 0.4, 0.4)] == rows
    job = history.job(connection, delivered)
    assert job is not None
    assert (2, 0.4, 2, 4.0, 0.5, 1.5, "mm") == tuple(
        job[name]
        for name in ("measured_frame", "area_fraction", "components", "length", "mean_width", "max_width", "unit")
    )


def test_a_job_without_measures_has_none(connection: Connection, run_id: int, delivered: int) -> None:
    """NULL, never 0."""
    claim = claim_one(connection, run_id)
    deliver(connection, claim, ())
    job = history.job(connection, claim.job_id)
    assert job is not None
    assert ([], None, None) == (figures.of_job(connection, claim.job_id), job["measured_frame"], job["length"])


def test_a_job_asked_for_again_loses_them_and_gets_new_ones(
    connection: Connection, run_id: int, delivered: int
) -> None:
    """Figures and masks are of one attempt."""
    queue.release(connection, [claim_one(connection, run_id)], now=NOW)
    queue.cancel(connection, [delivered + 1], now=NOW)
    queue.ask_again(connection, [delivered], now=NOW)
    assert [] == figures.of_job(connection, delivered)
    deliver(connection, claim_one(connection, run_id, later(seconds=1)), measures(0.2))
    assert [0.2] == [row["area_fraction"] for row in figures.of_job(connection, delivered)]


def test_an_outdated_claim_changes_no_figures(database: Database) -> None:
    """They are written in the transaction that moves the job, and go back with it."""
    run_id = database.write(start_run)
    database.write(lambda c: enqueue(c, run_id, scan("a.png")))
    claim = database.write(lambda c: claim_one(c, run_id))
    outdated = claim._replace(attempt_id=claim.attempt_id + 1)
    with pytest.raises(StaleJobError):
        database.write(lambda c: deliver(c, outdated, measures(0.1)))
    with database.reader() as connection:
        assert [] == figures.of_job(connection, claim.job_id)


def test_pruned_jobs_take_their_figures_along(connection: Connection, delivered: int) -> None:
    for arrival in deliveries.arrivals_to_dispose(connection, 9):
        arrivals.record_disposal(connection, [(arrival.id, "deleted", None)], now=NOW)
    arrivals.vanished(connection, [b"a.png"], now=NOW)
    assert 1 == backup.prune(connection, before=later(days=1))
    assert [] == figures.of_job(connection, delivered)


def old_history(folder: Path) -> Path:
    """A history of version 0003 with a job that succeeded: the rows of a new one in the tables of that time."""
    new, old = folder / "new.db", folder / "watcherd.db"
    with Database.open(new) as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("a.png")))
        database.write(lambda c: deliver(c, claim_one(c, run_id), ()))
    engine = sa.create_engine(f"sqlite:///{old}", poolclass=sa.NullPool)
    with engine.connect() as connection, connection.begin():
        command.upgrade(migrate.alembic_config(connection), "0003")
    with closing(sqlite3.connect(old)) as copy, copy:
        copy.execute("ATTACH ? AS new", (str(new),))
        tables = [name for (name,) in copy.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")]
        for table in set(tables) - {"alembic_version"}:
            columns = ", ".join(f'"{row[1]}"' for row in copy.execute(f"PRAGMA main.table_info({table})"))
            copy.execute(f"DELETE FROM main.{table}")  # noqa: S608 - names of ours
            copy.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")  # noqa: S608 - the same
    return old


def test_a_history_of_before_keeps_its_jobs_and_has_no_figures(tmp_path: Path) -> None:
    """Nothing is made up for masks that may be gone."""
    path = old_history(tmp_path)
    with Database.open(path) as database, database.reader() as connection:
        (job,) = history.jobs(connection)
        assert ("succeeded", 0.125, None) == (job["state"], job["mask_fraction"], job["length"])
        assert [] == figures.of_job(connection, job["id"])
    with closing(sqlite3.connect(f"{path}.before-{migrate.HEAD}")) as copy:
        assert ("0003",) == copy.execute("SELECT version_num FROM alembic_version").fetchone()


def test_an_upgrade_that_cannot_make_the_table_changes_nothing(tmp_path: Path) -> None:
    """Somebody's own table of that name is in the way: the version before can still use its history."""
    path = tmp_path / "watcherd.db"
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as connection, connection.begin():
        command.upgrade(migrate.alembic_config(connection), "0003")
        connection.exec_driver_sql("CREATE TABLE measure (mine TEXT)")
    before = path.read_bytes()
    with pytest.raises(Exception, match="already exists"):
        Database.open(path)
    with closing(sqlite3.connect(path)) as old:
        assert ("0003",) == old.execute("SELECT version_num FROM alembic_version").fetchone()
        assert [("mine",)] == old.execute("SELECT name FROM pragma_table_info('measure')").fetchall()
    assert len(before) == len(path.read_bytes())
