"""Wait until a file has stopped changing. Pure: what was seen, and when, is passed in.

Only our own observation times count. A file's mtime says nothing: copies keep old ones, and hosts' clocks differ.
A file is settled when two looks at it, at least the settle time apart, show the same, and no event came in between.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from watcherd.inbox.expected import Expected

if TYPE_CHECKING:
    from watcherd.inbox.values import Candidate, NotYet

CAPACITY = 16_384
"""Files that are waited for at a time, about 1 kB each; the sweep is left waiting with the others."""

SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 60.0
"""Seconds between looks at a file that cannot be taken yet; the pauses grow with the waiting."""

STALE = 1024
"""Items of forgotten files that may stand in the queue before it is cleared of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """A file that may be taken. ``overdue``: as it is, finished or not; it has been waited for long enough."""

    candidate: Candidate
    overdue: bool


class _Stage(Enum):
    """How far a file has come with us."""

    QUIET = auto()
    """The queue says when to look at it."""
    ASKED = auto()
    """`due` has asked for a look."""
    READY = auto()
    """That look showed nothing new."""
    TAKEN = auto()
    """`settled` has given it away; `done`, `gone` or `wait` will say what came of it."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    """A file that is waited for.

    ``quiet_since``: when it was last seen to change. ``due``: when to look next; ``queued``: where its item stands in
    the queue, which may be earlier. ``reason`` and ``patience``: of the last `NotYet`.
    """

    candidate: Candidate
    quiet_since: float
    due: float
    queued: float = float("inf")
    stage: _Stage = _Stage.QUIET
    reason: str = ""
    patience: float | None = None


class Settler:
    """The files that are waited for.

    ``settle_seconds``: how long a file must not change. ``limit_seconds``: how long one is waited for that does not
    change and still cannot be taken. All times are seconds of one monotonic clock. ``expected``: told which files are
    waited for, at once.

    One thread uses it, in turns of `observe` what was seen, `due` and a look at each, `settled` and taking them.
    """

    def __init__(
        self,
        *,
        settle_seconds: float,
        limit_seconds: float,
        capacity: int = CAPACITY,
        expected: Expected | None = None,
    ) -> None:
        self._settle = settle_seconds
        self._limit = max(limit_seconds, settle_seconds)
        self._capacity = capacity
        self._expected = expected or Expected()
        self._waiting: dict[bytes, _Waiting] = {}
        self._queue: list[tuple[float, int, _Waiting]] = []
        self._pushed = 0
        self._ready: deque[_Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: bytes) -> bool:
        return path in self._waiting

    @property
    def room(self) -> int:
        """How many more files can be waited for; at 0 leave the sweep where it is."""
        return max(0, self._capacity - len(self._waiting))

    def waiting(self) -> list[tuple[bytes, str]]:
        """The paths that are waited for, with the reason where it is more than a change a moment ago."""
        return [(path, entry.reason) for path, entry in self._waiting.items()]

    def observe(self, candidate: Candidate, now: float, *, hinted: bool = False) -> bool:
        """Tell what a look at a file showed.

        ``hinted``: an event says that something has happened to it, even if it looks as before (the file system's
        clock is coarse). Returns False when there is no room for a file that was not waited for yet: nothing is
        remembered of it, and a later sweep has to find it again.
        """
        entry = self._waiting.get(candidate.path)
        if entry is None:
            return self._add(candidate, now)
        if hinted or entry.candidate != candidate:
            entry.candidate, entry.quiet_since = candidate, now
            entry.reason, entry.patience = "", None
            self._look_at(entry, now + self._settle)
        elif entry.stage is _Stage.ASKED:
            self._judge(entry, now)
        return True

    def _add(self, candidate: Candidate, now: float) -> bool:
        if not self.room:
            return False
        entry = self._waiting[candidate.path] = _Waiting(candidate=candidate, quiet_since=now, due=now)
        self._expected.waits_for(candidate.path)
        self._look_at(entry, now + self._settle)
        return True

    def _judge(self, entry: _Waiting, now: float) -> None:
        """A look that was asked for has shown the same as before."""
        if now - entry.quiet_since >= self._settle:
            entry.stage = _Stage.READY
            self._ready.append(entry)
        else:
            self._look_at(entry, entry.quiet_since + self._settle)

    def due(self, now: float, limit: int = 1000) -> list[bytes]:
        """Paths to look at now: tell `observe` what each showed, or `gone`."""
        paths: list[bytes] = []
        while self._queue and self._queue[0][0] <= now and len(paths) < limit:
            when, _, entry = heapq.heappop(self._queue)
            if not self._stands(entry, when):
                continue
            entry.queued = float("inf")
            if entry.due > now:  # it has changed since it was put here
                self._look_at(entry, entry.due)
            else:
                entry.stage = _Stage.ASKED
                paths.append(entry.candidate.path)
        return paths

    def settled(self, now: float, limit: int = 256) -> list[Settled]:
        """Files to be taken now; afterwards say what came of each by `done`, `gone` or `wait`."""
        chosen: list[Settled] = []
        while self._ready and len(chosen) < limit:
            entry = self._ready.popleft()
            if entry.stage is _Stage.READY and self._waiting.get(entry.candidate.path) is entry:
                entry.stage = _Stage.TAKEN
                overdue = bool(entry.reason) and now - entry.quiet_since >= self._longest(entry)
                chosen.append(Settled(candidate=entry.candidate, overdue=overdue))
        return chosen

    def wait(self, refused: NotYet, now: float) -> None:
        """A settled file could not be taken: look again, less and less often, until it is overdue."""
        entry = self._waiting.get(refused.path)
        if entry is None:
            return
        if refused.seen is not None and refused.seen != entry.candidate:
            self.observe(refused.seen, now)
            return
        entry.reason, entry.patience = refused.reason, refused.patience
        waited = now - entry.quiet_since
        pause = min(max(self._settle, waited / 2, SHORTEST_PAUSE), LONGEST_PAUSE)
        left = self._longest(entry) - waited
        self._look_at(entry, now + (min(pause, left) if left > 0 else pause))

    def _longest(self, entry: _Waiting) -> float:
        return self._limit if entry.patience is None else min(entry.patience, self._limit)

    def done(self, path: bytes) -> None:
        """Forget a path that was taken, unless it has changed since: then it is waited for anew."""
        entry = self._waiting.get(path)
        if entry is not None and entry.stage is _Stage.TAKEN:
            self.gone(path)

    def gone(self, path: bytes) -> None:
        """Forget a path: it is ignored, or there is nothing there any more."""
        if self._waiting.pop(path, None) is not None:
            self._expected.forget(path)
        if len(self._queue) > 2 * len(self._waiting) + STALE:
            self._queue = [item for item in self._queue if self._stands(item[2], item[0])]
            heapq.heapify(self._queue)

    def next_wakeup(self) -> float | None:
        """When `due` or `settled` may have something next; None while nothing is waited for."""
        if self._ready:
            return float("-inf")
        return self._queue[0][0] if self._queue else None

    def _look_at(self, entry: _Waiting, due: float) -> None:
        """Ask for a look at ``due``. An item that stands earlier in the queue is moved there when its turn comes:
        a file that changes all the time costs one item for a settle time, not one for a change."""
        entry.stage, entry.due = _Stage.QUIET, due
        if due < entry.queued:
            entry.queued = due
            self._pushed += 1
            heapq.heappush(self._queue, (due, self._pushed, entry))

    def _stands(self, entry: _Waiting, when: float) -> bool:
        """Whether an item of the queue is its entry's own, and not of one that was moved or forgotten."""
        return entry.queued == when and self._waiting.get(entry.candidate.path) is entry
