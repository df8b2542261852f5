"""Any order of drops, claims, results, failures, crashes and commands leaves the real queue as a simple model says.

The model knows for each job its state and which claim may move it. Every claim ever made is kept and tried again, so
that an outdated one that moves something is found.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.store.helpers import IN_USE, MODEL, NOW, enqueue, failure, intents, scan, staged, start_run
from watcherd.errors import StaleJobError
from watcherd.job import FINISHED, ErrorClass, Options, State, may_become
from watcherd.retry import INTERRUPTIONS, decide
from watcherd.store import Claim, ForModel, InUse, arrivals, connections, deliveries, history, queue
from watcherd.store.arrivals import MAY_PASS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from watcherd.store import Enqueued

SECOND = Options(model="second")
IN_USE_BY = {
    "default": IN_USE,
    "second": InUse(name="second", identity=MODEL, options=lambda _path, _overrides: SECOND),
}

QUICK = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(QUICK, max_examples=300, phases=[Phase.generate], report_multiple_bugs=False)
"""For planted faults: that one is found is enough, its smallest example is not asked for."""


class Queue(RuleBasedStateMachine):
    """The real queue in a real file beside the model."""

    template: Path
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = Path(shutil.copy(self.template, self.folder / "watcherd.db"))
        self.connection = connections.writer(self.path).connect()
        connections.driver_of(self.connection).execute("PRAGMA synchronous = OFF")  # no power cuts here
        self.now = NOW
        self.run_id = self.do(start_run)
        self.states: dict[int, State] = {}
        self.holder: dict[int, Claim] = {}
        self.made: list[Claim] = []
        self.error: dict[int, ErrorClass] = {}
        self.interruptions: dict[int, int] = {}
        self.files: dict[str, tuple[int, int]] = {}
        self.lying: set[str] = set()
        self.dropped = 0

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)

    def do(self, work: Callable[[Connection], Any]) -> Any:
        with self.connection.begin():
            return work(self.connection)

    def move(self, claim: Claim, needed: State, new: State, work: Callable[[Connection], None]) -> None:
        """Try a move; the model says whether the claim is good for it."""
        job = claim.job_id
        if self.states[job] is needed and self.holder.get(job) == claim:
            self.do(work)
            assert may_become(needed, new)
            self.states[job] = new
            if new is not State.DELIVERING:
                self.holder.pop(job)
        else:
            with pytest.raises(StaleJobError):
                self.do(work)

    @rule(content=st.integers(0, 3), name=st.sampled_from("abcd"), several=st.booleans())
    def drop(self, content: int, name: str, several: bool) -> None:
        """A file for one model, or for two."""
        mtime = self.files.get(name, (0, 0))[1] + 1
        self.files[name] = (content, mtime)
        self.lying.add(name)
        beside = (ForModel(options=SECOND),) if several else ()
        new = replace(scan(name, content, mtime=mtime), beside=beside)
        (item,) = self.do(lambda c: enqueue(c, self.run_id, new, now=self.now))
        assert len(item.beside) == several
        self.take(item)
        for other in item.beside:
            assert other.job_id != item.job_id
            self.take(other)

    def take(self, item: Enqueued) -> None:
        self.dropped += 1
        job = item.job_id
        assert item.duplicate is (job in self.states)
        again = self.states.get(job) is State.CANCELLED or (
            self.states.get(job) is State.FAILED and self.error[job] in MAY_PASS
        )
        assert item.asked_again is again
        if again or job not in self.states:
            self.states[job] = State.QUEUED
            self.interruptions[job] = 0

    @precondition(lambda self: self.lying)
    @rule(data=st.data())
    def take_a_file_twice(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lying)))
        content, mtime = self.files[name]
        (item,) = self.do(lambda c: enqueue(c, self.run_id, scan(name, content, mtime=mtime), now=self.now))
        assert item.known

    @rule(target=claims, limit=st.integers(1, 4), model=st.sampled_from(sorted(IN_USE_BY)))
    def claim(self, limit: int, model: str) -> Any:
        in_use = IN_USE_BY[model]
        jobs = self.do(lambda c: queue.claim(c, run_id=self.run_id, limit=limit, now=self.now, in_use=in_use))
        assert len(jobs) <= limit
        assert {(job.options.model, job.beside) for job in jobs} <= {(model, ""), (model, "second")}
        assert len(jobs) == 1 or not any(job.solo for job in jobs)
        for job in jobs:
            assert self.states[job.id] is State.QUEUED
            self.states[job.id] = State.RUNNING
            self.holder[job.id] = job.claim
            self.made.append(job.claim)
        return multiple(*(job.claim for job in jobs))

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        self.move(claim, State.RUNNING, State.QUEUED, lambda c: queue.release(c, [claim], now=self.now))

    @precondition(lambda self: self.outdated())
    @rule()
    def every_outdated_claim_is_tried(self) -> None:
        for claim in self.outdated():
            with pytest.raises(StaleJobError):
                self.do(lambda c, claim=claim: queue.release(c, [claim], now=self.now))

    def outdated(self) -> list[Claim]:
        """Claims that are not good any more on jobs that somebody else works on."""
        return [claim for claim in self.made if self.holder.get(claim.job_id, claim) != claim]

    @rule(claim=claims, error_class=st.sampled_from(ErrorClass), tries=st.integers(1, 5), crashes=st.integers(0, 1))
    def attempt_fails(self, claim: Claim, error_class: ErrorClass, tries: int, crashes: int) -> None:
        decision = decide(
            error_class, attempts=tries, crashes_alone=crashes, solo=crashes > 0, now=self.now, random=lambda: 0.5
        )
        why = failure(error_class)

        def work(connection: Connection) -> None:
            if decision.state is State.QUEUED:
                queue.retry_later(connection, claim, why, decision, now=self.now)
            else:
                queue.give_up(connection, claim, why, decision, now=self.now)

        if self.holder.get(claim.job_id) == claim:
            self.error[claim.job_id] = error_class
        self.move(claim, State.RUNNING, decision.state, work)

    @rule(claim=claims)
    def stage(self, claim: Claim) -> None:
        results = staged(claim, f"job-{claim.job_id}")
        self.move(claim, State.RUNNING, State.DELIVERING, lambda c: queue.begin_delivery(c, [results], now=self.now))

    @rule(claim=claims)
    def finish(self, claim: Claim) -> None:
        self.move(claim, State.DELIVERING, State.SUCCEEDED, lambda c: queue.finish_delivery(c, [claim], now=self.now))

    @rule()
    def crash_and_start_again(self) -> None:
        self.run_id = self.do(lambda c: start_run(c, self.now))
        self.do(lambda c: queue.requeue_interrupted(c, run_id=self.run_id, now=self.now))
        for job in [job for job, state in self.states.items() if state is State.RUNNING]:
            self.holder.pop(job)
            self.interruptions[job] += 1
            over = self.interruptions[job] >= 2 * INTERRUPTIONS
            self.states[job] = State.QUARANTINED if over else State.QUEUED
        for claim, promised in self.do(queue.delivering_jobs):
            assert promised
            self.do(lambda c, claim=claim: queue.finish_delivery(c, [claim], now=self.now))
            self.states[claim.job_id] = State.SUCCEEDED
            self.holder.pop(claim.job_id)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.states)))
        asked = self.do(lambda c: queue.ask_again(c, [job], now=self.now))
        assert asked == ([job] if self.states[job] in FINISHED else [])
        if asked:
            self.states[job] = State.QUEUED
            self.interruptions[job] = 0

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.states)))
        cancelled = self.do(lambda c: queue.cancel(c, [job], now=self.now))
        assert cancelled == ([job] if self.states[job] is State.QUEUED else [])
        if cancelled:
            self.states[job] = State.CANCELLED

    @rule()
    def deliver_and_dispose(self) -> None:
        """What the pipeline does for names that wait: a crash may come between any two of these."""
        for arrival in self.do(lambda c: deliveries.arrivals_to_deliver(c, 2)):
            name = f"arrival-{arrival.id}"
            self.do(lambda c, arrival=arrival, name=name: deliveries.begin_redelivery(c, arrival.id, intents(name)))
        for arrival in self.do(deliveries.arrivals_promised)[:1]:
            self.do(lambda c, arrival=arrival: deliveries.finish_redelivery(c, [arrival.id], now=self.now))
        for arrival in self.do(lambda c: deliveries.arrivals_to_dispose(c, 2)):
            of_file = self.of_file(arrival.id)
            assert set(of_file) <= FINISHED
            assert (arrival.state is State.SUCCEEDED) == (set(of_file) == {State.SUCCEEDED})
            self.do(
                lambda c, arrival=arrival: arrivals.record_disposal(c, [(arrival.id, "archived", b"x")], now=self.now)
            )
            if self.files.get(arrival.source, (0, 0))[1] == arrival.signature.mtime_ns:
                self.lying.discard(arrival.source)

    def of_file(self, arrival_id: int) -> list[State]:
        """The states of the jobs of all models of a file."""
        with self.connection.begin():
            rows = self.rows(f"SELECT job_id FROM arrival WHERE {arrival_id} IN (id, file_of)")  # noqa: S608 - a number
        return [self.states[row.job_id] for row in rows]

    @rule(seconds=st.sampled_from([1, 40, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def everything_agrees(self) -> None:
        with self.connection.begin():
            self.states_are_the_models()
            self.the_events_tell_the_same_story()
            self.every_arrival_has_one_fate()
            self.nothing_is_visible_or_disposed_of_too_early()

    def rows(self, sql: str) -> Any:
        return self.connection.exec_driver_sql(sql).fetchall()

    def states_are_the_models(self) -> None:
        rows = self.rows("SELECT id, state, run_id FROM job")
        assert {row.id: State(row.state) for row in rows} == self.states
        assert all(row.run_id == self.run_id for row in rows if row.state == State.RUNNING)

    def the_events_tell_the_same_story(self) -> None:
        told: dict[int, State | None] = {}
        for row in self.rows("SELECT job_id, from_state, to_state FROM event WHERE to_state IS NOT NULL ORDER BY id"):
            assert told.get(row.job_id) == row.from_state
            told[row.job_id] = State(row.to_state)
        assert told == self.states

    def every_arrival_has_one_fate(self) -> None:
        fates = history.fates(self.connection)
        assert sum(fates.values()) == self.dropped
        for state in State:
            assert fates[state] == list(self.states.values()).count(state)

    def nothing_is_visible_or_disposed_of_too_early(self) -> None:
        for row in self.rows("SELECT job_id, delivery FROM arrival"):
            assert (row.delivery == "waiting") == (self.states[row.job_id] not in FINISHED)
        wrong = self.rows(
            "SELECT id FROM arrival AS file WHERE awaited <> (SELECT count(*) FROM arrival WHERE file_of = file.id "
            "AND delivery IN ('waiting', 'due', 'intended'))"
        )
        assert not wrong
        assert not self.rows("SELECT id FROM arrival WHERE file_of NOT NULL AND (present OR disposal NOT NULL)")


@pytest.fixture(autouse=True)
def _template(template: Path) -> None:
    Queue.template = template


def test_the_queue_does_what_the_model_says() -> None:
    run_state_machine_as_test(Queue, settings=QUICK)


def without(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Take a condition out of every statement that moves a claimed job."""
    for name in ("RELEASE", "RETRY", "GIVE_UP", "STAGE", "SUCCEED"):
        statement = getattr(queue, name)
        assert part in statement
        monkeypatch.setattr(queue, name, statement.replace(part, ""))


@pytest.mark.parametrize(
    "part", [" AND attempt_id = :attempt_id", " AND run_id = :run_id AND attempt_id = :attempt_id"]
)
def test_the_machine_finds_a_queue_without_the_check_of_the_attempt(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A planted fault: an outdated claim moves a job that somebody else holds."""
    without(monkeypatch, part)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        run_state_machine_as_test(Queue, settings=HUNT)


def test_the_machine_finds_a_recovery_that_forgets_running_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "requeue_interrupted", lambda *_, **__: [])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Queue, settings=HUNT)
