"""How jobs leave the pipeline without a result."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.runs import a_run
from watcherd.errors import StaleJobError
from watcherd.flights import Flights
from watcherd.job import Options
from watcherd.pauses import StoppedError
from watcherd.pipeline.belts import Belts
from watcherd.pipeline.landing import Landing


class Books:
    """A database in which some writes fail."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    def write(self, _work: object) -> None:
        if (error := self.answers.pop(0)) is not None:
            raise error


def landing(*answers: Exception | None) -> tuple[Landing, Flights, Belts]:
    flights, belts = Flights(), Belts(bell=threading.Event())
    flights.begin([cast("Any", SimpleNamespace(id=number, claim=None, options=Options())) for number in range(3)])
    return Landing(a_run(database=Books(*answers)), flights, belts), flights, belts


@pytest.mark.parametrize("error", [None, StaleJobError("it is being delivered")])
def test_what_is_released_is_under_way_no_more_and_the_queue_is_looked_at(error: Exception | None) -> None:
    """Nor is what is being delivered: the next start finishes that."""
    ground, flights, belts = landing(None, error, None)
    ground.release(flights.all())
    assert 0 == flights.count
    assert 3 == belts.landed.qsize()
    assert belts.bell.is_set()
    assert belts.left.is_set()


def test_nothing_lands_when_the_history_cannot_be_written() -> None:
    """The next start finds these jobs running, and queues them."""
    ground, flights, belts = landing(None, StoppedError())
    ground.release(flights.all())
    assert 3 == flights.count
    assert belts.landed.empty()


def test_one_that_is_being_delivered_is_not_given_back() -> None:
    ground, flights, _ = landing(StaleJobError("it is being delivered"))
    with pytest.raises(StaleJobError):
        ground.give_back(flights.all()[0])
    assert 3 == flights.count
