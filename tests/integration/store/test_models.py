"""Several models: each one's jobs are claimed apart, and no row was written anew for that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import command

from tests.integration.store.helpers import MODEL, NOW, OPTIONS, later, scan, start_run
from watcherd.job import Options
from watcherd.store import Database, Hold, InUse, ModelIdentity, arrivals, history, migrate, queue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection

RETINA = ModelIdentity(segmenter="vessel", model="vessel", revision="3", dtype="float32")
FOR_RETINA = Options(model="retina")
IN_USE = {
    "default": InUse(identity=MODEL, options=lambda _path, _overrides: OPTIONS),
    "retina": InUse(name="retina", identity=RETINA, options=lambda _path, _overrides: FOR_RETINA),
}


def enqueue(connection: Connection, run_id: int, *names: str, retina: Sequence[str] = ()) -> None:
    scans = [scan(name, options=FOR_RETINA if name in retina else OPTIONS) for name in (*names, *retina)]
    arrivals.enqueue(connection, scans, model=MODEL, named={"retina": RETINA}, run_id=run_id, now=NOW)


def claimed(connection: Connection, run_id: int, name: str, limit: int = 9) -> list[str]:
    jobs = queue.claim(connection, run_id=run_id, limit=limit, now=later(seconds=1), in_use=IN_USE[name])
    return [job.source for job in jobs]


def test_a_claim_takes_one_models_jobs_alone(connection: Connection) -> None:
    run_id = start_run(connection)
    enqueue(connection, run_id, "a.png", "b.png", retina=["c.png"])
    assert ["c.png"] == claimed(connection, run_id, "retina")
    assert ["a.png", "b.png"] == claimed(connection, run_id, "default")
    assert [] == claimed(connection, run_id, "retina")


def test_each_job_is_queued_for_the_identity_of_its_own_model(connection: Connection) -> None:
    run_id = start_run(connection)
    enqueue(connection, run_id, "a.png", retina=["c.png"])
    found = {job["source"]: (job["model_name"], job["segmenter"]) for job in history.jobs(connection)}
    assert {"a.png": ("default", "vesselness"), "c.png": ("retina", "vessel")} == found


def test_equal_bytes_for_two_models_are_two_jobs_even_if_both_are_the_same_model(connection: Connection) -> None:
    run_id = start_run(connection)
    both = [scan("a.png", 1), scan("b.png", 1, options=FOR_RETINA), scan("c.png", 1, options=FOR_RETINA)]
    found = arrivals.enqueue(connection, both, model=MODEL, named={"retina": MODEL}, run_id=run_id, now=NOW)
    assert [False, False, True] == [each.duplicate for each in found]


def test_the_default_models_options_and_keys_are_those_of_before_there_were_several() -> None:
    assert "model" not in json.loads(OPTIONS.to_json())
    assert "retina" == json.loads(FOR_RETINA.to_json())["model"]
    assert FOR_RETINA == Options.from_json(FOR_RETINA.to_json())
    assert OPTIONS.key(MODEL.key) != FOR_RETINA.key(MODEL.key)


def test_what_is_due_is_asked_for_each_model(connection: Connection) -> None:
    """A model that cannot take its jobs now must not keep the one that has none looking again and again."""
    run_id = start_run(connection)
    enqueue(connection, run_id, "a.png")
    assert later() == queue.next_due(connection, now=NOW)
    assert queue.next_due(connection, now=NOW, name="retina") is None


def test_frames_of_a_run_that_another_model_follows_are_not_made_anew_with_these(connection: Connection) -> None:
    run_id = start_run(connection)
    names = [f"r_frame_{number}.png" for number in (1, 2, 3)]
    asked = [
        replace(scan(name), options=Options(model=model, group_frames=True, frame=name))
        for name, model in zip(names, ("retina", "default", "retina"), strict=True)
    ]
    old = replace(RETINA, revision="2")
    arrivals.enqueue(connection, asked, model=MODEL, named={"retina": old}, run_id=run_id, now=NOW)

    def options(path: bytes, _overrides: object) -> Options:
        return Options(model="retina", group_frames=True, frame=path.decode())

    in_use = InUse(name="retina", identity=RETINA, options=options)
    jobs = queue.claim(connection, run_id=run_id, limit=9, now=later(seconds=9), in_use=in_use, hold=Hold())
    assert [names[0], names[2]] == [job.source for job in jobs]
    others = connection.exec_driver_sql("SELECT source, segmenter FROM job WHERE model_name = 'default'").fetchall()
    assert [(names[1], "vesselness")] == [tuple(row) for row in others]


def test_an_old_history_is_the_default_models_and_what_cannot_be_read_is_too(tmp_path: Path) -> None:
    """Also a queued job whose options are no JSON: it costs itself, not the start."""
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as old, old.begin():
        command.upgrade(migrate.alembic_config(old), "0008")
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("INSERT INTO run (id, started_at, pid, host, version) VALUES (1, ?, 1, 'h', '0')", (STAMP,))
        for number, options in enumerate(['{"threshold":0.5}', "{no JSON", "[]", '{"model":"retina"}'], start=1):
            old.execute("INSERT INTO scan (id, sha256, size_bytes) VALUES (?, ?, 1)", (number, str(number)))
            old.execute(JOB, (number, number, number, f"{number}.png", options, str(number), STAMP, STAMP, STAMP))
            old.execute(
                "INSERT INTO arrival (id, run_id, path, path_text, fate, seen_at, job_id) VALUES (?, 1, ?, ?, "
                "'queued', ?, ?)",
                (number, b"%d.png" % number, f"{number}.png", STAMP, number),
            )
    with Database.open(path) as database:
        found = database.write(lambda c: claimed(c, 1, "default"))
        assert ["1.png", "2.png", "3.png"] == found
        assert ["4.png"] == database.write(lambda c: claimed(c, 1, "retina"))


STAMP = "2026-01-02T03:04:05.678Z"
JOB = """
INSERT INTO job (id, scan_id, arrival_id, source, profile, options, options_key, segmenter, model, model_revision,
                 dtype, state, moved_why, moved_at, created_at, queued_at)
VALUES (?, ?, ?, ?, 'default', ?, ?, 's', 'm', 'r', 'd', 'queued', 'ingested', ?, ?, ?)
"""
