"""Look at the inbox: events are hints, the sweep is the truth. What was seen goes to those who wait for it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from watcherd.file_names import unshow
from watcherd.inbox import mounts
from watcherd.inbox.folders import OpenFolders
from watcherd.inbox.sweep import CHUNK, look, sweep
from watcherd.inbox.values import Candidate, Folder, Gone, Ignored
from watcherd.intake.sidecars import row_of
from watcherd.intake.waiting import candidate_named
from watcherd.set_aside import Named, path_named
from watcherd.store import arrivals, leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from watcherd.inbox.expected import Expected
    from watcherd.inbox.sweep import Chunk
    from watcherd.inbox.tidy import EmptyFolders
    from watcherd.inbox.values import Seen
    from watcherd.intake.fates import Fates
    from watcherd.intake.presence import InboxPresence
    from watcherd.intake.waiting import Waiting
    from watcherd.state.run import Run

DISPOSAL_SECONDS = 60.0
"""Seconds between two tries to take sources out of the inbox that could not be taken out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep under way. ``full``: of the whole inbox, not of a folder in it."""

    began: float
    chunks: Iterator[Chunk]
    full: bool = False


class Sweeps:
    """The sweeps under way, oldest first, and whether another one is needed. The intake's thread owns it.

    It tells `Expected` whether every file of the inbox is known: after the first sweep, and while none is under way.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._under_way: deque[Sweep] = deque()
        self._is_needed = False
        self._full = 0

    @property
    def are_under_way(self) -> bool:
        """Whether there is any."""
        return bool(self._under_way)

    @property
    def is_needed(self) -> bool:
        """Whether something was missed that only a sweep will find."""
        return self._is_needed

    @property
    def full(self) -> int:
        """How often the whole inbox was swept."""
        return self._full

    @property
    def oldest(self) -> Sweep:
        """The one that is to go on."""
        return self._under_way[0]

    def begin(self, new: Sweep) -> None:
        """Begin a sweep; a full one only while there is no other, and what was missed is found by it."""
        if new.full:
            if any(other.full for other in self._under_way):
                return
            self._is_needed = False
        self._under_way.append(new)
        self._tell()

    def end_oldest(self) -> None:
        """It has come to its end."""
        self._under_way.popleft()
        self._tell()

    def count_full(self) -> None:
        """The whole inbox has been swept."""
        self._full += 1
        self._tell()

    def need(self) -> None:
        """Something was missed: sweep again when there is room."""
        self._is_needed = True
        self._tell()

    def begin_anew(self) -> None:
        """Forget the sweeps under way: one that an error has cut short would pass for one that found nothing more."""
        self._under_way.clear()
        self.need()

    def _tell(self) -> None:
        self._expected.swept(self._full > 0 and not (self._under_way or self._is_needed))


class Look:
    """Follows hints and goes on with sweeps, and passes on what they show. The intake's thread owns it.

    ``queued``: called when sources may leave the inbox that could not before.
    """

    def __init__(
        self,
        run: Run,
        presence: InboxPresence,
        waiting: Waiting,
        fates: Fates,
        expected: Expected,
        folders: EmptyFolders,
        queued: Callable[[], None],
    ) -> None:
        self._run = run
        self._presence = presence
        self._waiting = waiting
        self._fates = fates
        self._expected = expected
        self._folders = folders
        self._queued = queued
        self.sweeps = Sweeps(expected)
        self._next_sweep = float("-inf")
        self._next_disposal = float("-inf")
        self._skipped = False
        """Whether a sweep has left out a folder that could not be read."""

    @property
    def next_wakeup(self) -> float:
        """When there is something to look at, besides the files that are waited for."""
        return float("-inf") if self._can_go_on else self._next_sweep

    @property
    def _can_go_on(self) -> bool:
        return self.sweeps.are_under_way and self._waiting.settler.room >= CHUNK

    def sweep_soon(self) -> None:
        """Begin a sweep in this turn."""
        self._next_sweep = float("-inf")

    # ------------------------------------------------------------------------------------------ hints and sweeps

    def notice(self) -> None:
        """Follow hints, go on with sweeps."""
        now = self._presence.clock()
        hints = self._presence.events.fetch()
        for folder in hints.folders:
            self._folders.came(folder)
            self.sweeps.begin(Sweep(began=now, chunks=self._walk(folder)))
        with self._waiting.ahead(len(hints.paths)):
            self.look_at(hints.paths, hinted=True)
        missed = self.sweeps.is_needed and self._waiting.settler.room >= CHUNK
        if hints.sweep or now >= self._next_sweep or missed:
            self._start_sweep(now)
        while self._can_go_on and not self._run.stopping.is_set():
            self._advance_sweep()

    def look_again(self, due: Iterable[bytes]) -> None:
        """Look whether files, and what lies beside them, are as they were."""
        self.look_at(due)
        presence = self._presence
        self._waiting.overrides.judge(
            presence.root,
            presence.ignore,
            presence.clock(),
            tell=self._tell,
            ignored=self._fates.ignored,
            store=self._run.write,
        )

    def look_at(self, paths: Iterable[bytes], *, hinted: bool = False) -> None:
        """Look at files. ``hinted``: an event says that something has happened to them."""
        root = self._presence.root
        with OpenFolders(root) as folders:

            def look_at(path: bytes) -> None:
                self._tell(look(root, self._presence.ignore, path, folders), hinted=hinted)

            for path in paths:
                named = path_named(path)
                if self._run.set_aside.holds(named.key):
                    continue
                if not self._run.set_aside.alone("intake", named, partial(look_at, path)):
                    self._waiting.settler.gone(path)

    def _walk(self, folder: bytes = b"") -> Iterator[Chunk]:
        return sweep(self._presence.root, self._presence.ignore, folder=folder, entering=self._enter)

    def _start_sweep(self, now: float) -> None:
        if self._run.config.inbox.events and not self._presence.events.running:
            self._presence.events.rewatch()  # this sweep sets the watches
        self._next_sweep = now + self._presence.sweep_seconds
        self.sweeps.begin(Sweep(began=now, chunks=self._walk(), full=True))

    def _enter(self, folder: bytes) -> None:
        """A sweep is about to read a folder."""
        self._presence.events.watch(folder)  # first, so that nothing slips in between
        if self._presence.is_open:
            self._waiting.overrides.entering(self._presence.root, folder)

    def _advance_sweep(self) -> None:
        """Take the next chunk of the oldest sweep."""
        oldest = self.sweeps.oldest
        chunk = self._next_chunk(oldest.chunks)
        if chunk is not None:
            self._skipped = self._skipped or bool(chunk.skipped)
            self._look_through(chunk)
            return
        self.sweeps.end_oldest()
        if oldest.full:
            self._end_full_sweep(oldest)
        elif self._skipped:
            self._next_sweep = min(self._next_sweep, self._presence.clock() + mounts.NETWORK_SWEEP)

    def _end_full_sweep(self, done: Sweep) -> None:
        clock = self._presence.clock
        self._forget_gone()
        if clock() >= self._next_disposal:
            self.dispose_again()
        took = clock() - done.began
        self.sweeps.count_full()
        self._next_sweep = clock() + (_soon(took) if self._skipped else self._presence.sweep_seconds)
        self._skipped = False
        self._presence.swept(took)
        self._expected.set_quiet(self._presence.quiet)

    def dispose_again(self) -> None:
        """Have sources taken out of the inbox where that has failed: the cause may be gone."""
        self._next_disposal = self._presence.clock() + DISPOSAL_SECONDS
        if self._run.write(leftovers.retry_disposals):
            self._queued()

    def _next_chunk(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """What a sweep finds next; nothing more of one that fails, for the next sweep looks at all of it again."""
        found: list[Chunk | None] = []
        named = Named(key="sweep", item="a sweep of the inbox")
        self._run.set_aside.alone("intake", named, lambda: found.append(next(chunks, None)))
        return found[0] if found else None

    def _look_through(self, chunk: Chunk) -> None:
        """Tell the settler of what is new; things that are no scans get their row."""
        items: list[Candidate | Ignored] = [*chunk.candidates, *chunk.ignored]
        found = {row_of(item.path, item): item for item in items}
        with self._run.database.reader() as connection:
            known = arrivals.known(connection, list(found))
        ignored = []
        for row, item in found.items():
            if row in known:
                continue
            if isinstance(item, Candidate):
                named = path_named(item.path)
                if not self._run.set_aside.holds(named.key):
                    self._run.set_aside.alone("intake", named, partial(self._observe, item))
            else:
                ignored.append(item)
        self._fates.ignored(ignored)

    def _forget_gone(self) -> None:
        """Files that were set aside, and have left the inbox since."""
        for shown in self._run.set_aside.files():
            if isinstance(look(self._presence.root, self._presence.ignore, unshow(shown)), Gone):
                self._run.set_aside.gone(shown)

    # -------------------------------------------------------------------------------------------- what was seen

    def _observe(self, candidate: Candidate, *, hinted: bool = False) -> None:
        set_aside, now = self._run.set_aside, self._presence.clock()
        if set_aside.holds_anything and set_aside.holds(candidate_named(candidate).key):
            return
        if self._waiting.overrides.takes(candidate, now, hinted=hinted):
            self._waiting.tell_of_sidecars()
        elif not self._waiting.settler.observe(candidate, now, hinted=hinted):
            self.sweeps.need()

    def _tell(self, seen: Seen | None, *, hinted: bool = False) -> None:
        """Pass on what one look showed."""
        if isinstance(seen, Candidate):
            self._observe(seen, hinted=hinted)
        elif isinstance(seen, Ignored):
            self._waiting.settler.gone(seen.path)
            self._fates.ignored([seen])
        elif isinstance(seen, Folder):
            self.sweeps.begin(Sweep(began=self._presence.clock(), chunks=self._walk(seen.path)))
        elif isinstance(seen, Gone):
            self._fates.vanished(seen.path)


def _soon(took: float) -> float:
    """Seconds until the next sweep where the last one could not read some folder, and ``took`` so long."""
    return mounts.sweep_seconds("auto", network=True, events_complete=False, last_took=took)
