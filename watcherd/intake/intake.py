"""From the inbox to the queue: look, wait until settled, copy into the spool, one transaction.

One thread runs it, and owns the spool. Events are hints; the sweep is the truth.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from watcherd.crash_points import crash_point
from watcherd.errors import StoreError, TransientError
from watcherd.file_names import show, unshow
from watcherd.inbox import mounts
from watcherd.inbox.events import Events
from watcherd.inbox.folders import OpenFolders, open_root
from watcherd.inbox.ingest import BATCH, OPEN_FOR_WRITING, take
from watcherd.inbox.settle import Settled, Settler
from watcherd.inbox.sidecars import Asked, Sidecars
from watcherd.inbox.sweep import CHUNK, Chunk, IgnoreList, look, sweep
from watcherd.inbox.tidy import EmptyFolders, remove_if_empty
from watcherd.inbox.values import Candidate, Folder, Gone, Ignored, Ingested, NotYet, Outcome, Seen
from watcherd.intake.sidecars import Overrides
from watcherd.intake.sidecars import row_of as _row
from watcherd.logs import get_logger
from watcherd.pauses import RETRY_SECONDS, Pauses, StoppedError, check_room, in_words, is_passing
from watcherd.run_names import LONGEST, as_frame, quiet_time
from watcherd.set_aside import Named, file_named, path_named
from watcherd.store import (
    Database,
    Enqueued,
    Hold,
    InUse,
    ModelIdentity,
    NewArrival,
    PathSignature,
    Turn,
    arrivals,
    leftovers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from watcherd.config import Config
    from watcherd.inbox.spool import Spool
    from watcherd.job import Options
    from watcherd.new_files_first import NewFilesFirst
    from watcherd.set_aside import SetAside
    from watcherd.store import Connection

PRESENCE_SECONDS = 2.0
"""Between two looks whether the inbox is still the folder that it was."""
JUMP_SECONDS = 5.0
"""A turn of the loop that took this long means that the process was stopped, or the machine asleep: sweep."""
WAITING_IS_NEWS = 5.0
"""A file that settles longer than this has a row, so that its fate can be queried."""
FEW = 8
"""So few files go into the queue before all other work; more of them are in no hurry."""
QUEUED_AT_ONCE = 64
"""So many files at most share a call of the database: what the jobs have to write does not wait longer."""
CLEANED_AT_ONCE = 256
CLEAN_SECONDS = 1.0
"""While scans are being finished, copies that nobody needs are looked for no more often."""
DISPOSAL_SECONDS = 60.0
"""Between two tries to take sources out of the inbox that could not be taken out."""
ONCE_PATIENCE = 5.0
"""With ``--once`` an unfinished file that nobody is known to write is waited for no longer than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxState:
    """The inbox as ``watcherd status`` shows it."""

    online: bool = False
    reason: str = "not looked at yet"
    filesystem: str = ""
    sweep_seconds: float = 0.0
    last_sweep_ms: float | None = None
    swept_at: str | None = None
    settling: int = 0
    events: bool = False


class Intake:
    """Turns files of the inbox into jobs."""

    def __init__(
        self,
        config: Config,
        database: Database,
        spool: Spool,
        pauses: Pauses,
        new_files_first: NewFilesFirst,
        set_aside: SetAside,
        *,
        run_id: int,
        model: Callable[[], ModelIdentity],
        queued: Callable[[], None],
        stopping: threading.Event,
        once: bool = False,
        follows_runs: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._database = database
        self._spool = spool
        self._pauses = pauses
        self._new_files_first = new_files_first
        self._set_aside = set_aside
        self._run_id = run_id
        self._model = model
        self._queued = queued
        self._stopping = stopping
        self._once = once
        self._follows_runs = follows_runs
        self._began = datetime.now(UTC)
        self._clock = clock
        self._log = get_logger()
        self._wake = threading.Event()
        self._ignore = IgnoreList(config.inbox.ignore)
        self._events = Events(config.inbox.path, self._ignore, wake=self._wake.set, warn=self._warn)
        self._presence = mounts.Presence(online=False, identity=None)
        self._network = False
        self._sync_each = False
        self._wait_for_files()
        self._sweeps: deque[tuple[float, Iterator[Chunk], bool]] = deque()
        self._next_sweep = float("-inf")
        self._next_presence = float("-inf")
        self._next_disposal = float("-inf")
        self._sweep_again = False
        self._skipped = False
        """Whether a sweep has left out a folder that could not be read."""
        self._full_sweeps = 0
        self._folders = EmptyFolders([os.fsencode(profile.folder) for profile in config.profiles.values()])
        self._root: int | None = None
        self.turned_at = clock()
        self._cleaning = True
        self._next_clean = float("-inf")
        self._forgetting: Future[list[str]] | None = None
        self._came_again: set[str] = set()
        self._leaving: deque[str] = deque()
        self._queueing: deque[_Queueing] = deque()
        self.errands: deque[Callable[[], None]] = deque()
        """Things that others want done by the thread that owns the spool."""
        self.state = InboxState()

    # What others ask

    @property
    def idle(self) -> bool:
        """Whether everything in the inbox has been looked at and taken, as far as can be known."""
        waiting = len(self._settler) or self._overrides.waiting
        return self._full_sweeps > 0 and not (self._sweeps or waiting or self._sweep_again or self.errands)

    def wake(self) -> None:
        """Have the loop turn now."""
        self._wake.set()

    def hold(self) -> Hold:
        """How long the frames of a run wait for one another. May be asked from another thread."""
        quiet = self._quiet_time()
        most = self._config.limits.max_frames
        return Hold(quiet=quiet, longest=LONGEST * quiet, since=self._began, most=most, expected=self._may_still_bring)

    def in_use(self) -> InUse:
        """The model that would run a job now, and what its scan is asked for. May be asked from another thread."""
        return InUse(identity=self._model(), options=self._options_now)

    def _options_now(self, path: bytes, overrides: Mapping[str, Any] | None) -> Options:
        """What a scan is to be done with by the configuration as it is now.

        ``overrides``: what its sidecars said when it was taken, as it is kept with its job.
        """
        options = Asked.of(overrides or {}).applied_to(self._config.options_for(os.fsdecode(path)))
        return as_frame(options, path) if self._follows_runs else options

    def clock_was_set(self, seconds: float) -> None:
        """The wall clock was set by so many seconds: frames that had been waiting before wait no longer for that."""
        self._began += timedelta(seconds=seconds)

    def sweep_now(self) -> None:
        """Look at the whole inbox as soon as possible."""
        self._next_sweep = float("-inf")
        self._wake.set()

    def scans_finished(self) -> None:
        """Some scans need their copy in the spool no longer."""
        if not self._cleaning:
            self._cleaning = True
            self._wake.set()

    def reconfigure(self, config: Config) -> None:
        """Use another configuration from the next file on; the folders stay what they were."""
        self._config = config
        self._ignore = IgnoreList(config.inbox.ignore)
        self._wake.set()

    # The loop

    def run(self) -> None:
        """Work until the daemon stops."""
        if self._config.inbox.events:
            self._events.start()
        try:
            while not self._stopping.is_set():
                self._turn()
            self._finish_queueing(wait=True)
            self._gather_forgotten(wait=True)
            self._remove()
        except StoppedError:
            pass
        finally:
            self._events.stop()
            self._close()

    def _turn(self) -> None:
        """Look at what is due, take what has settled, then wait for the next thing to do."""
        self._wake.clear()
        try:
            self._finish_queueing()
            self._gather_forgotten(wait=bool(self.errands))
            self._run_errands()
            if not self._is_online():
                self._wake.wait(PRESENCE_SECONDS)
                return
            self._notice()
            due = self._settler.due(self._clock())
            with self._ahead(len(due)):
                self._look_again(due)
                self._take_settled()
            self._clean()
        except OSError as error:  # the inbox itself does not answer: look whether it is still there
            self._next_presence = float("-inf")
            self._look_anew()  # what was told of the files of this turn is told no more
            self._pauses.set("inbox", in_words(error))
            self._stopping.wait(RETRY_SECONDS)
            return
        except (TransientError, StoreError) as error:  # what was not taken is found again by the next sweep
            if not is_passing(error):
                raise
            self._pauses.set("state" if isinstance(error, StoreError) else "spool", in_words(error))
            self._look_anew()
            self._stopping.wait(RETRY_SECONDS)
            return
        self._pauses.clear("inbox")
        self._pauses.clear("state")
        self._wake.wait(self._pause())

    def _look_anew(self) -> None:
        """Sweep again: a sweep that an error has cut short would pass for one that has found nothing more."""
        self._sweeps.clear()
        self._sweep_again = True

    def _run_errands(self) -> None:
        if self.errands:  # one may put a copy into the spool that is about to go
            self._remove()
        while self.errands:
            self.errands.popleft()()

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        now = self._clock()
        if self._leaving or (self._sweeps and self._settler.room >= CHUNK):
            return 0.0
        due = [self._next_sweep, self._next_presence]
        due += [when for when in (self._settler.next_wakeup(), self._overrides.next_wakeup) if when is not None]
        if self._cleaning and self._forgetting is None:
            due.append(self._next_clean)
        return max(0.0, min(due) - now)

    # The inbox as a whole

    def _is_online(self) -> bool:
        now = self._clock()
        if now - self.turned_at > max(JUMP_SECONDS, 2 * PRESENCE_SECONDS):
            self._next_sweep = float("-inf")
        self.turned_at = now
        if now < self._next_presence:
            return self._presence.online
        self._next_presence = now + PRESENCE_SECONDS
        before = self._presence
        self._presence = mounts.presence(before.identity, mounts.identify(self._config.inbox.path))
        if self._presence.online and (self._presence.renewed or self._root is None):
            self._open()
        self._show()
        if not self._presence.online and (before.online or before.reason != self._presence.reason):
            self._log.warning("inbox_offline", error=self._presence.reason)
            self._close()
        elif self._presence.online and not before.online:
            self._log.info("inbox_online", filesystem=self.state.filesystem)
            self._queued()  # sources whose jobs have ended can leave it now
        return self._presence.online

    def _open(self) -> None:
        """The inbox is there, or is another folder than before: watch and sweep all of it."""
        identity = self._presence.identity
        assert identity is not None
        self._close()
        self._root = open_root(self._config.inbox.path)
        mount = mounts.mount_at(self._config.inbox.path)
        self._network = mount.is_network if mount else False
        self._sync_each = mount.passes_no_syncfs if mount else False
        self._wait_for_files()
        self._sweeps.clear()
        self._next_sweep = float("-inf")
        if self._config.inbox.events:
            self._events.rewatch()
        self._dispose_again()

    def _dispose_again(self) -> None:
        """Have sources taken out of the inbox where that has failed: the cause may be gone."""
        self._next_disposal = self._clock() + DISPOSAL_SECONDS
        if self._store(leftovers.retry_disposals):
            self._queued()

    def _close(self) -> None:
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def _wait_for_files(self) -> None:
        """Begin to wait for files and their sidecars, with nothing remembered."""
        inbox = self._config.inbox
        settle = mounts.settle_seconds(inbox.settle_seconds, network=self._network)
        limit = inbox.settle_limit_seconds
        self._settler = Settler(settle_seconds=settle, limit_seconds=limit)
        sidecars = Sidecars(settle_seconds=settle, limit_seconds=min(limit, ONCE_PATIENCE) if self._once else limit)
        self._overrides = Overrides(sidecars, self._settler, self._database, self._set_aside, run_id=self._run_id)

    def _show(self) -> None:
        identity = self._presence.identity
        self.state = InboxState(
            online=self._presence.online,
            reason=self._presence.reason,
            filesystem=identity.fs_type if identity else "",
            sweep_seconds=self._sweep_seconds(),
            last_sweep_ms=self.state.last_sweep_ms,
            swept_at=self.state.swept_at,
            settling=len(self._settler),
            events=self._events.complete,
        )

    def _sweep_seconds(self) -> float:
        return mounts.sweep_seconds(
            self._config.inbox.sweep_seconds,
            network=self._network,
            events_complete=self._events.complete,
            last_took=(self.state.last_sweep_ms or 0) / 1000,
        )

    def _soon(self, took: float) -> float:
        """Seconds until the next sweep where the last one could not read some folder, and ``took`` so long."""
        return mounts.sweep_seconds("auto", network=True, events_complete=False, last_took=took)

    def _warn(self, sentence: str) -> None:
        self._log.warning("inbox_events_incomplete", reason=sentence)

    # Looking

    def _notice(self) -> None:
        """Follow hints, go on with sweeps."""
        root = self._root
        assert root is not None
        now = self._clock()
        hints = self._events.fetch()
        for folder in hints.folders:
            self._folders.came(folder)
            self._sweeps.append((now, sweep(root, self._ignore, folder=folder, entering=self._enter), False))
        with self._ahead(len(hints.paths)):
            self._look_at(hints.paths, hinted=True)
        if hints.sweep or now >= self._next_sweep or (self._sweep_again and self._settler.room >= CHUNK):
            self._start_sweep(root, now)
        while self._sweeps and self._settler.room >= CHUNK and not self._stopping.is_set():
            self._advance_sweep()

    def _ahead(self, files: int) -> AbstractContextManager[None]:
        """While so many files are looked at or taken: a few go before all other work of the daemon."""
        return self._new_files_first.first() if 0 < files <= FEW else nullcontext()

    def _look_again(self, due: Iterable[bytes]) -> None:
        """Look whether files, and what lies beside them, are as they were."""
        root = self._root
        assert root is not None
        self._look_at(due)
        self._overrides.judge(
            root, self._ignore, self._clock(), tell=self._tell, ignored=self._record_ignored, store=self._store
        )

    def _look_at(self, paths: Iterable[bytes], *, hinted: bool = False) -> None:
        root = self._root
        assert root is not None
        with OpenFolders(root) as folders:

            def look_at(path: bytes) -> None:
                self._tell(look(root, self._ignore, path, folders), hinted=hinted)

            for path in paths:
                named = path_named(path)
                if self._set_aside.holds(named.key):
                    continue
                if not self._set_aside.alone("intake", named, partial(look_at, path)):
                    self._settler.gone(path)

    def _start_sweep(self, root: int, now: float) -> None:
        if self._config.inbox.events and not self._events.running:
            self._events.rewatch()  # this sweep sets the watches
        self._next_sweep = now + self._sweep_seconds()
        if not any(full for _, _, full in self._sweeps):
            self._sweep_again = False
            self._sweeps.append((now, sweep(root, self._ignore, entering=self._enter), True))

    def _enter(self, folder: bytes) -> None:
        """A sweep is about to read a folder."""
        self._events.watch(folder)  # first, so that nothing slips in between
        if self._root is not None:
            self._overrides.entering(self._root, folder)

    def _advance_sweep(self) -> None:
        """Take the next chunk of the oldest sweep."""
        began, chunks, full = self._sweeps[0]
        chunk = self._next_chunk(chunks)
        if chunk is not None:
            self._skipped = self._skipped or bool(chunk.skipped)
            self._look_through(chunk)
            return
        self._sweeps.popleft()
        if self._skipped and not full:
            self._next_sweep = min(self._next_sweep, self._clock() + mounts.NETWORK_SWEEP)
        if full:
            self._forget_gone()
            if self._clock() >= self._next_disposal:
                self._dispose_again()
            took = self._clock() - began
            self._full_sweeps += 1
            self._next_sweep = self._clock() + (self._soon(took) if self._skipped else self._sweep_seconds())
            self._skipped = False
            self.state = replace(
                self.state,
                last_sweep_ms=round(took * 1000, 1),
                swept_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )

    def _next_chunk(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """What a sweep finds next; nothing more of one that fails, for the next sweep looks at all of it again."""
        found: list[Chunk | None] = []
        named = Named(key="sweep", item="a sweep of the inbox")
        self._set_aside.alone("intake", named, lambda: found.append(next(chunks, None)))
        return found[0] if found else None

    def _look_through(self, chunk: Chunk) -> None:
        """Tell the settler of what is new; things that are no scans get their row."""
        items: list[Candidate | Ignored] = [*chunk.candidates, *chunk.ignored]
        found = {_row(item.path, item): item for item in items}
        with self._database.reader() as connection:
            known = arrivals.known(connection, list(found))
        ignored = []
        for row, item in found.items():
            if row in known:
                continue
            if isinstance(item, Candidate):
                named = path_named(item.path)
                if not self._set_aside.holds(named.key):
                    self._set_aside.alone("intake", named, partial(self._observe, item))
            else:
                ignored.append(item)
        self._record_ignored(ignored)

    def _forget_gone(self) -> None:
        """Files that were set aside, and have left the inbox since."""
        root = self._root
        assert root is not None
        for shown in self._set_aside.files():
            if isinstance(look(root, self._ignore, unshow(shown)), Gone):
                self._set_aside.gone(shown)

    def _observe(self, candidate: Candidate, *, hinted: bool = False) -> None:
        if self._set_aside.holds_anything and self._set_aside.holds(_named(candidate).key):
            return
        if self._overrides.takes(candidate, self._clock(), hinted=hinted):
            return
        if not self._settler.observe(candidate, self._clock(), hinted=hinted):
            self._sweep_again = True

    def _tell(self, seen: Seen | None, *, hinted: bool = False) -> None:
        """Pass on what one look showed."""
        if isinstance(seen, Candidate):
            self._observe(seen, hinted=hinted)
        elif isinstance(seen, Ignored):
            self._settler.gone(seen.path)
            self._record_ignored([seen])
        elif isinstance(seen, Folder):
            root = self._root
            assert root is not None
            walk = sweep(root, self._ignore, folder=seen.path, entering=self._enter)
            self._sweeps.append((self._clock(), walk, False))
        elif isinstance(seen, Gone):
            self._settler.gone(seen.path)
            self._store(lambda c: arrivals.vanished(c, [seen.path], now=datetime.now(UTC)))

    def _record_ignored(self, ignored: Sequence[Ignored]) -> None:
        if ignored:
            self._set_aside.each("intake", ignored, lambda item: path_named(item.path), self._record_these)

    def _record_these(self, ignored: Sequence[Ignored]) -> None:
        rows = [(_row(item.path, item), item.reason) for item in ignored]
        with self._database.reader() as connection:
            known = arrivals.known(connection, [row for row, _ in rows])
        news = [(row, reason) for row, reason in rows if row not in known]
        if news:
            now = datetime.now(UTC)
            self._store(lambda c: arrivals.ignored(c, news, run_id=self._run_id, now=now))
            for row, reason in news:
                self._log.info("arrival_ignored", source=show(row.path), reason=reason)

    # Taking

    def _take_settled(self) -> None:
        """Copy what has settled into the spool and queue it, a batch at a time. Nobody waits for the database to make a
        batch durable as long as few files wait for that: the next ones are copied meanwhile."""
        while not self._stopping.is_set() and (batch := self._settler.settled(self._clock(), limit=BATCH)):
            batch = self._with_sidecars(self._without_known(batch))
            if not batch:
                continue
            outcomes = self._copied(batch)
            self._pauses.clear("spool")
            taken = [outcome for outcome in outcomes if isinstance(outcome, Ingested)]
            self._finish_queueing(room_for=len(taken))
            for start in range(0, len(taken), QUEUED_AT_ONCE):
                piece = taken[start : start + QUEUED_AT_ONCE]
                for item in piece:
                    self._keep(item.sha256)
                left = self._set_aside.each("intake", piece, _taken_named, self._begin_queueing)
                self._leave((item.path, _taken_named(item)) for item in left)
            self._record([outcome for outcome in outcomes if not isinstance(outcome, Ingested)])

    def _copied(self, batch: Sequence[Settled]) -> list[Outcome]:
        """What came of copying them into the spool; a file that fails in a way that nobody foresaw is set aside."""
        outcomes: list[Outcome] = []

        def work(items: Sequence[Settled]) -> None:
            outcomes.extend(self._copy(items))

        try:
            left = self._set_aside.each("intake", batch, _settled_named, work)
        except (OSError, TransientError) as error:
            self._put_back(batch, error)
        self._leave((item.candidate.path, _settled_named(item)) for item in left)
        return outcomes

    def _copy(self, batch: Sequence[Settled]) -> list[Outcome]:
        root = self._root
        assert root is not None
        check_room(self._spool.root, self._config.limits.min_free_mib)
        check_room(self._config.outbox.path, self._config.limits.min_free_mib)
        with self._set_aside.marked("intake", [_settled_named(item) for item in batch]):
            return take(batch, root, self._spool, leases=not self._network, sync_each=self._sync_each)

    def _put_back(self, batch: Sequence[Settled], error: Exception) -> NoReturn:
        """The spool refused: forget the batch, which the next sweep finds again, and say why."""
        for item in batch:
            self._settler.gone(item.candidate.path)
        self._sweep_again = True
        if not is_passing(error):
            raise error
        raise TransientError(in_words(error)) from error

    def _leave(self, items: Iterable[tuple[bytes, Named]]) -> None:
        """These are set aside: they have a row with the reason, and are not waited for until their time comes."""
        for path, named in items:
            self._settler.gone(path)
            self._note_waiting(NotYet(path=path, reason=f"set aside: {self._set_aside.reason(named.key)}"))

    def _without_known(self, batch: list[Settled]) -> list[Settled]:
        """Leave out files that were taken before and lie in the inbox still."""
        under_way = {item.path for queueing in self._queueing for item in queueing.taken}
        if any(item.candidate.path in under_way for item in batch):  # what was taken before goes into the queue first
            self._finish_queueing(wait=True)
        rows = {_row(item.candidate.path, item.candidate): item for item in batch}
        with self._database.reader() as connection:
            known = arrivals.known(connection, list(rows))
        for row in known:
            self._settler.gone(row.path)
        return [item for row, item in rows.items() if row not in known]

    def _with_sidecars(self, batch: list[Settled]) -> list[Settled]:
        """Find out what sidecars ask for, and leave out scans whose sidecars are not finished."""
        root = self._root
        assert root is not None
        sure = self._events.complete and not self._network
        ready: list[Settled] = []

        def work(items: Sequence[Settled]) -> None:
            found, refused = self._overrides.ready(items, root, self._clock(), sure=sure, leases=not self._network)
            self._record(refused)
            ready.extend(found)

        self._overrides.forget_asked()
        left = self._set_aside.each("sidecars", batch, _settled_named, work)
        self._leave((item.candidate.path, _settled_named(item)) for item in left)
        return ready

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        """What became of the files that were not taken."""
        for outcome in outcomes:
            if isinstance(outcome, NotYet):
                if self._once and not outcome.reason.endswith(OPEN_FOR_WRITING):  # itself, or its sidecar
                    outcome = replace(outcome, patience=ONCE_PATIENCE)  # noqa: PLW2901 - the same, less patient
                self._settler.wait(outcome, self._clock())
                self._note_waiting(outcome)
            else:
                self._settler.gone(outcome.path)
                if isinstance(outcome, Gone):
                    self._tell(outcome)
        self._record_ignored([outcome for outcome in outcomes if isinstance(outcome, Ignored)])

    def _begin_queueing(self, taken: Sequence[Ingested]) -> None:
        self._queueing.append(self._enqueue(taken))

    def _enqueue(self, taken: Sequence[Ingested]) -> _Queueing:
        """Have the whole batch written in one transaction; nothing leaves the inbox before it is durable."""
        now = datetime.now(UTC)
        model = self._model()
        # Without sidecars, what a scan is asked for depends on its folder alone, and a batch comes from few.
        of_folder = {item.path.rpartition(b"/")[0]: item.path for item in taken}
        options = {folder: self._config.options_for(os.fsdecode(path)) for folder, path in of_folder.items()}
        new = []
        for item in taken:
            asked = self._overrides.asked(item.path)
            new.append(
                NewArrival(
                    signature=_taken(item),
                    sha256=item.sha256,
                    spool_name=item.sha256,
                    options=asked.applied_to(options[item.path.rpartition(b"/")[0]]),
                    overrides=asked.to_json(),
                    seen_at=now,
                    note=self._overrides.note(item.path),
                )
            )
        if self._follows_runs:
            new = [self._held_back(arrival) for arrival in new]
        sidecars = self._overrides.used(item.path for item in taken)

        def work(connection: Connection, which: Sequence[NewArrival] = new) -> list[Enqueued]:
            result = arrivals.enqueue(connection, which, model=model, run_id=self._run_id, now=now)
            if sidecars:
                arrivals.ignored(connection, sidecars, run_id=self._run_id, now=now)
            crash_point("enqueue.begun")
            return result

        few = len(new) <= FEW
        begun = self._database.submit(work, turn=Turn.SOON if few else Turn.LATER)
        if few:
            self._new_files_first.until(begun)
        begun.add_done_callback(lambda _: self._wake.set())
        return _Queueing(taken=taken, new=new, work=work, begun=[begun])

    def _held_back(self, arrival: NewArrival) -> NewArrival:
        """A frame of a run waits for the others."""
        options = as_frame(arrival.options, arrival.signature.path)
        if not options.frame:
            return arrival
        return replace(arrival, options=options, not_before=arrival.seen_at + self._quiet_time())

    def _quiet_time(self) -> timedelta:
        told = self._events.complete and not self._network
        return quiet_time(self._config.inbox.run_quiet_seconds, sweep_seconds=self._sweep_seconds(), told=told)

    def _may_still_bring(self, before: bytes) -> bool:
        """Whether files whose paths begin so may lie in the inbox and not in the queue yet."""
        swept = self._full_sweeps > 0 and not (self._sweeps or self._sweep_again)
        return not swept or self._settler.expects(before)

    def _finish_queueing(self, *, wait: bool = False, room_for: int | None = None) -> None:
        """Deal with the batches that are in the queue by now; ``wait`` until all are, or until there is room."""
        while self._queueing:
            waiting = sum(len(queueing.taken) for queueing in self._queueing)
            full = room_for is not None and waiting + room_for > BATCH
            if not (wait or full or self._queueing[0].is_done):
                break
            self._finish(self._queueing[0])
            self._queueing.popleft()

    def _finish(self, queueing: _Queueing) -> None:
        """Wait until a batch is in the queue."""

        def put(pairs: Sequence[tuple[Ingested, NewArrival]]) -> None:
            def result() -> list[Enqueued]:
                if queueing.begun and len(pairs) == len(queueing.taken):
                    return queueing.begun.pop().result()
                return self._database.write(lambda c: queueing.work(c, [arrival for _, arrival in pairs]))

            outcome = self._pauses.until_possible("state", result)
            results.extend(zip((item for item, _ in pairs), outcome, strict=True))

        results: list[tuple[Ingested, Enqueued]] = []
        both = list(zip(queueing.taken, queueing.new, strict=True))
        left = self._set_aside.each("intake", both, lambda pair: _taken_named(pair[0]), put)
        self._leave((item.path, _taken_named(item)) for item, _ in left)
        crash_point("enqueue.committed")
        log = self._log.bind()  # once for all: each call on the lazy logger would do it again
        for item, enqueued in results:
            self._settler.done(item.path)
            event = "arrival_duplicate" if enqueued.duplicate else "arrival_queued"
            log.debug(event, source=show(item.path), arrival_id=enqueued.arrival_id, job_id=enqueued.job_id)
        self._log.info("arrivals_queued", count=len(results))
        # The copy of a scan that was done before is needed by nobody, and nothing may come of it that ends.
        self._cleaning = self._cleaning or any(enqueued.duplicate for _, enqueued in results)
        self._queued()

    def _store(self, work: Callable[[Connection], Any]) -> Any:
        """Write, and while the database cannot be written pause and try again."""
        return self._pauses.until_possible("state", lambda: self._database.write(work))

    def _note_waiting(self, refused: NotYet) -> None:
        """A file that is waited for in earnest has a row with the reason."""
        if refused.seen is None and self._root is not None:
            root = self._root
            self._set_aside.alone("intake", path_named(refused.path), lambda: self._note(root, refused))

    def _note(self, root: int, refused: NotYet) -> None:
        seen = look(root, self._ignore, refused.path)
        if isinstance(seen, Candidate):
            rows = [(_row(seen.path, seen), refused.reason)]
            self._store(lambda c: arrivals.settling(c, rows, run_id=self._run_id, now=datetime.now(UTC)))

    # Cleaning

    def folder_emptied(self, path: bytes) -> None:
        """A source left the inbox; its folder may have become empty."""
        self._folders.emptied(path.rpartition(b"/")[0], self._clock())

    def _forget(self) -> Future[list[str]]:
        return self._database.submit(lambda c: leftovers.forget_spooled(c, CLEANED_AT_ONCE))

    def _gather_forgotten(self, *, wait: bool = False) -> None:
        """Learn which copies may go from the transaction that `_clean` began: once it is done, or ``wait`` for it."""
        if self._forgetting is None or not (wait or self._forgetting.done()):
            return
        begun: list[Future[list[str]]] = [self._forgetting]

        def result() -> list[str]:
            forgetting = begun.pop() if begun else self._forget()
            return forgetting.result()

        names = self._pauses.until_possible("state", result)
        self._forgetting = None
        self._leaving.extend(name for name in names if name not in self._came_again)
        self._came_again.clear()
        if len(names) == CLEANED_AT_ONCE:
            self._cleaning, self._next_clean = True, float("-inf")

    def _keep(self, sha256: str) -> None:
        """The same bytes have come again: their copy stays, for the row that is about to be written."""
        if self._forgetting is not None:
            self._came_again.add(sha256)
        if sha256 in self._leaving:
            self._leaving.remove(sha256)

    def _remove(self, until: Callable[[], bool] = lambda: False) -> None:
        """Remove copies that nobody needs, one at least, and no more ``until`` then."""
        while self._leaving:
            self._spool.remove(self._leaving.popleft())
            if until():
                return

    def _has_to_look(self) -> bool:
        """Whether somebody has woken us, or a file is due."""
        due = self._settler.next_wakeup()
        return self._wake.is_set() or (due is not None and due <= self._clock())

    def _clean(self) -> None:
        """Have copies forgotten that nobody needs any more, remove some, and folders that have long been empty."""
        self._remove(until=self._has_to_look)  # new files do not wait for hundreds of these
        now = self._clock()
        if self._cleaning and not self._leaving and self._forgetting is None and now >= self._next_clean:
            self._cleaning = False  # before looking: what finishes meanwhile asks again
            self._next_clean = now + (0.0 if self._once else CLEAN_SECONDS)
            self._came_again = {item.sha256 for queueing in self._queueing for item in queueing.taken}
            self._forgetting = self._forget()
            self._forgetting.add_done_callback(lambda _: self._wake.set())
        if self._root is not None:
            for folder in self._folders.due(self._clock()):
                remove_if_empty(self._root, folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Queueing:
    """A batch on its way into the queue. ``begun``: the transaction; gone once somebody has waited for it."""

    taken: Sequence[Ingested]
    new: Sequence[NewArrival]
    work: Callable[..., list[Enqueued]]
    begun: list[Future[list[Enqueued]]]

    @property
    def is_done(self) -> bool:
        """Whether nobody needs to wait: the transaction has ended, or has to be begun anew."""
        return not self.begun or self.begun[0].done()


def _taken(item: Ingested) -> PathSignature:
    return PathSignature.at(item.path, item.signature, item.ctime_ns)


def _named(candidate: Candidate) -> Named:
    return file_named(candidate.path, candidate.signature.size, candidate.signature.mtime_ns)


def _settled_named(item: Settled) -> Named:
    return _named(item.candidate)


def _taken_named(item: Ingested) -> Named:
    return file_named(item.path, item.signature.size, item.signature.mtime_ns)
