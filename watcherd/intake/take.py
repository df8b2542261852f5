"""Take settled files: copy them into the spool, then write them into the queue, a batch at a time."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.crash_points import crash_point
from watcherd.errors import TransientError
from watcherd.file_names import show
from watcherd.frame_files import as_frame
from watcherd.inbox.ingest import BATCH, take
from watcherd.inbox.values import Ingested
from watcherd.intake.sidecars import row_of
from watcherd.intake.waiting import FEW, settled_named
from watcherd.job import DEFAULT_MODEL
from watcherd.logs import get_logger
from watcherd.pauses import check_room, in_words, is_passing
from watcherd.set_aside import Named, file_named
from watcherd.store import Enqueued, ForModel, NewArrival, PathSignature, Turn, arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from watcherd.config import Config
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.inbox.settle import Settled
    from watcherd.inbox.sidecars import Asked
    from watcherd.inbox.spool import Spool
    from watcherd.inbox.values import Outcome
    from watcherd.inference.pool.lanes import Lane, Lanes
    from watcherd.intake.copies import Copies
    from watcherd.intake.fates import Fates
    from watcherd.intake.look import Sweeps
    from watcherd.intake.presence import InboxPresence
    from watcherd.intake.waiting import Waiting
    from watcherd.job import Options
    from watcherd.state.run import Run
    from watcherd.store import Connection, ModelIdentity

QUEUED_AT_ONCE = 64
"""Files in one transaction, at most, so that job updates never queue behind a large one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queueing:
    """A batch on its way into the queue. ``begun``: the transaction; gone once somebody has waited for it."""

    taken: Sequence[Ingested]
    new: Sequence[NewArrival]
    work: Callable[..., list[Enqueued]]
    begun: list[Future[list[Enqueued]]]

    @property
    def is_done(self) -> bool:
        """Whether nobody needs to wait: the transaction has ended, or has to be begun anew."""
        return not self.begun or self.begun[0].done()


class IntoQueue:
    """The batches that are on their way into the queue. The intake's thread owns it.

    Nobody waits until one is durable as long as few files wait for that. ``queued``: called when one is.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        requests: IntakeRequests,
        presence: InboxPresence,
        waiting: Waiting,
        fates: Fates,
        copies: Copies,
        queued: Callable[[], None],
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._requests = requests
        self._presence = presence
        self._waiting = waiting
        self._fates = fates
        self._copies = copies
        self._queued = queued
        self._log = get_logger()
        self._batches: deque[Queueing] = deque()

    def coming(self) -> set[str]:
        """The hashes of the scans that are on their way."""
        return {item.sha256 for batch in self._batches for item in batch.taken}

    def paths(self) -> set[bytes]:
        """Their paths."""
        return {item.path for batch in self._batches for item in batch.taken}

    def put(self, taken: Sequence[Ingested]) -> None:
        """Have files that lie in the spool written into the queue, once there is room for them."""
        try:
            self.finish(room_for=len(taken))
            for start in range(0, len(taken), QUEUED_AT_ONCE):
                piece = taken[start : start + QUEUED_AT_ONCE]
                for item in piece:
                    self._copies.keep(item.sha256)
                self._leave(self._run.set_aside.each("intake", piece, _taken_named, self._begin))
        except Exception:
            self._copies.doubt(item.sha256 for item in taken)
            raise

    def _leave(self, left: Sequence[Ingested]) -> None:
        """These are set aside, and copied anew when they are tried again."""
        self._copies.doubt(item.sha256 for item in left)
        self._fates.leave((item.path, _taken_named(item)) for item in left)

    def _begin(self, taken: Sequence[Ingested]) -> None:
        self._batches.append(self._enqueue(taken))

    def _enqueue(self, taken: Sequence[Ingested]) -> Queueing:
        """Have the whole batch written in one transaction; nothing leaves the inbox before it is durable."""
        now = datetime.now(UTC)
        model, run_id = self._lanes.get(DEFAULT_MODEL).intended, self._run.id
        named = {lane.name: lane.intended for lane in self._lanes.all()}
        new = self._arrivals(taken, now)
        sidecars = self._waiting.overrides.used(item.path for item in taken)

        def work(connection: Connection, which: Sequence[NewArrival] = new) -> list[Enqueued]:
            result = arrivals.enqueue(connection, which, model=model, named=named, run_id=run_id, now=now)
            if sidecars:
                arrivals.ignored(connection, sidecars, run_id=run_id, now=now)
            crash_point("enqueue.begun")
            return result

        few = len(new) <= FEW
        begun = self._run.database.submit(work, turn=Turn.SOON if few else Turn.LATER)
        if few:
            self._run.new_files_first.until(begun)
        begun.add_done_callback(lambda _: self._requests.wake.set())
        return Queueing(taken=taken, new=new, work=work, begun=[begun])

    def _arrivals(self, taken: Sequence[Ingested], now: datetime) -> list[NewArrival]:
        overrides, config = self._waiting.overrides, self._run.config
        # Without sidecars, what a scan is asked for depends on its folder alone, and a batch comes from few.
        of_folder = {item.path.rpartition(b"/")[0]: item.path for item in taken}
        options = {folder: _of_each_model(config, os.fsdecode(path)) for folder, path in of_folder.items()}
        joining = {lane.name: lane for lane in self._lanes.all() if lane.joins_files}
        new = []
        for item in taken:
            asked = overrides.asked(item.path)
            if asked.model is None:
                of_item = [asked.applied_to(each) for each in options[item.path.rpartition(b"/")[0]]]
            else:
                of_item = [_of_the_model_asked_for(config, os.fsdecode(item.path), asked)]
            first, *others = [
                self._for_a_model(each.for_picture(item.pictures), item.path, now, joining.get(each.model))
                for each in of_item
            ]
            new.append(
                NewArrival(
                    signature=_signature(item),
                    sha256=item.sha256,
                    spool_name=item.sha256,
                    options=first.options,
                    not_before=first.not_before,
                    overrides=asked.to_json(),
                    seen_at=now,
                    note=overrides.note(item.path),
                    beside=tuple(others),
                )
            )
        return new

    def _for_a_model(self, options: Options, path: bytes, now: datetime, joins: Lane[ModelIdentity] | None) -> ForModel:
        """What one model is to do with a file. For one that ``joins`` files, a frame of a run waits for the others, and
        a channel of a case too."""
        if joins is None:
            return ForModel(options=options)
        options = as_frame(options, path, follows_runs=joins.follows_runs, channels=joins.channels)
        return ForModel(options=options, not_before=now + self._presence.quiet if options.frame else None)

    def finish(self, *, wait: bool = False, room_for: int | None = None) -> None:
        """Deal with the batches that are in the queue by now; ``wait`` until all are, or until there is room."""
        while self._batches:
            waiting = sum(len(batch.taken) for batch in self._batches)
            full = room_for is not None and waiting + room_for > BATCH
            if not (wait or full or self._batches[0].is_done):
                break
            self._finish(self._batches[0])
            self._batches.popleft()

    def _finish(self, batch: Queueing) -> None:
        """Wait until a batch is in the queue."""

        def put(pairs: Sequence[tuple[Ingested, NewArrival]]) -> None:
            def result() -> list[Enqueued]:
                if batch.begun and len(pairs) == len(batch.taken):
                    return batch.begun.pop().result()
                return self._run.database.write(lambda c: batch.work(c, [arrival for _, arrival in pairs]))

            outcome = self._run.pauses.until_possible("state", result)
            results.extend(zip((item for item, _ in pairs), outcome, strict=True))

        results: list[tuple[Ingested, Enqueued]] = []
        both = list(zip(batch.taken, batch.new, strict=True))
        left = self._run.set_aside.each("intake", both, lambda pair: _taken_named(pair[0]), put)
        self._leave([item for item, _ in left])
        crash_point("enqueue.committed")
        log = self._log.bind()  # once for all: each call on the lazy logger would do it again
        for item, enqueued in results:
            self._waiting.settler.done(item.path)
            event = "arrival_duplicate" if enqueued.duplicate else "arrival_queued"
            log.debug(event, source=show(item.path), arrival_id=enqueued.arrival_id, job_id=enqueued.job_id)
        self._log.info("arrivals_queued", count=len(results))
        if any(enqueued.duplicate for _, enqueued in results):
            self._copies.look_again()  # nobody may need a duplicate's copy, and no scan may ever end to say so
        self._queued()


class Take:
    """Copies what has settled into the spool. The intake's thread owns it."""

    def __init__(
        self,
        run: Run,
        spool: Spool,
        presence: InboxPresence,
        waiting: Waiting,
        fates: Fates,
        sweeps: Sweeps,
        into_queue: IntoQueue,
    ) -> None:
        self._run = run
        self._spool = spool
        self._presence = presence
        self._waiting = waiting
        self._fates = fates
        self._sweeps = sweeps
        self._into_queue = into_queue

    def take_settled(self) -> None:
        """Copy what has settled into the spool and queue it, a batch at a time. Nobody waits for the database to make a
        batch durable as long as few files wait for that: the next ones are copied meanwhile."""
        settler, clock = self._waiting.settler, self._presence.clock
        while not self._run.stopping.is_set() and (batch := settler.settled(clock(), limit=BATCH)):
            try:
                self._take(batch)
            except Exception:
                self._put_back(batch)
                raise

    def _take(self, batch: list[Settled]) -> None:
        batch = self._with_sidecars(self._without_known(batch))
        if not batch:
            return
        outcomes = self._copied(batch)
        self._run.pauses.clear("spool")
        self._into_queue.put([outcome for outcome in outcomes if isinstance(outcome, Ingested)])
        self._fates.record([outcome for outcome in outcomes if not isinstance(outcome, Ingested)])

    def _put_back(self, batch: Sequence[Settled]) -> None:
        """The disk, the inbox or the database refused: forget what is not on its way; the next sweep finds it again."""
        under_way = self._into_queue.paths()
        for item in batch:
            if item.candidate.path not in under_way:
                self._waiting.settler.gone(item.candidate.path)
        self._sweeps.need()

    def _copied(self, batch: Sequence[Settled]) -> list[Outcome]:
        """What came of copying them into the spool; a file that fails in a way that nobody foresaw is set aside.

        Raises `TransientError` when the spool refuses for now.
        """
        outcomes: list[Outcome] = []

        def work(items: Sequence[Settled]) -> None:
            outcomes.extend(self._copy(items))

        try:
            left = self._run.set_aside.each("intake", batch, settled_named, work)
        except (OSError, TransientError) as error:
            if not is_passing(error):
                raise
            raise TransientError(in_words(error)) from error
        self._leave(left)
        return outcomes

    def _copy(self, batch: Sequence[Settled]) -> list[Outcome]:
        presence, config = self._presence, self._run.config
        check_room(self._spool.root, config.limits.min_free_mib)
        check_room(config.outbox.path, config.limits.min_free_mib)
        with self._run.set_aside.marked("intake", [settled_named(item) for item in batch]):
            leases = not presence.network
            return take(batch, presence.root, self._spool, leases=leases, sync_each=presence.sync_each)

    def _leave(self, left: Sequence[Settled]) -> None:
        self._fates.leave((item.candidate.path, settled_named(item)) for item in left)

    def _without_known(self, batch: list[Settled]) -> list[Settled]:
        """Leave out files that were taken before and lie in the inbox still."""
        under_way = self._into_queue.paths()
        if any(item.candidate.path in under_way for item in batch):  # what was taken before goes into the queue first
            self._into_queue.finish(wait=True)
        rows = {row_of(item.candidate.path, item.candidate): item for item in batch}
        with self._run.database.reader() as connection:
            known = arrivals.known(connection, list(rows))
        for row in known:
            self._waiting.settler.gone(row.path)
        return [item for row, item in rows.items() if row not in known]

    def _with_sidecars(self, batch: list[Settled]) -> list[Settled]:
        """Find out what sidecars ask for, and leave out scans whose sidecars are not finished."""
        presence, overrides = self._presence, self._waiting.overrides
        ready: list[Settled] = []

        def work(items: Sequence[Settled]) -> None:
            leases = not presence.network
            found, refused = overrides.ready(items, presence.root, presence.clock(), sure=presence.told, leases=leases)
            self._fates.record(refused)
            ready.extend(found)

        overrides.forget_asked()
        self._leave(self._run.set_aside.each("sidecars", batch, settled_named, work))
        return ready


def _of_each_model(config: Config, source: str) -> list[Options]:
    """What the models of its profile are to do with a scan."""
    return [config.options_for(source, model=model) for model in config.models_for(source)]


def _of_the_model_asked_for(config: Config, source: str, asked: Asked) -> Options:
    """What a scan is asked for whose sidecar names the model: that one computes it, and no other."""
    allowed = (*config.models_for(source), *config.sidecar_models(source))
    named = config.options_for(source, model=asked.model if asked.model in allowed else None)
    return asked.applied_to(named, dict.fromkeys(allowed))


def _signature(item: Ingested) -> PathSignature:
    return PathSignature.at(item.path, item.signature, item.ctime_ns)


def _taken_named(item: Ingested) -> Named:
    return file_named(item.path, item.signature.size, item.signature.mtime_ns)
