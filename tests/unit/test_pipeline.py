"""How much is under way at a time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.asides import aside
from watcherd.config import Config
from watcherd.flights import Flight
from watcherd.new_files_first import NewFilesFirst
from watcherd.pauses import Pauses
from watcherd.pipeline.stations import BATCHES_UNDER_WAY, Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPACITY = 4


class OneReplica:
    """Takes whatever comes, at once: a model that is faster than the disk."""

    def has_room(self) -> bool:
        return True

    def capacity(self) -> int:
        return CAPACITY

    def status(self) -> list[Any]:
        return [None]


def pipeline(scratch: Path = Path(), new_files_first: Any = None) -> Pipeline:
    nothing = cast("Any", None)
    return Pipeline(
        Config(),
        nothing,
        nothing,
        lambda: cast("Any", OneReplica()),
        nothing,
        nothing,
        new_files_first or NewFilesFirst(),
        aside(),
        run_id=1,
        scratch=scratch,
        spool_path=Path,
        stopping=threading.Event(),
    )


def test_a_fast_model_does_not_fill_the_run_folder() -> None:
    """Nothing more is claimed while so many scans are between claim and record, whatever the replicas would take."""
    line = pipeline()
    most = (BATCHES_UNDER_WAY + 2) * CAPACITY
    line._flights = {number: cast("Any", None) for number in range(most - 1)}
    assert line._has_room()
    line._flights[most] = cast("Any", None)
    assert not line._has_room()


def test_a_job_claimed_again_before_its_last_flight_is_cleared_away_stays_under_way(tmp_path: Path) -> None:
    """Handed back by a dying replica it is claimed at once: clearing up after the old flight must not touch the new."""
    line = pipeline(tmp_path)
    job = cast("Any", SimpleNamespace(id=7))
    old, new = Flight(job), Flight(job)
    for flight in (old, new):
        (tmp_path / f"{flight.stem}.npy").touch()
    line._flights[7] = new
    line._land([old])
    line._clear()
    assert {7: new} == line._flights
    assert [f"{new.stem}.npy"] == [path.name for path in tmp_path.iterdir()]
    line._land([new])
    line._clear()
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
    line = pipeline()
    line._pauses = Pauses(threading.Event())
    line._seconds_per_scan = seconds_per_scan
    line._batch_limit = lambda: CAPACITY  # type: ignore[method-assign]
    log: list[str] = []
    flights = [Flight(cast("Any", SimpleNamespace(id=number, run=None))) for number in range(claimed + 1)]

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
    line._imaging = cast("Any", SimpleNamespace(together=together))
    line._decode = decode  # type: ignore[method-assign]
    line._claim = claim  # type: ignore[method-assign]
    line._send = lambda flights, decoding: log.append(f"send {len(decoding)}")  # type: ignore[method-assign]
    line._decode_and_send(flights[:-1])
    assert order == log
