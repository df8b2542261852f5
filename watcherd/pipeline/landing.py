"""How a job leaves the pipeline: recorded, or given back to the queue; and what it leaves in the run folder."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from watcherd.errors import StaleJobError
from watcherd.pauses import StoppedError
from watcherd.set_aside import job_named
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from watcherd.flights import Flight, Flights
    from watcherd.pipeline.belts import Belts
    from watcherd.set_aside import Named
    from watcherd.state.run import Run
    from watcherd.store import Claim, Connection


class Landing:
    """The end of flights. Called from every station's and every replica's thread; keeps nothing of its own."""

    def __init__(self, run: Run, flights: Flights, belts: Belts) -> None:
        self._run = run
        self._flights = flights
        self._belts = belts

    def land(self, flights: Iterable[Flight]) -> None:
        """These are recorded: nothing of them is kept in mind, nor, a little later, in the run folder.

        A job that was put back into the queue may be under way again by now: that flight is another one, and stays.
        """
        for flight in flights:
            self._flights.land([flight])
            self._belts.landed.put(flight)
        self._belts.left.set()
        self._belts.bell.set()

    def give_back(self, flight: Flight) -> None:
        """Put one back into the queue; this was no attempt. Raises `StaleJobError` when it is being delivered."""
        self._run.write(partial(_give_back, flight.job.claim))
        self.land([flight])

    def release(self, flights: Sequence[Flight]) -> None:
        """Give every job back that has not been recorded; a planned stop does not count as an attempt."""
        for flight in flights:
            try:
                self._run.write(partial(_give_back, flight.job.claim))
            except StaleJobError:
                continue  # it is being delivered: the next start finishes that
            except StoppedError:
                return  # the history cannot be written: the next start finds these jobs running, and queues them
        self.land(flights)

    def clear(self, scratch: Path) -> None:
        """Remove what the jobs that have landed had in the run folder. For the thread `dispose`."""
        folder = os.fspath(scratch)  # to build four Paths takes longer than to unlink what they name
        while not self._belts.landed.empty():
            stem = self._belts.landed.get().stem
            for name in (f"{stem}.npy", f"{stem}-volume.npy", f"{stem}-mask.npy", f"{stem}-probability.npy"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{folder}/{name}")  # noqa: PTH108


def named(doing: str, flight: Flight) -> Named:
    """One step of a job's attempt, as what may be set aside."""
    return job_named(flight.id, doing)


def _give_back(claim: Claim, connection: Connection) -> None:
    jobs.release(connection, [claim], now=datetime.now(UTC))
