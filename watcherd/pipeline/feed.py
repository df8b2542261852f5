"""The first station: claim, decode, and send to the replicas. Its thread is `feed`.

While the replicas compute one batch, the next is decoded, so that the model never waits for a file.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.errors import InputError, LostBytesError, TransientError, WatcherdError
from watcherd.flights import Failed, job_error
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.pool import explained
from watcherd.imaging.worker import timed_decode
from watcherd.inference.messages import WorkItem
from watcherd.inference.pool.lanes import WORK_SECONDS
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError
from watcherd.pipeline.landing import named
from watcherd.pipeline.runs import arrange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.flights import Flight
    from watcherd.imaging.pool import ImagingPool
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.pipeline.belts import Belts
    from watcherd.pipeline.claim import Claims
    from watcherd.pipeline.landing import Landing
    from watcherd.pipeline.places import Places
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

GATHER_SECONDS = 0.25
"""How long decoded scans wait for others of their batch; a lone scan waits for nobody."""
POLL_SECONDS = 5.0
"""The queue is looked at this often even if nobody says that there is something in it."""
FETCH_SECONDS = 300.0
"""How long the intake may take to find a lost copy's bytes elsewhere."""


class Feed:
    """Keeps the replicas in work. All of it runs in the thread `feed`."""

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        imaging: ImagingPool,
        requests: IntakeRequests,
        places: Places,
        claims: Claims,
        landing: Landing,
        belts: Belts,
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._imaging = imaging
        self._requests = requests
        self._places = places
        self._claims = claims
        self._landing = landing
        self._belts = belts
        self._log = get_logger()

    def run(self) -> None:
        """Keep the replicas in work until the daemon stops."""
        bell, due = self._belts.bell, self._belts.due
        try:
            while not self._run.stopping.is_set():
                bell.clear()
                if not self._claims.may_claim():
                    bell.wait(1.0)
                    continue
                claimed = self._claims.claim()
                if claimed:
                    self._decode_and_send(claimed)
                else:
                    bell.wait(max(0.05, min(POLL_SECONDS, due.seconds)))
                    due.forget_past()
        except StoppedError:
            return

    def _decode_and_send(self, flights: Sequence[Flight]) -> None:
        """Decode batches in the workers and hand them to the replicas, each while the next is claimed."""
        while flights:
            with self._imaging.together():
                decoding = {self._begin_decoding(flight): flight for flight in flights}
            more = self._claim_ahead(flights)
            self._send(flights, decoding)
            flights = more

    def _claim_ahead(self, flights: Sequence[Flight]) -> list[Flight]:
        """What can be claimed while these are decoded: of other models, and of their own while that is quick."""
        name = flights[0].model_name
        if self._are_quick(flights):
            return self._claims.claim() if self._claims.may_claim() else []
        if len(self._lanes.carried()) == 1 or not self._claims.may_claim():
            return []
        return self._claims.claim(but=name)

    def _are_quick(self, flights: Sequence[Flight]) -> bool:
        """Whether a batch is full and its model is quick: to wait for the next claim would keep the replicas waiting.

        Of slower ones none is claimed ahead, for another scan may be given priority.
        """
        lane = self._lanes.get(flights[0].model_name)
        seconds = lane.seconds_per_scan * len(flights)
        if not 0 < seconds <= WORK_SECONDS:
            return False
        try:
            return len(flights) >= lane.batch_limit()
        except LookupError:  # its replicas have gone
            return False

    def _send(self, flights: Sequence[Flight], decoding: dict[Future[Any], Flight]) -> None:
        """Hand over what is decoded, those that take long after the others.

        Frames of a run go to one replica together: the last is waited for.
        """
        seconds = GATHER_SECONDS if flights[0].job.run is None else None
        while decoding:
            done, _ = wait(decoding, timeout=seconds)
            ready = []
            for future in done:
                flight = decoding.pop(future)
                if self._is_back(flight, future):
                    decoding[self._begin_decoding(flight)] = flight
                elif self._take_decoded(flight, future):
                    ready.append(flight)
            if ready:
                crash_point("segment.begun")
                failed = self._run.set_aside.each("runs", ready, partial(named, "runs"), self._submit, waits=False)
                for flight in failed:
                    self._belts.results.put(Failed(flight, self._why("runs", flight)))

    def _submit(self, flights: Sequence[Flight]) -> None:
        try:
            lane = self._lanes.get(flights[0].model_name)
            pool = lane.pool
        except LookupError:  # its replicas have gone since these were claimed: they wait until there are some again
            self._landing.release(flights)
            return
        pool.submit([self._item(flight) for flight in arrange(flights, channels=lane.channels)])

    def _why(self, doing: str, flight: Flight) -> TransientError:
        """What a job's attempt ends with that was set aside."""
        return TransientError(self._run.set_aside.reason(named(doing, flight).key))

    def _begin_decoding(self, flight: Flight) -> Future[Any]:
        begun: list[Future[Any]] = []
        item = named("decode", flight)
        if not self._run.set_aside.alone("decode", item, lambda: begun.append(self._decode(flight)), waits=False):
            begun.append(Future())
            begun[0].set_exception(self._why("decode", flight))
        return begun[0]

    def _decode(self, flight: Flight) -> Future[Any]:
        self._run.new_files_first.give_way()
        crash_point("decode.begun")
        if flight.job.options.refused:
            return _refusal(flight.job.options.refused)
        config = self._run.config
        limits = config.limits
        bounds = DecodeLimits(
            max_pixels=limits.max_pixels, max_frames=limits.max_frames, memory_mib=limits.worker_memory_mib
        )
        return self._imaging.run(
            timed_decode,
            self._places.spool_path(flight.job.sha256),
            flight.job.sha256,
            self._places.scratch / f"{flight.stem}.npy",
            bounds,
            config.privacy.dicom_tags,
            self._places.scratch / f"{flight.stem}-volume.npy" if self._takes_volumes(flight) else None,
            seconds=limits.decode_seconds,
        )

    def _takes_volumes(self, flight: Flight) -> bool:
        """Whether its model takes a scan's own numbers; of a model that has gone meanwhile that does not matter."""
        try:
            return self._lanes.get(flight.model_name).takes_volumes
        except LookupError:
            return False

    def _is_back(self, flight: Flight, future: Future[Any]) -> bool:
        """Whether the copy of this scan was lost, and its bytes were found elsewhere: once for each try."""
        error = future.exception()
        if not isinstance(error, LostBytesError) or flight.fetched:
            return False
        flight.fetched = True
        try:
            found = self._requests.do(partial(self._places.bring_back, flight.id), within=FETCH_SECONDS)
        except WatcherdError as failure:
            self._log.warning("copy_not_fetched", job_id=flight.id, source=flight.job.source, error=failure.message)
            return False
        told = "fetched anew" if found else "found nowhere"
        self._log.warning("copy_lost", job_id=flight.id, source=flight.job.source, error=error.message, reason=told)
        return found

    def _take_decoded(self, flight: Flight, future: Future[Any]) -> bool:
        self._run.new_files_first.give_way()
        try:
            flight.decoded, flight.decode_ms = future.result()
        except BaseException as error:  # whatever ended the worker is this scan's failure
            if isinstance(error, TransientError) and not self._claims.run_folder_has_room():
                self._landing.give_back(flight)  # not a try of its own: it comes when there is room
                return False
            seconds = self._run.config.limits.decode_seconds
            failure = job_error(explained(error, doing="decoding", seconds=seconds))
            self._belts.results.put(Failed(flight, failure, True))
            return False
        crash_point("decode.done")
        return True

    def _item(self, flight: Flight) -> WorkItem:
        assert flight.decoded is not None
        return WorkItem(
            job_id=flight.id,
            decoded=flight.decoded.path,
            frames=flight.decoded.frames,
            options=flight.job.options,
            target=self._places.scratch / flight.stem,
            run=flight.together,
            note=flight.note,
            modality=flight.decoded.modality,
            size=(flight.decoded.width, flight.decoded.height),
            volume=flight.decoded.volume,
            channel=flight.channel,
        )


def _refusal(reason: str) -> Future[Any]:
    """What comes of a scan that is not even decoded: nobody can know what its sidecar was to say."""
    future: Future[Any] = Future()
    hint = "Correct it and drop it once more, with its scan."
    future.set_exception(InputError(reason, hint=hint))
    return future
