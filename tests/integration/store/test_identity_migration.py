"""Histories of before: what an attempt's replica proves is put right, the rest of the results is marked as unknown."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest
import sqlalchemy as sa
from alembic import command

from tests.integration.store.helpers import MODEL, NOW, OPTIONS, enqueue, scan, start_run
from watcherd.errors import StoreError
from watcherd.store import Database, ModelIdentity, history, migrate, reader, stamp
from watcherd.store.identity import UNKNOWN

if TYPE_CHECKING:
    from pathlib import Path

OTHER = ModelIdentity(segmenter="none", model="none", revision="1", dtype="float32")
AT = stamp(NOW)


REPLICA = """
INSERT INTO replica (id, run_id, number, segmenter, model, model_revision, dtype, placement, started_at, ready_at)
VALUES (:id, 1, :id, :segmenter, :model, :model_revision, :dtype, '{}', :at, :at)
"""
JOB = """
INSERT INTO job (id, scan_id, arrival_id, source, profile, options, options_key, segmenter, model, model_revision,
                 dtype, state, error, attempt_id, moved_why, moved_at, created_at, queued_at, finished_at)
VALUES (:id, :scan, :id, 'a', 'default', :options, :key, :segmenter, :model, :model_revision, :dtype, :state, 'e', :id,
        'w', :at, :at, :at, :finished)
"""
ATTEMPT = """
INSERT INTO attempt (id, job_id, number, run_id, replica_id, started_at) VALUES (:id, :id, 1, 1, :replica, :at)
"""


class Past(NamedTuple):
    """A job of before: what it was queued for, which replica computed it (None: nobody knows), and of which scan."""

    said: ModelIdentity
    true: ModelIdentity | None
    state: str = "succeeded"
    scan: int = 0


def make(path: Path, jobs: list[Past]) -> None:
    """A history as version 0007 wrote it."""
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as old, old.begin():
        command.upgrade(migrate.alembic_config(old), "0007")
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("INSERT INTO run (id, started_at, pid, host, version) VALUES (1, ?, 1, 'h', '0.1.0')", (AT,))
        replicas = {MODEL: 1, OTHER: 2}
        for model, number in replicas.items():
            old.execute(REPLICA, {"id": number, "at": AT, **model.columns()})
        for number, job in enumerate(jobs, 1):
            of = job.scan or number
            old.execute("INSERT OR IGNORE INTO scan (id, sha256, size_bytes) VALUES (?, ?, 7)", (of, f"{of:064x}"))
            values = {
                "id": number,
                "scan": of,
                "options": OPTIONS.to_json(),
                "key": key(job.said),
                "state": job.state,
                "at": AT,
                "finished": None if job.state == "queued" else AT,
                "replica": replicas[job.true] if job.true else None,
            }
            old.execute(JOB, values | job.said.columns())
            old.execute(ATTEMPT, values)


def upgraded(path: Path) -> list[tuple[ModelIdentity, str]]:
    """Identity and key of every job, in order."""
    with Database.open(path) as database, database.reader() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM job ORDER BY id").fetchall()
        return [
            (
                ModelIdentity(segmenter=r.segmenter, model=r.model, revision=r.model_revision, dtype=r.dtype),
                r.options_key,
            )
            for r in rows
        ]


def key(model: ModelIdentity) -> str:
    return OPTIONS.key(model.key)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old.db"


@pytest.mark.parametrize(
    ("past", "identity"),
    [
        (Past(MODEL, MODEL), MODEL),
        (Past(MODEL, OTHER), OTHER),
        (Past(MODEL, None), UNKNOWN),
        (Past(MODEL, OTHER, "failed"), OTHER),
        (Past(MODEL, None, "failed"), MODEL),
        (Past(MODEL, OTHER, "queued"), MODEL),
    ],
    ids=["right", "another model", "nobody knows", "failed by another", "failed before any model", "queued"],
)
def test_a_job_of_before_names_what_its_attempt_proves(old: Path, past: Past, identity: ModelIdentity) -> None:
    make(old, [past])
    assert [(identity, key(identity))] == upgraded(old)


def test_what_was_put_right_is_an_event(old: Path) -> None:
    make(old, [Past(MODEL, OTHER)])
    upgraded(old)
    with reader(old) as connection:
        (event,) = history.events(connection, 1)
    assert ("corrected", {"from": MODEL.columns(), "to": OTHER.columns()}) == (event["kind"], event["detail"])


def test_a_job_whose_key_another_has_stands_by_itself(old: Path) -> None:
    """Both of one scan, both computed by one model: a scan that is dropped again shares the result of the second."""
    make(old, [Past(MODEL, OTHER, scan=1), Past(OTHER, OTHER, scan=1)])
    assert [(OTHER, f"{key(OTHER)}-1"), (OTHER, key(OTHER))] == upgraded(old)


def test_nothing_is_shared_with_a_result_of_an_unknown_model(old: Path) -> None:
    make(old, [Past(MODEL, None)])
    with Database.open(old) as database:
        run_id = database.write(start_run)
        (found,) = database.write(lambda c: enqueue(c, run_id, scan("b.png", 1)))
    assert not found.duplicate


def test_jobs_of_before_may_fail_for_want_of_their_bytes(old: Path) -> None:
    """The list of error classes is a CHECK of two tables, changed in place."""
    make(old, [Past(MODEL, MODEL, "failed")])
    upgraded(old)
    with closing(sqlite3.connect(old)) as person, person:
        for update in ("UPDATE job SET error_class = ?", "UPDATE attempt SET error_class = ?"):
            person.execute(update, ("lost",))
            with pytest.raises(sqlite3.IntegrityError):
                person.execute(update, ("found",))
        assert [("ok",)] == person.execute("PRAGMA integrity_check").fetchall()


def test_it_says_how_far_it_is(old: Path) -> None:
    make(old, [Past(MODEL, OTHER)] * 3)
    marks: list[float] = []
    Database.open(old, mark=marks.append).close()
    assert sorted(marks) == marks
    assert 1.0 == marks[-1]
    assert any(0 < mark <= 0.5 for mark in marks)


def test_without_room_nothing_is_begun(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(old, [Past(MODEL, OTHER)])
    usage = shutil.disk_usage(old.parent)
    monkeypatch.setattr(migrate.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(StoreError, match="1 MiB are") as caught:
        Database.open(old)
    assert "Make room" in caught.value.hint
    with closing(sqlite3.connect(old)) as untouched:
        assert ("0007",) == untouched.execute("SELECT version_num FROM alembic_version").fetchone()
    assert [] == list(old.parent.glob("*.before-*"))
