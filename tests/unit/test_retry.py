"""What becomes of a job after a failed attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from watcherd.job import ErrorClass, State, may_become
from watcherd.retry import DELAYS, JITTER, after_daemon_death, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def after(error_class, *, attempts=1, crashes_alone=0, solo=False, chance=0.5):
    return decide(
        error_class, attempts=attempts, crashes_alone=crashes_alone, solo=solo, now=NOW, random=lambda: chance
    )


@pytest.mark.parametrize("error_class", [ErrorClass.INPUT, ErrorClass.NO_MASK])
def test_a_bad_file_and_an_answer_without_a_mask_fail_at_once(error_class):
    assert (after(error_class).state, after(error_class).not_before) == (State.FAILED, None)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 30), (2, 120), (3, 600)])
def test_what_may_pass_is_tried_again_later_and_later(attempts, seconds):
    decision = after(ErrorClass.TRANSIENT, attempts=attempts)
    assert (State.QUEUED, NOW + timedelta(seconds=seconds)) == (decision.state, decision.not_before)


def test_after_the_fourth_attempt_it_fails():
    assert after(ErrorClass.TRANSIENT, attempts=4).state == State.FAILED


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_waits_differ_by_chance_within_bounds(chance, factor):
    assert NOW + DELAYS[0] * factor == after(ErrorClass.TRANSIENT, chance=chance).not_before


def test_out_of_memory_is_tried_alone_at_once_and_then_as_what_may_pass():
    first = after(ErrorClass.MEMORY)
    assert (first.state, first.not_before, first.solo) == (State.QUEUED, NOW, True)
    second = after(ErrorClass.MEMORY, attempts=2, solo=True)
    assert (State.QUEUED, NOW + DELAYS[1], True) == (second.state, second.not_before, second.solo)
    assert after(ErrorClass.MEMORY, attempts=4, solo=True).state == State.FAILED


def test_a_batch_whose_worker_died_blames_nobody_and_each_runs_alone_next():
    decision = after(ErrorClass.CRASH)
    assert (decision.state, decision.not_before, decision.solo) == (State.QUEUED, NOW, True)
    assert (decision.crashes_alone, decision.counted) == (0, False)


def test_a_job_that_kills_its_worker_twice_alone_is_quarantined():
    first = after(ErrorClass.CRASH, solo=True)
    assert (first.state, first.crashes_alone, first.counted) == (State.QUEUED, 1, True)
    assert first.not_before > NOW
    assert after(ErrorClass.CRASH, solo=True, crashes_alone=1).state == State.QUARANTINED


def test_a_daemon_that_dies_queues_its_jobs_at_once_but_not_for_ever():
    first = after_daemon_death(interruptions=1, crashes_alone=0, solo=False, now=NOW)
    assert (first.state, first.not_before, first.solo) == (State.QUEUED, NOW, False)
    assert after_daemon_death(interruptions=3, crashes_alone=0, solo=False, now=NOW).solo
    assert after_daemon_death(interruptions=6, crashes_alone=0, solo=True, now=NOW).state == State.QUARANTINED


@pytest.mark.parametrize("error_class", list(ErrorClass))
@pytest.mark.parametrize("solo", [False, True])
def test_every_decision_is_a_move_that_a_running_job_may_make_and_they_end(error_class, solo):
    attempts, crashes = 1, 0
    for _ in range(10):
        decision = after(error_class, attempts=attempts, crashes_alone=crashes, solo=solo)
        assert may_become(State.RUNNING, decision.state)
        if decision.state is not State.QUEUED:
            return
        attempts, crashes, solo = attempts + decision.counted, decision.crashes_alone, decision.solo
    pytest.fail("tried for ever")
