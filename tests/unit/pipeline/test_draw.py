"""What becomes of the replicas' answers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.pipeline.test_stations import job, pipeline
from watcherd.errors import InputError, JobError, NoMaskError
from watcherd.flights import Failed, ReplicaRecord
from watcherd.inference.messages import NotSegmented
from watcherd.job import ErrorClass, Options
from watcherd.pipeline.draw import _error_of
from watcherd.pipeline.stations import Pipeline
from watcherd.store import ModelIdentity

MODEL = ModelIdentity(segmenter="fake", model="fake", revision="1", dtype="float32")


def line() -> Pipeline:
    found = pipeline(imaging=SimpleNamespace(together=nullcontext))
    found.replica_ready(0, ReplicaRecord(id=3, model=MODEL))
    return found


def refused(job_id: int) -> NotSegmented:
    return NotSegmented(job_id=job_id, error_class=ErrorClass.INPUT, error="too dark", hint="Use light.")


@pytest.mark.parametrize("kind", JobError.__subclasses__())
def test_a_replicas_words_become_the_error_that_they_were(kind: type[JobError]) -> None:
    outcome = NotSegmented(job_id=1, error_class=kind.error_class, error="it failed", hint="Try.", answer="No.")
    error = _error_of(outcome)
    assert error.error_class is kind.error_class
    assert (error.message, error.hint) == ("it failed", "Try.")
    assert (error.answer if isinstance(error, NoMaskError) else "No.") == "No."


def test_a_failure_goes_to_the_next_station_with_the_replica_that_failed() -> None:
    stations = line()
    [flight] = stations._flights.begin([cast("Any", SimpleNamespace(id=1, solo=True, options=Options()))])
    stations.scans_answered(0, [refused(1)])
    failed = stations._belts.results.get(timeout=1)
    assert isinstance(failed, Failed)
    assert (flight, True) == (failed.flight, failed.alone)
    assert isinstance(failed.error, InputError)
    assert flight.replica is not None
    assert MODEL == flight.replica.model


def test_an_answer_for_a_job_that_is_not_under_way_any_more_is_dropped() -> None:
    stations = line()
    stations._flights.begin([job(2)])
    stations.scans_answered(0, [refused(1)])
    assert stations._belts.results.empty()
