"""How much is under way at a time, and what a job leaves behind."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.runs import a_run
from watcherd.delivery.delivery import Delivery
from watcherd.flights import Flight
from watcherd.inbox.expected import Expected
from watcherd.inbox.requests import IntakeRequests
from watcherd.inference.pool.lanes import Lane, Lanes
from watcherd.job import Options
from watcherd.pipeline.claim import BATCHES_UNDER_WAY
from watcherd.pipeline.places import Places
from watcherd.pipeline.stations import Pipeline
from watcherd.store import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPACITY = 4
MODEL = ModelIdentity(segmenter="fake", model="fake", revision="1", dtype="float32")


class OneReplica:
    """Takes whatever comes, at once: a model that is faster than the disk."""

    def has_room(self) -> bool:
        return True

    def capacity(self) -> int:
        return CAPACITY

    def status(self) -> list[Any]:
        return [SimpleNamespace(devices=("cpu",))]

    def given(self) -> int:
        return 0


def pipeline(scratch: Path = Path(), new_files_first: Any = None, imaging: Any = None) -> Pipeline:
    run, requests, bell = a_run(new_files_first=new_files_first), IntakeRequests(), threading.Event()
    lane = Lane[ModelIdentity]()
    lane.carried_by(cast("Any", OneReplica()))
    lane.became_ready(MODEL, follows_runs=False)
    delivery = Delivery(run, cast("Any", None), requests, bell, lambda: None)
    places = Places(scratch=scratch, spool_path=Path, bring_back=lambda _: False)
    return Pipeline(run, Lanes(lane), imaging, delivery, requests, Expected(), places, bell)


def job(number: int) -> Any:
    return SimpleNamespace(id=number, run=None, options=Options())


def test_a_fast_model_does_not_fill_the_run_folder() -> None:
    """Nothing more is claimed while so many scans are between claim and record, whatever the replicas would take."""
    line = pipeline()
    most = (BATCHES_UNDER_WAY + 2) * CAPACITY
    line._flights.begin([job(number) for number in range(most - 1)])
    assert line._feed._claims.replicas_have_room()
    line._flights.begin([job(most)])
    assert not line._feed._claims.replicas_have_room()


def test_a_job_claimed_again_before_its_last_flight_is_cleared_away_stays_under_way(tmp_path: Path) -> None:
    """Handed back by a dying replica it is claimed at once: clearing up after the old flight must not touch the new."""
    line = pipeline(tmp_path)
    [old], [new] = line._flights.begin([job(7)]), line._flights.begin([job(7)])
    for flight in (old, new):
        (tmp_path / f"{flight.stem}.npy").touch()
    line._landing.land([old])
    line._landing.clear(tmp_path)
    assert [new] == line._flights.all()
    assert [f"{new.stem}.npy"] == [path.name for path in tmp_path.iterdir()]
    line._landing.land([new])
    line._landing.clear(tmp_path)
    assert not line.busy
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seconds_per_scan", "claimed", "order"),
    [
        (0.01, CAPACITY, ["decode 4", "claim", "send 4", "decode 1", "send 1"]),
        (0.01, CAPACITY - 1, ["decode 3", "send 3"]),
        (1.0, CAPACITY, ["decode 4", "send 4"]),
        (0.0, CAPACITY, ["decode 4", "send 4"]),
    ],
)
def test_the_next_batch_is_claimed_while_one_is_decoded_if_the_model_is_quick(
    seconds_per_scan: float, claimed: int, order: list[str]
) -> None:
    """A slow one's next scans stay in the queue until their turn has come, and so does what nobody waits for."""
    log: list[str] = []
    flights = [Flight(job(number)) for number in range(claimed + 1)]

    @contextmanager
    def together() -> Iterator[None]:
        yield
        log.append(f"decode {len(begun)}")
        begun.clear()

    def decode(flight: Flight) -> Future[Any]:
        begun.append(flight)
        return Future()

    def claim() -> list[Flight]:
        log.append("claim")
        return flights[-1:]

    begun: list[Flight] = []
    feed = pipeline(imaging=SimpleNamespace(together=together))._feed
    if seconds_per_scan:
        feed._lanes.get("default").took(seconds_per_scan)
    feed._lanes.get("default").batch_limit = lambda: CAPACITY  # type: ignore[method-assign]
    feed._decode = decode  # type: ignore[method-assign]
    feed._claims.claim = claim  # type: ignore[method-assign]
    feed._send = lambda flights, decoding: log.append(f"send {len(decoding)}")  # type: ignore[method-assign]
    feed._decode_and_send(flights[:-1])
    assert order == log
