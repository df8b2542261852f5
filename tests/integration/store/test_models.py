"""Several models: each one's jobs are claimed apart, and no row was written anew for that."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command

from tests.integration.store.helpers import MODEL, NOW, OPTIONS, failure, intents, later, scan, start_run, succeed
from watcherd.job import Options, State
from watcherd.store import (
    Database,
    ForModel,
    Hold,
    InUse,
    ModelIdentity,
    arrivals,
    backup,
    deliveries,
    history,
    identity,
    migrate,
    overview,
    queue,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy import Connection

    from watcherd.store import ClaimedJob, Enqueued

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


# ---------------------------------------------------------------------------------------- several models for one scan


def both(
    connection: Connection, run_id: int, *names: str, content: int | None = None, mtime: int = 1
) -> list[Enqueued]:
    """Files that the default model and `retina` compute."""
    new = [replace(scan(name, content, mtime=mtime), beside=(ForModel(options=FOR_RETINA),)) for name in names]
    return arrivals.enqueue(connection, new, model=MODEL, named={"retina": RETINA}, run_id=run_id, now=NOW)


def claim_of(connection: Connection, run_id: int, name: str) -> ClaimedJob:
    (job,) = queue.claim(connection, run_id=run_id, limit=1, now=later(seconds=1), in_use=IN_USE[name])
    return job


def to_dispose(connection: Connection) -> list[tuple[int, State]]:
    return [(arrival.id, arrival.state) for arrival in deliveries.arrivals_to_dispose(connection, 9)]


def test_a_file_for_two_models_is_a_job_for_each_and_one_file_in_the_inbox(connection: Connection) -> None:
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    assert [False, False] == [item.duplicate, item.beside[0].duplicate]
    jobs = [claim_of(connection, run_id, name) for name in IN_USE]
    assert [("default", "vesselness", ""), ("retina", "vessel", "retina")] == [
        (job.options.model, job.model.segmenter, job.beside) for job in jobs
    ]
    assert [item.arrival_id, item.beside[0].arrival_id] == [job.claim.arrival_id for job in jobs]
    assert [b"a.png"] == [file.path for file in arrivals.present_after(connection, b"", 9)]
    assert 2 == history.arrivals_in_all(connection) == sum(history.fates(connection).values())


@pytest.mark.parametrize("first", ["default", "retina"])
def test_the_file_leaves_the_inbox_when_both_models_have_ended(connection: Connection, first: str) -> None:
    """Whichever is first, and not before the other's result is visible too."""
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    for name in sorted(IN_USE, key=lambda name: name != first):
        assert [] == to_dispose(connection)
        succeed(connection, claim_of(connection, run_id, name).claim, name)
    assert [(item.arrival_id, State.SUCCEEDED)] == to_dispose(connection)
    assert not history.open_arrivals(connection, but=[item.arrival_id])


def test_a_file_of_which_one_model_failed_counts_as_failed_once_its_note_is_there(connection: Connection) -> None:
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    succeed(connection, claim_of(connection, run_id, "default").claim)
    queue.give_up(connection, claim_of(connection, run_id, "retina").claim, failure(), now=NOW)
    assert [] == to_dispose(connection)
    (due,) = deliveries.arrivals_to_deliver(connection, 9)
    assert (item.beside[0].arrival_id, "retina") == (due.id, due.beside)
    deliveries.begin_redelivery(connection, due.id, intents("note", ["failed"]))
    assert [] == to_dispose(connection)
    deliveries.finish_redelivery(connection, [due.id], now=NOW)
    assert [(item.arrival_id, State.FAILED)] == to_dispose(connection)


def test_a_file_waits_for_a_model_that_is_asked_again_and_for_one_that_is_cancelled_no_more(
    connection: Connection,
) -> None:
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    for name in IN_USE:
        succeed(connection, claim_of(connection, run_id, name).claim, name)
    beside = item.beside[0]
    queue.ask_again(connection, [beside.job_id], now=NOW)
    assert [] == to_dispose(connection)
    queue.cancel(connection, [beside.job_id], now=NOW)
    deliveries.skip_delivery(connection, [beside.arrival_id])
    assert [(item.arrival_id, State.CANCELLED)] == to_dispose(connection)


def test_the_same_bytes_under_another_name_share_both_jobs(connection: Connection) -> None:
    run_id = start_run(connection)
    (first,) = both(connection, run_id, "a.png", content=1)
    for name in IN_USE:
        succeed(connection, claim_of(connection, run_id, name).claim, name)
    (again,) = both(connection, run_id, "b.png", content=1)
    assert (True, True) == (again.duplicate, again.beside[0].duplicate)
    assert (first.job_id, first.beside[0].job_id) == (again.job_id, again.beside[0].job_id)
    due = deliveries.arrivals_to_deliver(connection, 9)
    assert [(again.arrival_id, ""), (again.beside[0].arrival_id, "retina")] == [(each.id, each.beside) for each in due]


def test_a_model_that_is_added_computes_what_is_dropped_again_and_the_first_ones_result_stays(
    connection: Connection,
) -> None:
    run_id = start_run(connection)
    enqueue(connection, run_id, "a.png")
    succeed(connection, claim_of(connection, run_id, "default").claim)
    (again,) = both(connection, run_id, "a.png", mtime=2)
    assert (True, False) == (again.duplicate, again.beside[0].duplicate)
    assert "retina" == claim_of(connection, run_id, "retina").beside
    assert [] == deliveries.arrivals_to_deliver(connection, 9)


def test_a_job_beside_that_is_given_to_the_first_model_is_joined_with_its_job(connection: Connection) -> None:
    """One result of a model for a name, and the file still leaves the inbox."""
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    succeed(connection, claim_of(connection, run_id, "default").claim)
    moved = identity.hand_over(connection, [item.beside[0].job_id], lambda _path: OPTIONS, meant=MODEL, now=NOW)
    assert [item.beside[0].job_id] == moved
    old = replace(MODEL, revision="0")
    connection.exec_driver_sql("UPDATE job SET model_revision = ? WHERE id = ?", (old.revision, moved[0]))
    assert [] == claimed(connection, run_id, "default")
    assert [item.job_id] == [job["id"] for job in history.jobs(connection)]
    assert [] == deliveries.arrivals_to_deliver(connection, 9)
    assert [(item.arrival_id, State.SUCCEEDED)] == to_dispose(connection)


def test_the_frames_of_a_run_are_gathered_for_each_model_by_itself(connection: Connection) -> None:
    """One follows runs, the other does not; a frame's results beside are those of its own model."""
    run_id = start_run(connection)
    names = [f"r_frame_{number}.png" for number in (1, 2, 3)]
    new = [
        replace(
            scan(name),
            options=Options(group_frames=True),
            beside=(ForModel(options=replace(FOR_RETINA, group_frames=True, frame=name), not_before=later(seconds=5)),),
        )
        for name in names
    ]
    arrivals.enqueue(connection, new, model=MODEL, named={"retina": RETINA}, run_id=run_id, now=NOW)
    assert [] == claimed(connection, run_id, "retina")
    assert names == claimed(connection, run_id, "default")
    jobs = queue.claim(connection, run_id=run_id, limit=9, now=later(seconds=9), in_use=IN_USE["retina"], hold=Hold())
    assert [(1, "retina"), (2, "retina"), (3, "retina")] == [(job.run and job.run.frame, job.beside) for job in jobs]


def test_overwritten_and_pruned_the_rows_of_both_models_go_their_way(connection: Connection) -> None:
    run_id = start_run(connection)
    both(connection, run_id, "a.png", content=1)
    (newer,) = both(connection, run_id, "a.png", content=2, mtime=2)
    assert [newer.arrival_id] == [
        row.id for row in connection.exec_driver_sql("SELECT id FROM arrival WHERE present = 1")
    ]
    for name in (*IN_USE, *IN_USE):
        job = claim_of(connection, run_id, name)
        succeed(connection, job.claim, f"{name} {job.id}")
    assert [(newer.arrival_id, State.SUCCEEDED)] == to_dispose(connection)
    arrivals.record_disposal(connection, [(newer.arrival_id, "archived", b"a.png")], now=NOW)
    assert 4 == backup.prune(connection, before=later(days=1))
    assert [] == connection.exec_driver_sql("SELECT id FROM arrival").fetchall()


def test_a_name_is_asked_for_with_all_its_models(connection: Connection) -> None:
    run_id = start_run(connection)
    (item,) = both(connection, run_id, "a.png")
    jobs = [item.job_id, item.beside[0].job_id]
    assert jobs == overview.jobs_of_name(connection, "a.png")
    waited = overview.waited_for(connection, ["a.png"], after=0)["a.png"]
    assert [("default", jobs[0]), ("retina", jobs[1])] == [(row["model_name"], row["job_id"]) for row in waited]
    assert [{"id": jobs[1], "model_name": "retina", "state": "queued"}] == overview.jobs_beside(connection, jobs[0])
    assert [jobs[1]] == [job["id"] for job in history.jobs(connection, history.Filter(model="retina"))]
    (newer,) = both(connection, run_id, "a.png", content=7, mtime=2)
    waited = overview.waited_for(connection, ["a.png"], after=0)["a.png"]
    assert [newer.job_id, newer.beside[0].job_id] == [row["job_id"] for row in waited]


def test_a_check_of_the_history_counts_for_how_many_models_files_wait(tmp_path: Path) -> None:
    path = tmp_path / "watcherd.db"
    with Database.open(path) as database:
        run_id = database.write(start_run)
        database.write(lambda c: both(c, run_id, "a.png"))
        assert [] == backup.check(path)
        database.write(lambda c: c.exec_driver_sql("UPDATE arrival SET awaited = 0"))
        assert ["a.png waits for the results of 0 more models, which is not so"] == backup.check(path)


def test_files_of_an_old_history_are_of_one_model_and_leave_the_inbox_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect() as old, old.begin():
        command.upgrade(migrate.alembic_config(old), "0010")
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("INSERT INTO run (id, started_at, pid, host, version) VALUES (1, ?, 1, 'h', '0')", (STAMP,))
        for number in (1, 2):
            old.execute("INSERT INTO scan (id, sha256, size_bytes) VALUES (?, ?, 1)", (number, str(number)))
            old.execute(JOB, (number, number, number, f"{number}.png", "{}", str(number), STAMP, STAMP, STAMP))
            delivery = ("delivered", "waiting")[number - 1]
            old.execute(
                "INSERT INTO arrival (id, run_id, path, path_text, fate, seen_at, job_id, size_bytes, mtime_ns, "
                "device, inode, ctime_ns, delivery, disposal) "
                "VALUES (?, 1, ?, ?, 'queued', ?, ?, 1, 1, 1, 1, 1, ?, 'pending')",
                (number, b"%d.png" % number, f"{number}.png", STAMP, number, delivery),
            )
    with Database.open(path) as database, database.reader() as connection:
        assert [1] == [arrival.id for arrival in deliveries.arrivals_to_dispose(connection, 9)]
        assert [(None, 0)] * 2 == [
            tuple(row) for row in connection.exec_driver_sql("SELECT file_of, awaited FROM arrival")
        ]
