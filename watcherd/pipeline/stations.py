"""The way of one scan, from the queue to the outbox: claim, decode, segment, render, deliver, record, dispose.

Four threads work here, so that the model never waits for a file: while the replicas compute one batch, `feed` decodes
the next, `stage` promises results their names, `finish` publishes and records what was promised, and `dispose` clears
the inbox of what is recorded. The replicas answer through the methods named in ``inference.pool.Listener``.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from watcherd.crash_points import crash_point
from watcherd.errors import (
    InputError,
    JobError,
    LostBytesError,
    NoMaskError,
    StaleJobError,
    TransientError,
    WatcherdError,
)
from watcherd.flights import Drawn, Failed, Flight, ReplicaRecord
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.pool import explained
from watcherd.imaging.values import KINDS, RenderRequest
from watcherd.imaging.worker import timed_decode, timed_render
from watcherd.inference.messages import NotSegmented, Segmented, WorkItem
from watcherd.job import ErrorClass, State
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError, check_room, in_words, is_passing
from watcherd.pipeline.runs import arrange
from watcherd.retry import decide
from watcherd.set_aside import job_named
from watcherd.store import Failure, Hold
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.delivery.promise import Delivery, Promised
    from watcherd.imaging.pool import ImagingPool
    from watcherd.inference.messages import Outcome
    from watcherd.inference.pool.interface import Pool
    from watcherd.new_files_first import NewFilesFirst
    from watcherd.pauses import Pauses
    from watcherd.retry import Decision
    from watcherd.set_aside import Named, SetAside
    from watcherd.store import Claim, ClaimedJob, Connection, Database, InUse

T = TypeVar("T")

GATHER_SECONDS = 0.25
"""How long decoded scans wait for others of their batch; a lone scan waits for nobody."""
WORK_SECONDS = 0.5
"""A batch for a replica is about so much work: enough to hide the way there, little enough to share out evenly."""
MOST_AT_ONCE = 64
POLL_SECONDS = 5.0
"""The queue is looked at this often even if nobody says that there is something in it."""
BATCHES_UNDER_WAY = 6
"""So many batches, besides two for each replica, may be decoded, drawn and delivered at a time: a model that is faster
than the disk must not fill the run folder."""
RENDERS_TRIED = 3
MEASURING_SHARE = 0.25
"""Of the time that drawing a scan may take; measures that would need more are left out."""
DRAIN_STEP = 0.02


class Pipeline:
    """Moves jobs from station to station."""

    def __init__(
        self,
        config: Config,
        database: Database,
        imaging: ImagingPool,
        pool: Callable[[], Pool],
        delivery: Delivery,
        pauses: Pauses,
        new_files_first: NewFilesFirst,
        set_aside: SetAside,
        *,
        run_id: int,
        scratch: Path,
        spool_path: Callable[[str], Path],
        stopping: threading.Event,
    ) -> None:
        self._config = config
        self._database = database
        self._imaging = imaging
        self._pool = pool
        self._delivery = delivery
        self._pauses = pauses
        self._new_files_first = new_files_first
        self._set_aside = set_aside
        self._run_id = run_id
        self._scratch = scratch
        self._spool_path = spool_path
        self._stopping = stopping
        self._log = get_logger()
        self._flights: dict[int, Flight] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._results: queue.SimpleQueue[Drawn | Failed | None] = queue.SimpleQueue()
        self._promised: queue.SimpleQueue[Sequence[Promised] | None] = queue.SimpleQueue()
        self._landed: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        self._seconds_per_scan = 0.0
        self._retry_at = float("inf")
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._left = threading.Event()
        self.held = threading.Event()
        """Set while a person has paused the work."""
        self.hold_frames: Callable[[], Hold] = Hold
        """How long the frames of a run wait for one another."""
        self.in_use: Callable[[], InUse]
        """The model that runs what is claimed; set before `feed` is started."""
        self.bring_back: Callable[[int], bool] = lambda _job_id: False
        """Looks for the bytes of a job's scan elsewhere than in the spool; whether they lie there again."""

    def reconfigure(self, config: Config) -> None:
        """Use another configuration for what is begun from now on."""
        self._config = config

    def wake(self) -> None:
        """There may be something in the queue."""
        self._wake.set()

    @property
    def busy(self) -> bool:
        """Whether any job is under way."""
        return bool(self._flights)

    # --------------------------------------------------------------------------------- claim and decode: one thread

    def feed(self) -> None:
        """Keep the replicas in work until the daemon stops."""
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                if not self._may_claim():
                    self._wake.wait(1.0)
                    continue
                claimed = self._claim()
                if claimed:
                    self._decode_and_send(claimed)
                else:
                    self._wake.wait(max(0.05, min(POLL_SECONDS, self._retry_at - time.monotonic())))
                    if time.monotonic() >= self._retry_at:
                        self._retry_at = float("inf")
        except StoppedError:
            return

    def _may_claim(self) -> bool:
        there_is_room = self._run_folder_has_room()  # asked in any case: it is shown while there is none
        return there_is_room and not self.held.is_set() and not self._stopping.is_set() and self._has_room()

    def _run_folder_has_room(self) -> bool:
        """Whether decoded scans can be written; a pause that is shown, unless it is our own that fill the folder."""
        try:
            check_room(self._scratch, max(1, self._config.limits.min_free_mib))
        except OSError as error:
            if not is_passing(error):
                raise
            if not self._flights:
                self._pauses.set("run folder", in_words(error))
            return False
        self._pauses.clear("run folder")
        return True

    def _has_room(self) -> bool:
        """Whether a replica would take another batch soon, and what comes after the replicas keeps up."""
        pool = self._pool()
        batches = BATCHES_UNDER_WAY + 2 * len(pool.status())
        return pool.has_room() and len(self._flights) < batches * self._batch_limit()

    def _claim(self) -> list[Flight]:
        self._new_files_first.give_way()
        limit, in_use, hold = self._batch_limit(), self.in_use(), self.hold_frames()

        def work(connection: Connection) -> tuple[list[ClaimedJob], datetime | None]:
            now = datetime.now(UTC)
            claimed = jobs.claim(connection, run_id=self._run_id, limit=limit, now=now, in_use=in_use, hold=hold)
            crash_point("claim.begun")
            return claimed, None if claimed else jobs.next_due(connection, now=now)

        claimed, due = self._store(work)
        if due is not None:
            self._come_back(due)
        flights = [Flight(job) for job in claimed]
        with self._lock:
            self._flights |= {flight.id: flight for flight in flights}
        if flights:
            crash_point("claim.committed")
        return flights

    def _batch_limit(self) -> int:
        """As many scans as fill a batch, or as are about `WORK_SECONDS` of work."""
        capacity = self._pool().capacity()
        if not self._seconds_per_scan:
            return capacity
        return max(capacity, min(MOST_AT_ONCE, int(WORK_SECONDS / self._seconds_per_scan)))

    def _decode_and_send(self, flights: Sequence[Flight]) -> None:
        """Decode batches in the workers and hand them to the replicas, each while the next is claimed."""
        while flights:
            with self._imaging.together():
                decoding = {self._begin_decoding(flight): flight for flight in flights}
            more = self._claim() if self._are_quick(flights) and self._may_claim() else []
            self._send(flights, decoding)
            flights = more

    def _are_quick(self, flights: Sequence[Flight]) -> bool:
        """Whether a batch is full and its model is quick: to wait for the next claim would keep the replicas waiting.

        Of slower ones none is claimed ahead, for another scan may be given priority.
        """
        return len(flights) >= self._batch_limit() and 0 < self._seconds_per_scan * len(flights) <= WORK_SECONDS

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
                failed = self._set_aside.each("runs", ready, partial(_named, "runs"), self._submit, waits=False)
                for flight in failed:
                    self._results.put(Failed(flight, self._why("runs", flight)))

    def _submit(self, flights: Sequence[Flight]) -> None:
        self._pool().submit([self._item(flight) for flight in arrange(flights)])

    def _why(self, doing: str, flight: Flight) -> TransientError:
        """What a job's attempt ends with that was set aside."""
        return TransientError(self._set_aside.reason(_named(doing, flight).key))

    def _begin_decoding(self, flight: Flight) -> Future[Any]:
        begun: list[Future[Any]] = []
        named = _named("decode", flight)
        if not self._set_aside.alone("decode", named, lambda: begun.append(self._decode(flight)), waits=False):
            begun.append(Future())
            begun[0].set_exception(self._why("decode", flight))
        return begun[0]

    def _decode(self, flight: Flight) -> Future[Any]:
        self._new_files_first.give_way()
        crash_point("decode.begun")
        if flight.job.options.refused:
            return _refusal(flight.job.options.refused)
        limits = self._config.limits
        bounds = DecodeLimits(
            max_pixels=limits.max_pixels, max_frames=limits.max_frames, memory_mib=limits.worker_memory_mib
        )
        source = self._spool_path(flight.job.sha256)
        return self._imaging.run(
            timed_decode,
            source,
            flight.job.sha256,
            self._scratch / f"{flight.stem}.npy",
            bounds,
            self._config.privacy.dicom_tags,
            seconds=limits.decode_seconds,
        )

    def _is_back(self, flight: Flight, future: Future[Any]) -> bool:
        """Whether the copy of this scan was lost, and its bytes were found elsewhere: once for each try."""
        error = future.exception()
        if not isinstance(error, LostBytesError) or flight.fetched:
            return False
        flight.fetched = True
        try:
            found = self.bring_back(flight.id)
        except WatcherdError as failure:
            self._log.warning("copy_not_fetched", job_id=flight.id, source=flight.job.source, error=failure.message)
            return False
        told = "fetched anew" if found else "found nowhere"
        self._log.warning("copy_lost", job_id=flight.id, source=flight.job.source, error=error.message, reason=told)
        return found

    def _take_decoded(self, flight: Flight, future: Future[Any]) -> bool:
        self._new_files_first.give_way()
        try:
            flight.decoded, flight.decode_ms = future.result()
        except BaseException as error:  # whatever ended the worker is this scan's failure
            if isinstance(error, TransientError) and not self._run_folder_has_room():
                self._store(partial(_give_back, flight.job.claim))  # not a try of its own: it comes when there is room
                self._land([flight])
                return False
            seconds = self._config.limits.decode_seconds
            self._results.put(Failed(flight, _job_error(explained(error, doing="decoding", seconds=seconds)), True))
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
            target=self._scratch / flight.stem,
            run=flight.together,
            note=flight.note,
            modality=flight.decoded.modality,
        )

    # ---------------------------------------------------------------- segment and render: in the replicas' threads

    def batch_taken(self) -> None:
        """A replica has begun a batch: there is room for another."""
        self._wake.set()

    def scans_answered(self, replica: ReplicaRecord, outcomes: Sequence[Outcome]) -> None:
        """A replica has computed these scans' masks, or has failed to."""
        with self._imaging.together():
            for outcome in outcomes:
                answered = partial(self._answered, replica, outcome)
                fine = self._set_aside.alone("draw", job_named(outcome.job_id, "draw"), answered, waits=False)
                if not fine and (flight := self._flights.get(outcome.job_id)):
                    self._results.put(Failed(flight, self._why("draw", flight), alone=True, drawn=True))

    def _answered(self, replica: ReplicaRecord, outcome: Outcome) -> None:
        self._new_files_first.give_way()
        flight = self._flights.get(outcome.job_id)
        if flight is None:
            return
        flight.replica, flight.answer = replica, outcome
        if isinstance(outcome, NotSegmented):
            self._results.put(Failed(flight, _error_of(outcome), flight.job.solo))
            return
        crash_point("segment.done")
        seconds = outcome.inference_ms / 1000
        self._seconds_per_scan = 0.8 * self._seconds_per_scan + 0.2 * seconds if self._seconds_per_scan else seconds
        self._render(flight, outcome)

    def scans_handed_back(self, job_ids: Iterable[int]) -> None:
        """Scans that no replica has begun: back to the queue, as if they had never left it."""
        flights = [flight for job_id in job_ids if (flight := self._flights.get(job_id))]
        self._release(flights)
        self._wake.set()

    def _render(self, flight: Flight, segmented: Segmented) -> None:
        crash_point("render.begun")
        try:
            folder = self._pauses.until_possible("outbox", partial(self._delivery.stage, flight.job))
        except StoppedError:
            return
        limits = self._config.limits
        request = RenderRequest(
            pixels=self._scratch / f"{flight.stem}.npy",
            mask=segmented.mask,
            probability=segmented.probability,
            folder=folder,
            stem="result",
            kinds=tuple(kind for kind in KINDS if kind in flight.job.options.outputs),
            classes=segmented.classes,
            labels=segmented.labels,
            revision=flight.model.revision,
            source=self._spool_path(flight.job.sha256),
            sha256=flight.job.sha256,
            scan=flight.decoded,
            memory_mib=self._config.limits.worker_memory_mib,
            measure_seconds=limits.decode_seconds * MEASURING_SHARE if self._config.outbox.measures else 0,
        )
        future = self._imaging.run(timed_render, request, seconds=self._config.limits.decode_seconds)
        future.add_done_callback(partial(self._rendered, flight, segmented))

    def _rendered(self, flight: Flight, segmented: Segmented, future: Future[Any]) -> None:
        try:
            rendered, flight.render_ms = future.result()
        except LostBytesError as error:  # it was whole when it was decoded: the next try looks for it elsewhere
            self._results.put(Failed(flight, TransientError(error.message), True))
            return
        except BaseException as error:  # whatever ended the worker is this scan's failure
            seconds = self._config.limits.decode_seconds
            self._results.put(Failed(flight, _job_error(explained(error, doing="drawing", seconds=seconds)), True))
            return
        crash_point("render.done")
        self._results.put(Drawn(flight, rendered, segmented))

    # ------------------------------------- deliver: one thread up to the promise, one for the rest; dispose: one more

    def stage(self) -> None:
        """Promise results their names, and record failures, until `no_more` was called and everything is done."""
        more = True
        try:
            while more or not self._results.empty():
                more = self._stage_once()
        except StoppedError:
            return
        finally:
            self._promised.put(None)

    def finish(self) -> None:
        """Publish what `stage` has promised, and record it, until that has ended."""
        more = True
        try:
            while more:
                came = _come_together(self._promised, MOST_AT_ONCE)
                promised = [each for batch in came if batch for each in batch]
                more = None not in came
                if promised:
                    self._delivery.publish(promised)
                    self._land(each.drawn.flight for each in promised)
                    self.look_for_arrivals()
                self._delivery.publish_again()
        except StoppedError:
            return
        finally:
            self._ended.set()
            self._left.set()

    def dispose(self) -> None:
        """Clear up after what is recorded, in the run folder and in the inbox, until `finish` has ended."""
        try:
            while not self._ended.is_set():
                self._left.wait()
                self._left.clear()
                self._clear()
                self._delivery.dispose()
            self._delivery.dispose()  # what was recorded while the last look was taken
        except StoppedError:
            return

    def _clear(self) -> None:
        """Remove what the jobs that have landed had in the run folder."""
        while not self._landed.empty():
            stem = self._landed.get().stem
            for name in (f"{stem}.npy", f"{stem}-mask.npy", f"{stem}-probability.npy"):
                (self._scratch / name).unlink(missing_ok=True)

    def _stage_once(self) -> bool:
        """Whatever has come together since the last time; False once there will be no more."""
        came = _come_together(self._results, MOST_AT_ONCE)
        drawn = [result for result in came if isinstance(result, Drawn)]
        failed = [result for result in came if isinstance(result, Failed)]
        if drawn:
            promised, in_vain = self._delivery.promise(drawn)
            self._promised.put(promised)
            failed += [Failed(item.flight, TransientError(why), alone=True, drawn=True) for item, why in in_vain]
        for result in failed:
            self._record_as_failed(result)
        if len(drawn) < len(came):
            self._delivery.deliver_to_names()
            self._left.set()
        return not self._ending.is_set()

    def _record_as_failed(self, failed: Failed) -> None:
        """A failure that cannot be recorded as it is, is recorded as that."""
        flight = failed.flight
        named = _named("failure of", flight)
        if not self._set_aside.alone("stage", named, partial(self._fail, failed), waits=False):
            error = TransientError(self._set_aside.reason(named.key))
            self._fail(Failed(flight, error, alone=True, drawn=True))

    def look_for_arrivals(self) -> None:
        """An arrival may share a job that has ended already: its name gets its result too."""
        self._results.put(None)

    def try_again(self) -> None:
        """The time of something has come that was set aside."""
        self.look_for_arrivals()
        self._promised.put(())
        self._left.set()

    def _fail(self, failed: Failed) -> None:
        """Record a failure: tried again later, alone, or given up."""
        flight, error = failed.flight, failed.error
        if self._may_draw_again(failed):
            return
        decision = decide(
            error.error_class,
            attempts=flight.job.tries,
            crashes_alone=flight.job.crashes_alone,
            solo=flight.job.solo or failed.alone,
            now=datetime.now(UTC),
            random=random.random,
        )
        if isinstance(flight.answer, Segmented):
            self._delivery.unstage(flight.job)
        answer = error.answer if isinstance(error, NoMaskError) else None
        failure = Failure(error_class=error.error_class, error=error.message, advice=error.hint, answer=answer)
        try:
            self._store(lambda c: self._record_failure(c, flight, failure, decision))
        except StaleJobError as stale:
            self._log.error("job_moved_meanwhile", job_id=flight.id, error=str(stale))
        else:
            self._tell(flight, failure, decision)
            if decision.state is not State.QUEUED:
                self._set_aside.job_ended(flight.id)
        self._land([flight])

    def _may_draw_again(self, failed: Failed) -> bool:
        """A full outbox is not the scan's fault: wait until it can be written, then draw once more."""
        flight, answer = failed.flight, failed.flight.answer
        if failed.drawn or not isinstance(answer, Segmented) or not isinstance(failed.error, TransientError):
            return False
        flight.renders += 1
        if flight.renders > RENDERS_TRIED:
            return False
        self._pauses.until_possible("outbox", self._delivery.check_outbox)
        self._render(flight, answer)
        return True

    def _record_failure(self, connection: Connection, flight: Flight, failure: Failure, decision: Decision) -> None:
        now, claim, measured = datetime.now(UTC), flight.job.claim, flight.measured()
        if decision.state is State.QUEUED:
            jobs.retry_later(connection, claim, failure, decision, now=now, measured=measured)
        else:
            jobs.give_up(connection, claim, failure, decision, now=now, measured=measured)
        crash_point("record.begun")

    def _tell(self, flight: Flight, failure: Failure, decision: Decision) -> None:
        event = {State.QUEUED: "job_retried", State.QUARANTINED: "job_quarantined"}.get(decision.state, "job_failed")
        self._log.warning(
            event,
            job_id=flight.id,
            source=flight.job.source,
            error_class=failure.error_class.value,
            error=failure.error,
            reason=decision.why,
        )
        if decision.state is State.QUEUED and decision.not_before is not None:
            self._come_back(decision.not_before)
            self._wake.set()

    def _come_back(self, when: datetime) -> None:
        """Something in the queue is due then."""
        seconds = (when - datetime.now(UTC)).total_seconds()
        self._retry_at = min(self._retry_at, time.monotonic() + max(0.0, seconds))

    def _land(self, flights: Iterable[Flight]) -> None:
        """These are recorded: nothing of them is kept in mind, nor, a little later, in the run folder.

        A job that was put back into the queue may be under way again by now: that flight is another one, and stays.
        """
        for flight in flights:
            with self._lock:
                if self._flights.get(flight.id) is flight:
                    del self._flights[flight.id]
            self._landed.put(flight)
        self._left.set()
        self._wake.set()

    # -------------------------------------------------------------------------------------------------------- stop

    def no_more(self, seconds: float, hurry: threading.Event) -> None:
        """The replicas have stopped: let what they computed be drawn and delivered, then have `stage` end."""
        deadline = time.monotonic() + seconds
        while self._flights and time.monotonic() < deadline and not hurry.wait(DRAIN_STEP):
            pass
        self._ending.set()
        self._results.put(None)

    def release_all(self) -> None:
        """Give every job back that has not been recorded; a planned stop does not count as an attempt."""
        self._release(list(self._flights.values()))

    def _release(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            claim = flight.job.claim
            try:
                self._store(partial(_give_back, claim))
            except StaleJobError:
                continue  # it is being delivered: the next start finishes that
            except StoppedError:
                return  # the history cannot be written: the next start finds these jobs running, and queues them
        self._land(flights)

    def _store(self, work: Callable[[Connection], Any]) -> Any:
        """Write, and while the database cannot be written pause and try again."""
        return self._pauses.until_possible("state", lambda: self._database.write(work))


def _come_together(results: queue.SimpleQueue[T], most: int) -> list[T]:
    """What has come since the last time, the first of it waited for."""
    came = [results.get()]
    while len(came) < most and not results.empty():
        came.append(results.get())
    return came


def _named(doing: str, flight: Flight) -> Named:
    return job_named(flight.id, doing)


def _refusal(reason: str) -> Future[Any]:
    """What comes of a scan that is not even decoded: nobody can know what its sidecar was to say."""
    future: Future[Any] = Future()
    hint = "Correct it and drop it once more, with its scan."
    future.set_exception(InputError(reason, hint=hint))
    return future


def _give_back(claim: Claim, connection: Connection) -> None:
    jobs.release(connection, [claim], now=datetime.now(UTC))


def _job_error(error: BaseException) -> JobError:
    if isinstance(error, JobError):
        return error
    return TransientError(f"An imaging worker failed: {type(error).__name__}: {error}")


def _error_of(outcome: NotSegmented) -> JobError:
    """The replica's words as the error that they were."""
    if outcome.error_class is ErrorClass.NO_MASK:
        return NoMaskError(outcome.error, answer=outcome.answer, hint=outcome.hint)
    for kind in JobError.__subclasses__():
        if kind.error_class is outcome.error_class:
            return kind(outcome.error, hint=outcome.hint)
    return InputError(outcome.error, hint=outcome.hint)
