"""The way of one scan, from the queue to the outbox: claim, decode, segment, render, deliver, record, dispose.

Four threads work here: while the replicas compute one batch, `feed` decodes the next, `stage` promises results their
names, `finish` publishes and records what was promised, and `dispose` clears the inbox of what is recorded. Each has
its own class; what one hands to another goes through the queues of `Belts`, and `Flights` says what is under way.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from watcherd.flights import Flights, ReplicaRecords
from watcherd.pauses import StoppedError
from watcherd.pipeline.belts import Belts, come_together
from watcherd.pipeline.claim import Claims
from watcherd.pipeline.draw import Draw
from watcherd.pipeline.feed import Feed
from watcherd.pipeline.landing import Landing
from watcherd.pipeline.stage import Stage

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from watcherd.delivery.delivery import Delivery
    from watcherd.flights import ReplicaRecord
    from watcherd.imaging.pool import ImagingPool
    from watcherd.inbox.expected import Expected
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.inference.messages import Outcome
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.pipeline.places import Places
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

DRAIN_STEP = 0.02
"""Seconds between two looks whether everything has come out of the pipeline."""


class Pipeline:
    """The stations as the service sees them: a method for each thread, and what others may tell or ask.

    ``bell``: set when there may be something in the queue. Everything here may be called from any thread, but for the
    bodies of the four.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        imaging: ImagingPool,
        delivery: Delivery,
        requests: IntakeRequests,
        expected: Expected,
        places: Places,
        bell: threading.Event,
    ) -> None:
        self._delivery = delivery
        self._scratch = places.scratch
        self._flights = Flights()
        self._replicas = ReplicaRecords()
        self._belts = belts = Belts(bell=bell)
        self._landing = landing = Landing(run, self._flights, belts)
        claims = Claims(run, lanes, expected, places, self._flights, belts)
        self._feed = Feed(run, lanes, imaging, requests, places, claims, landing, belts)
        self._draw = Draw(run, lanes, imaging, delivery.promises, places, self._flights, belts)
        self._stage = Stage(run, delivery.promises, delivery.other_names, self._draw, landing, belts)

    @property
    def busy(self) -> bool:
        """Whether any job is under way."""
        return self._flights.count > 0

    @property
    def held(self) -> threading.Event:
        """Set while a person has paused the work."""
        return self._belts.held

    # -------------------------------------------------------------------------------------------- the threads' bodies

    def feed(self) -> None:
        """Keep the replicas in work until the daemon stops."""
        self._feed.run()

    def stage(self) -> None:
        """Promise results their names, and record failures, until `no_more` was called and everything is done."""
        self._stage.run()

    def finish(self) -> None:
        """Publish what `stage` has promised, and record it, until that has ended."""
        belts, more = self._belts, True
        try:
            while more:
                came = come_together(belts.promised)
                promised = [each for batch in came if batch for each in batch]
                more = None not in came
                if promised:
                    self._delivery.finish.publish(promised)
                    self._landing.land(each.drawn.flight for each in promised)
                    belts.look_for_arrivals()
                if self._delivery.recovery.publish_again():
                    belts.look_for_arrivals()
        except StoppedError:
            return
        finally:
            belts.ended.set()
            belts.left.set()

    def dispose(self) -> None:
        """Clear up after what is recorded, in the run folder and in the inbox, until `finish` has ended."""
        belts, sources = self._belts, self._delivery.sources
        try:
            while not belts.ended.is_set():
                belts.left.wait()
                belts.left.clear()
                self._landing.clear(self._scratch)
                sources.dispose()
            sources.dispose()  # what was recorded while the last look was taken
        except StoppedError:
            return

    # ------------------------------------------------------------------------------------------------ what others tell

    def wake(self) -> None:
        """There may be something in the queue."""
        self._belts.bell.set()

    def look_for_arrivals(self) -> None:
        """An arrival may share a job that has ended already: its name gets its result too."""
        self._belts.look_for_arrivals()

    def queued(self) -> None:
        """Something was queued: a job, or one more name for a job that has ended."""
        self.wake()
        self.look_for_arrivals()

    def try_again(self) -> None:
        """The time of something has come that was set aside."""
        self.look_for_arrivals()
        self._belts.promised.put(())
        self._belts.left.set()

    # --------------------------------------------------------------- what the replicas tell (ScanListener), and of them

    def replica_ready(self, number: int, record: ReplicaRecord) -> None:
        """This replica has loaded that model; it answers nothing before this was said."""
        self._replicas.put(number, record)

    def batch_taken(self) -> None:
        """A replica has begun a batch: there is room for another."""
        self.wake()

    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None:
        """A replica has computed these scans' masks, or has failed to."""
        self._draw.answered(self._replicas.get(number), outcomes)

    def scans_handed_back(self, jobs: Sequence[int]) -> None:
        """Scans that no replica has begun: back to the queue, as if they had never left it."""
        flights = [flight for job_id in jobs if (flight := self._flights.get(job_id))]
        self._landing.release(flights)
        self.wake()

    # -------------------------------------------------------------------------------------------------------- stop

    def no_more(self, seconds: float, hurry: threading.Event) -> None:
        """The replicas have stopped: let what they computed be drawn and delivered, then have `stage` end."""
        deadline = time.monotonic() + seconds
        while self._flights.count and time.monotonic() < deadline and not hurry.wait(DRAIN_STEP):
            pass
        self._belts.ending.set()
        self._belts.results.put(None)

    def release_all(self) -> None:
        """Give every job back that has not been recorded; a planned stop does not count as an attempt."""
        self._landing.release(self._flights.all())
