"""What a scan's record says comes from all who had to do with it; and the register of what is under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from watcherd.flights import Drawn, Flights
from watcherd.job import Options


def drawn(*, model: str | None = None, scan: str = "", render: str | None = None) -> Drawn:
    flight = SimpleNamespace(job=SimpleNamespace(options=Options()), decoded=SimpleNamespace(note=scan))
    segmented = SimpleNamespace(answer=None, decode=None, note=model)
    return Drawn(
        flight=cast("Any", flight),
        rendered=cast("Any", SimpleNamespace(note=render, mask_fraction=0.5)),
        segmented=cast("Any", segmented),
    )


def test_the_note_has_what_the_model_the_scan_and_the_drawing_have_to_say() -> None:
    assert "one; two; three" == drawn(model="one", scan="two", render="three").answer.note
    assert "two" == drawn(scan="two").answer.note
    assert drawn().answer.note is None


def job(number: int) -> Any:
    return SimpleNamespace(id=number, options=Options())


def test_a_job_is_under_way_until_its_flight_lands() -> None:
    flights = Flights()
    one, two = flights.begin([job(1), job(2)])
    assert (2, one, two, None) == (flights.count, flights.get(1), flights.get(2), flights.get(3))
    flights.land([one])
    assert [two] == flights.all()


def test_what_is_under_way_is_counted_for_each_model() -> None:
    flights = Flights()
    retina = SimpleNamespace(id=3, options=Options(model="retina"))
    one, _, three = flights.begin([job(1), job(2), cast("Any", retina)])
    assert (2, 1) == (flights.count_of("default"), flights.count_of("retina"))
    flights.land([one, three])
    assert (1, 0, 0) == tuple(map(flights.count_of, ("default", "retina", "nobody")))


def test_a_job_that_was_claimed_again_is_another_flight() -> None:
    """The end of the earlier one, which comes late, does not touch it."""
    flights = Flights()
    [old], [new] = flights.begin([job(7)]), flights.begin([job(7)])
    flights.land([old])
    assert new is flights.get(7)
    assert (1, 1) == (flights.count, flights.count_of("default"))
