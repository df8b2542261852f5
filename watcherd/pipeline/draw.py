"""The middle station: what the replicas answer is drawn by the imaging workers.

It has no thread of its own: replicas' threads bring answers, and the workers' futures call back when a drawing is done.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.errors import InputError, JobError, LostBytesError, NoMaskError, TransientError
from watcherd.flights import Drawn, Failed, job_error
from watcherd.imaging.pool import explained
from watcherd.imaging.values import RenderRequest
from watcherd.imaging.worker import timed_render
from watcherd.inference.messages import NotSegmented
from watcherd.job import ErrorClass
from watcherd.outputs import DRAWN
from watcherd.pauses import StoppedError
from watcherd.pipeline.landing import named
from watcherd.set_aside import job_named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from watcherd.delivery.promise import Promises
    from watcherd.flights import Flight, Flights, ReplicaRecord
    from watcherd.imaging.pool import ImagingPool
    from watcherd.inference.messages import Outcome, Segmented
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.pipeline.belts import Belts
    from watcherd.pipeline.places import Places
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

MEASURING_SHARE = 0.25
"""Of the time that drawing a scan may take; measures that would need more are left out."""


class Draw:
    """Draws results. Called from replicas' and workers' threads, and by `stage` for what is drawn once more.

    It keeps nothing of its own; what it learns of a scan goes into the flight, which only one of them has at a time.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        imaging: ImagingPool,
        promises: Promises,
        places: Places,
        flights: Flights,
        belts: Belts,
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._imaging = imaging
        self._promises = promises
        self._places = places
        self._flights = flights
        self._belts = belts

    def answered(self, replica: ReplicaRecord, outcomes: Sequence[Outcome]) -> None:
        """A replica has computed these scans' masks, or has failed to."""
        set_aside = self._run.set_aside
        with self._imaging.together():
            for outcome in outcomes:
                answered = partial(self._answered, replica, outcome)
                fine = set_aside.alone("draw", job_named(outcome.job_id, "draw"), answered, waits=False)
                if not fine and (flight := self._flights.get(outcome.job_id)):
                    error = TransientError(set_aside.reason(named("draw", flight).key))
                    self._belts.results.put(Failed(flight, error, alone=True, drawn=True))

    def _answered(self, replica: ReplicaRecord, outcome: Outcome) -> None:
        self._run.new_files_first.give_way()
        flight = self._flights.get(outcome.job_id)
        if flight is None:
            return
        flight.replica, flight.answer = replica, outcome
        lane = self._lanes.get(flight.model_name)
        if isinstance(outcome, NotSegmented):
            lane.lost((outcome.inference_ms or 0) / 1000)
            self._belts.results.put(Failed(flight, _error_of(outcome), flight.job.solo))
            return
        crash_point("segment.done")
        lane.took(outcome.inference_ms / 1000)
        self.render(flight, outcome)

    def render(self, flight: Flight, segmented: Segmented) -> None:
        """Have a worker draw a scan's results; what comes of it goes to `stage`."""
        crash_point("render.begun")
        try:
            folder, stem = self._run.pauses.until_possible("outbox", partial(self._promises.seat, flight.job))
        except StoppedError:
            return
        config = self._run.config
        limits = config.limits
        request = RenderRequest(
            pixels=self._places.scratch / f"{flight.stem}.npy",
            mask=segmented.mask,
            probability=segmented.probability,
            folder=folder,
            stem=stem,
            kinds=tuple(kind for kind in DRAWN if kind in flight.job.options.outputs),
            classes=segmented.classes,
            labels=segmented.labels,
            revision=flight.model.revision,
            source=self._places.spool_path(flight.job.sha256),
            sha256=flight.job.sha256,
            scan=flight.decoded,
            memory_mib=limits.worker_memory_mib,
            measure_seconds=limits.decode_seconds * MEASURING_SHARE if config.outbox.measures else 0,
        )
        future = self._imaging.run(timed_render, request, seconds=limits.decode_seconds)
        future.add_done_callback(partial(self._rendered, flight, segmented))

    def _rendered(self, flight: Flight, segmented: Segmented, future: Future[Any]) -> None:
        results = self._belts.results
        try:
            rendered, flight.render_ms = future.result()
        except LostBytesError as error:  # it was whole when it was decoded: the next try looks for it elsewhere
            results.put(Failed(flight, TransientError(error.message), True))
            return
        except BaseException as error:  # whatever ended the worker is this scan's failure
            seconds = self._run.config.limits.decode_seconds
            results.put(Failed(flight, job_error(explained(error, doing="drawing", seconds=seconds)), True))
            return
        crash_point("render.done")
        results.put(Drawn(flight, rendered, segmented))


def _error_of(outcome: NotSegmented) -> JobError:
    """The replica's words as the error that they were."""
    if outcome.error_class is ErrorClass.NO_MASK:
        return NoMaskError(outcome.error, answer=outcome.answer, hint=outcome.hint)
    for kind in JobError.__subclasses__():
        if kind.error_class is outcome.error_class:
            return kind(outcome.error, hint=outcome.hint)
    return InputError(outcome.error, hint=outcome.hint)
