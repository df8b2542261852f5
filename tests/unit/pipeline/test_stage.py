"""Failures are recorded: tried again at a time that `feed` is told, or given up."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.runs import a_run
from watcherd.errors import InputError, JobError, StaleJobError, TransientError
from watcherd.flights import Failed, Flights
from watcherd.inference.messages import Segmented
from watcherd.job import Options
from watcherd.pipeline.belts import Belts
from watcherd.pipeline.landing import Landing
from watcherd.pipeline.stage import RENDERS_TRIED, Stage


class Books:
    """A database that takes what it is given, or says that the job has moved."""

    def __init__(self, *, stale: bool = False) -> None:
        self.stale = stale
        self.written = 0

    def write(self, _work: object) -> None:
        self.written += 1
        if self.stale:
            raise StaleJobError("it is another's by now")


class Line:
    """A stage whose neighbours note what it asks of them."""

    def __init__(self, *, stale: bool = False) -> None:
        self.books, self.flights, self.belts = Books(stale=stale), Flights(), Belts(bell=threading.Event())
        self.drawn: list[Any] = []
        self.discarded: list[Any] = []
        run = a_run(database=self.books)
        promises = SimpleNamespace(discard=self.discarded.append, check_outbox=lambda: None)
        draw = SimpleNamespace(render=lambda flight, _: self.drawn.append(flight))
        landing = Landing(run, self.flights, self.belts)
        self.stage = Stage(run, cast("Any", promises), cast("Any", None), cast("Any", draw), landing, self.belts)

    def fail(self, error: JobError, *, answer: Any = None, drawn: bool = False) -> None:
        job = SimpleNamespace(id=7, tries=1, crashes_alone=0, solo=False, source="a.png", options=Options())
        [flight] = self.flights.begin([cast("Any", job)])
        flight.answer = answer
        self.stage._fail(Failed(flight, error, drawn=drawn))


def segmented() -> Segmented:
    return cast("Segmented", Segmented.__new__(Segmented))


def test_a_job_that_is_tried_again_is_due_later_and_feed_is_told() -> None:
    line = Line()
    line.fail(TransientError("no memory"))
    assert 0 < line.belts.due.seconds < float("inf")
    assert line.belts.bell.is_set()
    assert (0, 1) == (line.flights.count, line.books.written)


def test_a_job_that_is_given_up_is_not_due_again() -> None:
    line = Line()
    line.fail(InputError("no picture"))
    assert float("inf") == line.belts.due.seconds
    assert 0 == line.flights.count
    assert not line.belts.landed.empty()


def test_a_job_that_moved_meanwhile_lands_all_the_same() -> None:
    line = Line(stale=True)
    line.fail(InputError("no picture"))
    assert 0 == line.flights.count


@pytest.mark.parametrize("drawn", [False, True])
def test_what_could_not_be_drawn_is_drawn_again_a_few_times(drawn: bool) -> None:
    """But not what was drawn, and could not be promised."""
    line = Line()
    line.fail(TransientError("no space left"), answer=segmented(), drawn=drawn)
    assert (0 if drawn else 1) == len(line.drawn) == line.flights.count
    for flight in line.drawn[:1]:
        for _ in range(RENDERS_TRIED):
            line.stage._fail(Failed(flight, TransientError("no space left")))
        assert RENDERS_TRIED == len(line.drawn)
    assert 1 == len(line.discarded)
    assert 0 == line.flights.count
