"""Nothing that the daemon or the status asks reads a whole table: a million jobs in history slow nothing down."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.integration.store.helpers import (
    IN_USE,
    NOW,
    claim_one,
    enqueue,
    failure,
    intents,
    later,
    later_decision,
    scan,
    start_run,
    succeed,
)
from watcherd.job import ErrorClass, Options, State
from watcherd.store import Filter, arrivals, deliveries, history, leftovers, overview, queue
from watcherd.store.connections import driver_of
from watcherd.store.frame_runs import Hold

if TYPE_CHECKING:
    from sqlalchemy import Connection

GROWING = "job|arrival|attempt|attempt_device|output|event|scan|o|d|earlier"
"""Tables, and the names they have in statements, with rows for every job."""

SHORT = {
    "job_claim",
    "job_of_model",
    "job_waiting_since",
    "arrival_to_deliver",
    "arrival_to_dispose",
    "arrival_unsettled",
}
"""Partial indexes on what is unfinished: reading one from end to end is no harm."""

ORDERED = {"job_failed", "arrival_unsettled"}
"""Read from the end, up to a LIMIT."""


def live(connection: Connection) -> None:
    """Everything that the daemon does with the store while it runs."""
    run_id = start_run(connection)
    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 2), scan("c.png", 1))
    arrivals.settling(connection, [(scan("d.png").signature, "changing")], run_id=run_id, now=NOW)
    arrivals.known(connection, [scan("a.png", 1).signature])
    succeed(connection, claim_one(connection, run_id), "a")
    taken = claim_one(connection, run_id)
    queue.retry_later(connection, taken, failure(ErrorClass.TRANSIENT), later_decision(0), now=NOW)
    queue.release(connection, [claim_one(connection, run_id)], now=NOW)
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=NOW)
    for arrival in deliveries.arrivals_to_deliver(connection, 9):
        deliveries.begin_redelivery(connection, arrival.id, intents(str(arrival.id)))
        deliveries.outputs_of(connection, arrival.id)
        deliveries.outdated_outputs(connection, arrival.id)
        deliveries.finish_redelivery(connection, [arrival.id], now=NOW)
    deliveries.arrivals_promised(connection)
    deliveries.owners(connection, [b"mask/a"])
    due = deliveries.arrivals_to_dispose(connection, 9)
    arrivals.record_disposal(connection, [(arrival.id, "kept", None) for arrival in due], now=NOW)
    arrivals.vanished(connection, [b"a.png"], now=NOW)
    queue.ask_again(connection, [1], now=NOW)
    queue.prioritise(connection, [1], 3, now=NOW)
    queue.cancel(connection, [1], now=NOW)
    queue.delivering_jobs(connection)
    leftovers.needed_copies(connection)
    frame = scan("e_frame_1.png", options=Options(group_frames=True, frame="e_frame_1.png"))
    enqueue(connection, run_id, replace(frame, not_before=later(seconds=1)))
    queue.next_due(connection, now=NOW)
    queue.claim(
        connection,
        run_id=run_id,
        limit=8,
        now=later(seconds=1),
        in_use=IN_USE,
        hold=Hold(expected=lambda _before: True),
    )
    queue.requeue_interrupted(connection, run_id=start_run(connection), now=NOW)


def look(connection: Connection) -> None:
    """Everything that status, jobs and show read."""
    history.counts(connection)
    history.fates(connection)
    history.oldest_queued(connection)
    history.active(connection)
    history.rate(connection, minutes=15, now=NOW)
    history.failures(connection)
    history.failures_by_class(connection, since=NOW)
    history.job(connection, 1)
    history.events(connection, 1)
    history.attempts(connection, 1)
    history.arrivals(connection, 1)
    history.unfinished_arrivals(connection)
    history.open_arrivals(connection)
    history.jobs(connection, Filter(states=[State.FAILED]))
    history.jobs(connection, Filter(sort="finished"))
    overview.queue(connection, now=NOW)
    overview.next_jobs(connection, 50)
    overview.active_jobs(connection)
    overview.recent_jobs(connection, 100)
    overview.today(connection)
    overview.last_event_at(connection)
    overview.options(connection, 1)
    overview.jobs_of_name(connection, "a.png")
    overview.last_arrival_id(connection)
    overview.waited_for(connection, ["a.png"], after=0)
    overview.results_of(connection, 1)
    overview.runs_of_job(connection, 1)
    history.jobs(connection, Filter(sha256="0"))
    history.jobs(connection, Filter(since=later(days=-1), sort="inference_ms"))


def whole_tables(connection: Connection, statements: set[str]) -> list[tuple[str, str]]:
    """Steps of the statements' plans that read all of a growing table, each with its statement."""
    found = []
    for statement in statements:
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}"):
            step = re.fullmatch(rf"SCAN ({GROWING})(?: USING (?:COVERING )?INDEX (\w+))?", row.detail)
            if step and step[2] not in SHORT | ORDERED:
                found.append((row.detail, statement))
    return found


def test_no_statement_of_the_daemon_reads_a_whole_table(connection: Connection) -> None:
    statements: set[str] = set()
    driver_of(connection).set_trace_callback(statements.add)
    live(connection)
    look(connection)
    driver_of(connection).set_trace_callback(None)
    # A plan for an INSERT also has the checks of deferred references, of which there are none.
    plain = {text for text in statements if re.match(r"\s*(SELECT|UPDATE|DELETE)", text)}
    assert len(plain) > 40
    assert whole_tables(connection, plain) == []


def test_a_plan_that_reads_a_whole_table_would_be_seen(connection: Connection) -> None:
    statement = "SELECT count(*) FROM job WHERE error = 'x'"
    assert whole_tables(connection, {statement}) == [("SCAN job", statement)]
