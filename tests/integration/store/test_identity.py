"""Whose mask it is: jobs follow the model in use, records follow the replica that computed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.store.helpers import (
    IN_USE,
    MODEL,
    NOW,
    claim,
    claim_one,
    enqueue,
    failure,
    later,
    scan,
    staged,
    start_run,
    succeed,
)
from watcherd.job import ErrorClass, Options, State
from watcherd.store import (
    Hold,
    InUse,
    ModelIdentity,
    StagedJob,
    arrivals,
    backup,
    deliveries,
    history,
    identity,
    queue,
    runs,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from watcherd.store import ClaimedJob

OTHER = ModelIdentity(segmenter="sa2va", model="m", revision="2", dtype="bfloat16")
ASKED = Options(prompt="Please segment the vessel.", draft="Sure.", threshold=0.3)


def now_options(_path: bytes, overrides: Any) -> Options:
    return replace(ASKED, **(overrides or {}))


NOW_IN_USE = InUse(identity=OTHER, options=now_options)


def claim_for_other(connection: Connection, run_id: int, limit: int = 9, **options: Any) -> list[ClaimedJob]:
    return queue.claim(connection, run_id=run_id, limit=limit, now=later(seconds=9), in_use=NOW_IN_USE, **options)


def of_job(connection: Connection, job_id: int) -> dict[str, Any]:
    record = history.job(connection, job_id)
    assert record is not None
    return {key: record[key] for key in ("segmenter", "model", "model_revision", "dtype")}


def kinds(connection: Connection, job_id: int) -> list[str]:
    return [event["kind"] for event in history.events(connection, job_id)]


def deliveries_of(connection: Connection) -> list[tuple[str, int, str, str]]:
    rows = connection.exec_driver_sql("SELECT path_text, job_id, fate, delivery FROM arrival ORDER BY id")
    return [tuple(row) for row in rows]


def adds_up(connection: Connection) -> bool:
    return sum(history.fates(connection).values()) == history.arrivals_in_all(connection)


def test_a_backlog_goes_to_the_model_that_is_in_use_when_its_turn_comes(connection: Connection, run_id: int) -> None:
    """With the options that the profile gives now: a prompt that was asked of nobody is asked."""
    enqueue(connection, run_id, scan("a.png"))
    (job,) = claim_for_other(connection, run_id)
    assert OTHER == job.model
    assert ASKED == job.options
    assert OTHER.columns() == of_job(connection, job.id)
    (event,) = (event for event in history.events(connection, job.id) if event["kind"] == "renewed")
    assert {"from": MODEL.columns(), "to": OTHER.columns()} == {key: event["detail"][key] for key in ("from", "to")}
    assert ["", ASKED.prompt] == event["detail"]["options"]["prompt"]


def test_a_job_of_the_model_in_use_is_left_as_it_is(connection: Connection, run_id: int) -> None:
    """Its options stay what its scan was dropped with, whatever the profile says by now."""
    enqueue(connection, run_id, scan("a.png", options=Options(threshold=0.9)))
    (job,) = claim(connection, run_id)
    assert 0.9 == job.options.threshold
    assert ["ingested", "claimed"] == kinds(connection, job.id)


def test_what_a_sidecar_said_is_said_to_the_new_model_too(connection: Connection, run_id: int) -> None:
    arrival = replace(scan("a.png", options=Options(threshold=0.8)), overrides=json.dumps({"threshold": 0.8}))
    enqueue(connection, run_id, arrival)
    (job,) = claim_for_other(connection, run_id)
    assert replace(ASKED, threshold=0.8) == job.options


def test_a_job_of_a_version_that_kept_no_sidecars_keeps_what_it_was_asked(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", options=Options(threshold=0.8)))
    connection.exec_driver_sql("UPDATE job SET overrides = NULL")
    (job,) = claim_for_other(connection, run_id)
    assert (0.8, ASKED.prompt) == (job.options.threshold, job.options.prompt)


def test_a_scan_whose_sidecar_is_wrong_stays_refused(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", options=Options(refused="a.png.toml is not TOML")))
    (job,) = claim_for_other(connection, run_id)
    assert "a.png.toml is not TOML" == job.options.refused


def test_a_retry_is_for_the_model_in_use(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    succeed(connection, claim_one(connection, run_id))
    queue.ask_again(connection, [1], now=NOW)
    (job,) = claim_for_other(connection, run_id)
    succeed(connection, job.claim)
    assert OTHER.columns() == of_job(connection, 1)


def test_the_same_bytes_for_another_model_are_no_duplicate(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id))
    (found,) = arrivals.enqueue(connection, [scan("b.png", 1)], model=OTHER, run_id=run_id, now=NOW)
    assert not found.duplicate


def test_a_duplicate_of_what_a_renewed_job_has_computed_shares_it(connection: Connection, run_id: int) -> None:
    """The key follows the model: who drops the bytes for the old model gets none of the new one's masks."""
    enqueue(connection, run_id, scan("a.png", 1))
    (job,) = claim_for_other(connection, run_id)
    succeed(connection, job.claim)
    (old,) = enqueue(connection, run_id, scan("b.png", 1))
    new = replace(scan("c.png", 1), options=ASKED)
    (shared,) = arrivals.enqueue(connection, [new], model=OTHER, run_id=run_id, now=NOW)
    assert not old.duplicate
    assert (1, True) == (shared.job_id, shared.duplicate)


@pytest.mark.parametrize("state", ["queued", "running", "delivering", "succeeded", "failed", "cancelled", "crashed"])
def test_two_jobs_that_turn_out_to_be_one_are_joined(connection: Connection, run_id: int, state: str) -> None:
    """The old job's names go to the other one, whatever that has come to; its number leads there."""
    (twin,) = arrivals.enqueue(
        connection, [replace(scan("twin.png", 1), options=ASKED)], model=OTHER, run_id=run_id, now=NOW
    )
    if state != "queued":
        (job,) = claim_for_other(connection, run_id)
        if state in ("delivering", "succeeded"):
            queue.begin_delivery(connection, [staged(job.claim)], now=NOW)
        if state == "succeeded":
            queue.finish_delivery(connection, [job.claim], now=NOW)
        if state == "failed":
            queue.give_up(connection, job.claim, failure(), now=NOW)
        if state == "crashed":
            queue.give_up(connection, job.claim, failure(ErrorClass.CRASH), now=NOW)
        if state == "cancelled":
            queue.release(connection, [job.claim], now=NOW)
            queue.cancel(connection, [job.id], now=NOW)
    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    claimed = claim_for_other(connection, run_id)
    assert [twin.job_id] == list(connection.exec_driver_sql("SELECT id FROM job").scalars())
    assert ([1] if state in ("queued", "cancelled", "crashed") else []) == [job.id for job in claimed]
    delivery = "due" if state in ("succeeded", "failed") else "waiting"
    assert [("a.png", 1, "duplicate", delivery), ("b.png", 1, "duplicate", delivery)] == deliveries_of(connection)[1:]
    assert 1 == identity.current(connection, 2)
    assert "joined" in kinds(connection, 1)
    assert ["ingested", "dropped-again", "joined"] == kinds(connection, 2)
    assert adds_up(connection)


def test_a_name_that_was_dropped_for_both_has_its_result_once(connection: Connection, run_id: int) -> None:
    arrivals.enqueue(connection, [replace(scan("a.png", 1), options=ASKED)], model=OTHER, run_id=run_id, now=NOW)
    enqueue(connection, run_id, scan("a.png", 1, mtime=2))
    (job,) = claim_for_other(connection, run_id)
    assert ["waiting", "waiting"] == [row[3] for row in deliveries_of(connection)]
    succeed(connection, job.claim)
    assert ["delivered", "none"] == [row[3] for row in deliveries_of(connection)]


def test_an_earlier_name_waits_for_its_twin_and_is_not_delivered_besides(connection: Connection, run_id: int) -> None:
    """The first arrival is the one that was moved: neither order gives two results, nor frees a source too soon."""
    enqueue(connection, run_id, scan("a.png", 1))
    new = replace(scan("a.png", 1, mtime=2), options=ASKED)
    arrivals.enqueue(connection, [new], model=OTHER, run_id=run_id, now=NOW)
    connection.exec_driver_sql("UPDATE job SET priority = 5 WHERE id = 2")
    (job,) = claim_for_other(connection, run_id)
    assert 2 == job.id
    assert [] == deliveries.arrivals_to_dispose(connection, 9)
    succeed(connection, job.claim)
    assert [("a.png", 2, "duplicate", "none"), ("a.png", 2, "queued", "delivered")] == deliveries_of(connection)


def test_a_retried_job_takes_its_attempts_and_results_along(connection: Connection, run_id: int) -> None:
    """Its name shows the old model's mask until the new one's is delivered in its place."""
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id))
    new = replace(scan("b.png", 1), options=ASKED)
    arrivals.enqueue(connection, [new], model=OTHER, run_id=run_id, now=NOW)
    (job,) = claim_for_other(connection, run_id)
    succeed(connection, job.claim)
    queue.ask_again(connection, [1], now=NOW)
    assert [] == claim_for_other(connection, run_id)
    assert ("a.png", 2, "duplicate", "due") == deliveries_of(connection)[0]
    assert 2 == len(history.attempts(connection, 2))
    assert {"scan-1", "scan-2"} == {
        output["path"].rpartition("/")[2]
        for arrival in history.arrivals(connection, 2)
        for output in arrival["outputs"]
    }
    assert [] == connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()


def test_a_job_that_is_pruned_takes_along_what_was_joined_with_it(connection: Connection, run_id: int) -> None:
    arrivals.enqueue(connection, [replace(scan("a.png", 1), options=ASKED)], model=OTHER, run_id=run_id, now=NOW)
    enqueue(connection, run_id, scan("b.png", 1))
    (job,) = claim_for_other(connection, run_id)
    succeed(connection, job.claim)
    connection.exec_driver_sql("UPDATE arrival SET present = 0, disposal = 'archived', delivery = 'delivered'")
    assert 1 == backup.prune(connection, before=later(days=1))
    assert 0 == connection.exec_driver_sql("SELECT count(*) FROM event").scalar()


def test_the_frames_of_a_run_change_their_model_together(connection: Connection, run_id: int) -> None:
    """However small the batch: they are claimed as one run only while their options agree."""
    names = [f"run_frame_{number:06}.png" for number in range(1, 6)]
    old = [scan(name, options=Options(group_frames=True, frame=name)) for name in names]
    enqueue(connection, run_id, *old)

    def options(path: bytes, _: Any) -> Options:
        return replace(ASKED, group_frames=True, frame=path.decode())

    in_use = InUse(identity=OTHER, options=options)
    claimed = queue.claim(connection, run_id=run_id, limit=2, now=later(seconds=1), in_use=in_use, hold=Hold())
    assert names == [job.source for job in claimed]
    assert {OTHER} == {job.model for job in claimed}


def test_a_backlog_of_duplicates_is_worked_off_in_pieces(connection: Connection, run_id: int) -> None:
    """One claim joins a bounded number; the next goes on at once."""
    for content in range(queue.RENEWALS + 3):
        new = replace(scan(f"new-{content}.png", content), options=ASKED)
        arrivals.enqueue(connection, [new], model=OTHER, run_id=run_id, now=NOW)
    while jobs := claim_for_other(connection, run_id):
        for job in jobs:
            succeed(connection, job.claim)
    for content in range(queue.RENEWALS + 3):
        enqueue(connection, run_id, scan(f"old-{content}.png", content))
    assert [] == claim_for_other(connection, run_id, limit=1)
    assert 3 == history.counts(connection)[State.QUEUED]
    assert later(seconds=9) == queue.next_due(connection, now=later(seconds=9))
    assert [] == claim_for_other(connection, run_id, limit=1)
    assert 0 == history.counts(connection)[State.QUEUED]
    assert adds_up(connection)


def computed_by(job: ClaimedJob, model: ModelIdentity) -> StagedJob:
    result = staged(job.claim)
    return replace(result, measured=replace(result.measured, computed_by=model))


def test_the_record_is_of_the_replica_that_computed_whatever_the_job_said(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    (job,) = claim(connection, run_id)
    queue.begin_delivery(connection, [computed_by(job, OTHER)], now=NOW)
    queue.finish_delivery(connection, [job.claim], now=NOW)
    assert OTHER.columns() == of_job(connection, 1)
    assert "corrected" in kinds(connection, 1)
    (old,) = enqueue(connection, run_id, scan("b.png", 1))
    (new,) = arrivals.enqueue(connection, [scan("c.png", 1)], model=OTHER, run_id=run_id, now=NOW)
    assert (False, True) == (old.duplicate, new.duplicate)


def test_a_failure_too_names_who_answered(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    (job,) = claim(connection, run_id)
    measured = computed_by(job, OTHER).measured
    queue.give_up(connection, job.claim, failure(ErrorClass.NO_MASK), now=NOW, measured=measured)
    assert OTHER.columns() == of_job(connection, 1)


def test_a_result_whose_key_is_taken_stands_by_itself(connection: Connection, run_id: int) -> None:
    new = replace(scan("a.png", 1))
    arrivals.enqueue(connection, [new], model=OTHER, run_id=run_id, now=NOW)
    (first,) = queue.claim(
        connection, run_id=run_id, limit=1, now=NOW, in_use=InUse(identity=OTHER, options=IN_USE.options)
    )
    succeed(connection, first.claim)
    enqueue(connection, run_id, scan("b.png", 1))
    (job,) = claim(connection, run_id)
    queue.begin_delivery(connection, [computed_by(job, OTHER)], now=NOW)
    queue.finish_delivery(connection, [job.claim], now=NOW)
    assert OTHER.columns() == of_job(connection, 2)
    (shared,) = arrivals.enqueue(connection, [scan("c.png", 1)], model=OTHER, run_id=run_id, now=NOW)
    assert 1 == shared.job_id


def test_a_result_says_which_version_of_watcherd_made_it(connection: Connection) -> None:
    run_id = runs.start_run(connection, pid=1, host="h", boot_id=None, version="9.8.7", now=NOW)
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id))
    start_run(connection)
    record = history.job(connection, 1)
    assert record is not None
    assert "9.8.7" == record["watcherd_version"]


def done_for_other(connection: Connection, run_id: int, name: str, mtime: int = 1) -> None:
    arrivals.enqueue(
        connection, [replace(scan(name, 1, mtime=mtime), options=ASKED)], model=OTHER, run_id=run_id, now=NOW
    )
    (job,) = claim_for_other(connection, run_id)
    succeed(connection, job.claim)


def test_a_name_under_which_the_twins_result_is_shown_gets_nothing_new(connection: Connection, run_id: int) -> None:
    done_for_other(connection, run_id, "a.png")
    enqueue(connection, run_id, scan("a.png", 1, mtime=2))
    assert [] == claim_for_other(connection, run_id)
    assert ("a.png", 1, "duplicate", "none") == deliveries_of(connection)[1]


def test_a_name_that_shows_the_old_models_result_gets_the_twins(connection: Connection, run_id: int) -> None:
    """Somebody asked for it again: what the old model made does not stay there."""
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id))
    done_for_other(connection, run_id, "a.png", mtime=2)
    queue.ask_again(connection, [1], now=NOW)
    assert [] == claim_for_other(connection, run_id)
    assert ("a.png", 2, "duplicate", "due") == deliveries_of(connection)[0]


def test_a_name_that_was_dropped_twice_gets_the_twins_result_once(connection: Connection, run_id: int) -> None:
    done_for_other(connection, run_id, "twin.png")
    enqueue(connection, run_id, scan("a.png", 1), scan("a.png", 1, mtime=2))
    assert [] == claim_for_other(connection, run_id)
    assert ["due", "none"] == [delivery for *_, delivery in deliveries_of(connection)[1:]]
