"""Jobs move as the table of transitions says, each move by whoever holds the claim, each with an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.integration.store.helpers import (
    NOW,
    claim,
    claim_one,
    enqueue,
    failure,
    intents,
    later,
    later_decision,
    scan,
    staged,
    start_run,
    succeed,
)
from watcherd.errors import StaleJobError
from watcherd.job import ErrorClass, State
from watcherd.retry import INTERRUPTIONS, Decision
from watcherd.store import deliveries, history, queue

if TYPE_CHECKING:
    from sqlalchemy import Connection


def state(connection: Connection, job_id: int = 1) -> str:
    return str(connection.exec_driver_sql("SELECT state FROM job WHERE id = ?", (job_id,)).scalar_one())


def field(connection: Connection, column: str, job_id: int = 1) -> object:
    return connection.exec_driver_sql(f"SELECT {column} FROM job WHERE id = ?", (job_id,)).scalar_one()  # noqa: S608


def kinds(connection: Connection, job_id: int = 1) -> list[str]:
    return [event["kind"] for event in history.events(connection, job_id)]


def test_a_scan_that_succeeds_leaves_its_whole_story(connection: Connection, run_id: int) -> None:
    """Every transition is an event, and the record holds what was measured."""
    enqueue(connection, run_id, scan("a.png", 10))
    succeed(connection, claim_one(connection, run_id, now=later(seconds=2)), now=later(seconds=3))
    record = history.job(connection, 1)
    assert record is not None
    assert kinds(connection) == ["ingested", "claimed", "staged", "delivered"]
    assert (record["state"], record["attempts"], record["queue_ms"]) == ("succeeded", 1, 2000)
    assert (record["width"], record["height"], record["frames"], record["format"]) == (640, 480, 1, "PNG")
    assert [device["vram_peak_allocated_mib"] for device in record["devices"]] == [800.5, 400.0]
    assert [output["kind"] for output in record["outputs"]] == ["mask", "result"]
    assert record["finished_at"] == "2026-01-02T03:04:08.678Z"


def test_claims_are_taken_by_priority_and_then_by_age(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, *(scan(f"{number}.png") for number in range(4)))
    assert queue.prioritise(connection, [3], 5, now=NOW) == [3]
    assert [job.id for job in claim(connection, run_id, limit=3)] == [3, 1, 2]
    assert kinds(connection, 3)[:2] == ["ingested", "prioritised"]


def test_a_job_is_claimed_once(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    assert len(claim(connection, run_id, limit=8)) == 1
    assert claim(connection, run_id, limit=8) == []


def test_a_job_is_not_claimed_before_its_time(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    taken = claim_one(connection, run_id)
    queue.retry_later(connection, taken, failure(ErrorClass.TRANSIENT), later_decision(30), now=NOW)
    assert claim(connection, run_id, now=later(seconds=29)) == []
    (job,) = claim(connection, run_id, now=later(seconds=30))
    assert (job.attempt, job.tries, job.queue_ms) == (2, 2, 0)


def test_a_job_that_must_run_alone_is_claimed_alone(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"), scan("b.png"), scan("c.png"))
    taken = claim_one(connection, run_id)
    queue.retry_later(connection, taken, failure(ErrorClass.CRASH), later_decision(0, solo=True), now=NOW)
    assert [job.id for job in claim(connection, run_id, limit=3)] == [1]
    assert [job.id for job in claim(connection, run_id, limit=3)] == [2, 3]


def test_a_job_that_must_run_alone_does_not_join_others(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"), scan("b.png"), scan("c.png"))
    first, second = claim(connection, run_id, limit=2)
    queue.release(connection, [first.claim], now=NOW)
    queue.retry_later(connection, second.claim, failure(ErrorClass.CRASH), later_decision(0, solo=True), now=NOW)
    assert [job.id for job in claim(connection, run_id, limit=3)] == [1, 3]


def test_a_planned_stop_does_not_count_as_an_attempt(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    queue.release(connection, [claim_one(connection, run_id)], now=NOW)
    assert (state(connection), field(connection, "attempts")) == ("queued", 0)
    assert [attempt["outcome"] for attempt in history.attempts(connection, 1)] == ["released"]


def test_a_crash_in_a_batch_counts_against_nobody(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    decision = later_decision(0, solo=True, counted=False)
    queue.retry_later(connection, claim_one(connection, run_id), failure(ErrorClass.CRASH), decision, now=NOW)
    assert (field(connection, "attempts"), field(connection, "solo")) == (0, 1)


def test_an_outdated_claim_moves_nothing(connection: Connection, run_id: int) -> None:
    """Neither after a release and a new claim by the same run, where state, run and number of attempts are equal."""
    enqueue(connection, run_id, scan("a.png"))
    old = claim_one(connection, run_id)
    queue.release(connection, [old], now=NOW)
    new = claim_one(connection, run_id)
    moves = (
        lambda: queue.release(connection, [old], now=NOW),
        lambda: queue.retry_later(connection, old, failure(), later_decision(), now=NOW),
        lambda: queue.give_up(connection, old, failure(), now=NOW),
        lambda: queue.begin_delivery(connection, [staged(old)], now=NOW),
        lambda: queue.finish_delivery(connection, [old], now=NOW),
    )
    for move in moves:
        with pytest.raises(StaleJobError, match="job 1 is running"):
            move()
    assert state(connection) == "running"
    succeed(connection, new)


def test_a_claim_of_another_run_moves_nothing(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    taken = claim_one(connection, run_id)
    with pytest.raises(StaleJobError):
        queue.release(connection, [taken._replace(run_id=run_id + 1)], now=NOW)


def test_a_failure_keeps_its_reason_and_is_final(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=NOW)
    (found,) = history.failures(connection)
    assert (found["error_class"], found["error"], found["advice"]) == ("input", "it is no picture", "look at the file")
    assert claim(connection, run_id, now=later(days=9)) == []


def test_a_quarantined_job_keeps_its_count_of_crashes(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    decision = Decision(state=State.QUARANTINED, why="killed its worker 2 times", solo=True, crashes_alone=2)
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.CRASH), decision, now=NOW)
    assert (state(connection), field(connection, "crashes_alone")) == ("quarantined", 2)
    assert history.events(connection, 1)[-1]["detail"]["reason"] == "killed its worker 2 times"


def test_after_a_crash_nothing_stays_running(connection: Connection, run_id: int) -> None:
    """At the next start, at once, and with the attempt counted."""
    enqueue(connection, run_id, scan("a.png"), scan("b.png"))
    taken = claim_one(connection, run_id)
    new_run = start_run(connection)
    assert queue.requeue_interrupted(connection, run_id=new_run, now=NOW) == [1]
    assert (state(connection), field(connection, "attempts"), field(connection, "interruptions")) == ("queued", 1, 1)
    assert [attempt["outcome"] for attempt in history.attempts(connection, 1)] == ["interrupted"]
    assert [run["end_reason"] for run in history.runs(connection)] == [None, "crashed"]
    with pytest.raises(StaleJobError):
        queue.release(connection, [taken], now=NOW)


def test_a_job_that_takes_the_daemon_down_runs_alone_and_is_quarantined_in_the_end(
    connection: Connection, run_id: int
) -> None:
    enqueue(connection, run_id, scan("a.png"))
    alone = []
    for _ in range(2 * INTERRUPTIONS):
        claim_one(connection, run_id)
        run_id = start_run(connection)
        queue.requeue_interrupted(connection, run_id=run_id, now=NOW)
        alone.append(field(connection, "solo"))
    assert alone == [0, 0, 1, 1, 1, 1]
    assert state(connection) == "quarantined"
    assert [arrival.state for arrival in deliveries.arrivals_to_deliver(connection, 9)] == [State.QUARANTINED]


def test_what_this_run_claimed_is_left_alone_by_recovery(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    claim_one(connection, run_id)
    assert queue.requeue_interrupted(connection, run_id=run_id, now=NOW) == []


def test_a_delivery_that_was_cut_short_is_finished_by_the_next_run(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    queue.begin_delivery(connection, [staged(claim_one(connection, run_id), "a")], now=NOW)
    new_run = start_run(connection)
    assert queue.requeue_interrupted(connection, run_id=new_run, now=NOW) == []
    ((taken, promised),) = queue.delivering_jobs(connection)
    assert promised == intents("a")
    queue.finish_delivery(connection, [taken], now=NOW)
    assert state(connection) == "succeeded"


def test_asking_again_gives_a_job_all_its_tries(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.TRANSIENT), now=NOW)
    assert queue.ask_again(connection, [1, 99], now=NOW) == [1]
    (job,) = claim(connection, run_id)
    assert (job.attempt, job.tries) == (2, 1)
    assert field(connection, "error") is None
    assert queue.ask_again(connection, [1], now=NOW) == []


def test_only_waiting_jobs_are_cancelled(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"), scan("b.png"))
    claim_one(connection, run_id)
    assert queue.cancel(connection, [1, 2, 3], now=NOW) == [2]
    assert state(connection, 2) == "cancelled"
    assert kinds(connection, 2) == ["ingested", "cancelled"]


@pytest.mark.parametrize("old", State)
def test_the_database_refuses_every_move_that_the_table_does_not_have(
    connection: Connection, run_id: int, old: State
) -> None:
    """Whoever makes it: also a person with the shell."""
    from watcherd.job import FINISHED, TRANSITIONS

    finished = {True: "'2026-01-02T03:04:05.678Z'", False: "NULL"}
    enqueue(connection, run_id, scan("a.png"))
    for new in set(State) - set(TRANSITIONS[old]) - {old}:
        with connection.begin_nested() as nested:
            connection.exec_driver_sql("DROP TRIGGER job_moves_as_allowed")
            sql = "UPDATE job SET state = '{}', finished_at = {}, error = 'x', run_id = 1, attempt_id = 1"
            connection.exec_driver_sql(sql.format(old, finished[old in FINISHED]))
            from watcherd.store.rules import TRIGGERS

            connection.exec_driver_sql(TRIGGERS["job_moves_as_allowed"])
            with pytest.raises(sa.exc.IntegrityError, match="a job cannot move like this"):
                connection.exec_driver_sql(sql.format(new, finished[new in FINISHED]))
            nested.rollback()


def test_events_are_never_changed(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    with pytest.raises(sa.exc.IntegrityError, match="never changed"):
        connection.exec_driver_sql("UPDATE event SET kind = 'x'")


def test_hours_and_cards_add_up_what_was_done(connection: Connection, run_id: int) -> None:
    """Every job carries its share of the inference time, so shares add up."""
    enqueue(connection, run_id, scan("a.png"), scan("b.png"), scan("c.png"))
    first, second, third = (job.claim for job in claim(connection, run_id, limit=3))
    succeed(connection, first)
    succeed(connection, second)
    queue.give_up(connection, third, failure(), now=NOW)
    assert connection.exec_driver_sql("SELECT hour, succeeded, failed, inference_ms FROM hour").fetchall() == [
        ("2026-01-02T03", 2, 1, 80)
    ]
    assert connection.exec_driver_sql(
        "SELECT device, attempts, busy_ms, vram_peak_allocated_mib FROM cards ORDER BY device"
    ).fetchall() == [("cuda:0", 2, 80, 800.5), ("cuda:1", 2, 80, 400.0)]
