"""The batches that wait for a replica. Whichever replica is free first takes the next one."""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from watcherd.inference.pool.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.inference.messages import WorkItem


@dataclass(slots=True)
class Batch:
    """A batch: scans leave ``waiting`` as they are answered for; ``items`` are all of it. Owned by the queue, then by
    the replica's thread that took it."""

    waiting: dict[int, WorkItem]
    items: Sequence[WorkItem]
    begun: set[int] = field(default_factory=set)
    taken_up: float = 0.0
    """When its replica had nothing else left to do, as of `time.monotonic`."""


class Batches:
    """The queue, the oldest batch first, behind one lock.

    The pipeline's thread puts batches, each replica's thread takes them through its own `Taker`, and the thread that
    stops the pool closes the queue.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Batch] = deque()
        self._takers: list[Taker] = []
        self._free: set[Taker] = set()
        self._closed = False

    def taker(self) -> Taker:
        """A new end of the queue, for one replica."""
        taker = Taker(self)
        with self._lock:
            self._takers = [*self._takers, taker]
        return taker

    def put(self, items: Sequence[WorkItem]) -> bool:
        """Add a batch and tell every replica; False, and nothing is added, once the queue is closed."""
        with self._lock:
            if self._closed:
                return False
            self._waiting.append(Batch(waiting={item.job_id: item for item in items}, items=items))
        self._ring_all()
        return True

    @property
    def scans(self) -> int:
        """How many scans are in the batches that wait."""
        with self._lock:
            return sum(len(batch.waiting) for batch in self._waiting)

    def has_room(self, live: int) -> bool:
        """Whether fewer batches wait than there are ``live`` replicas; never once the queue is closed."""
        with self._lock:
            return not self._closed and len(self._waiting) < live

    def hand_back(self) -> list[Batch]:
        """Close the queue, so that each replica finds its end. Returns the batches that nobody took."""
        with self._lock:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
        self._ring_all()
        return left

    def take(self) -> Batch | None:
        """See `Taker.take`."""
        with self._lock:
            if self._closed:
                return None
            if not self._waiting:
                raise queue.Empty
            return self._waiting.popleft()

    def take_ahead(self) -> Batch | None:
        """See `Taker.take_ahead`."""
        with self._lock:
            return None if self._free or self._closed or not self._waiting else self._waiting.popleft()

    def note(self, taker: Taker, *, free: bool) -> None:
        """See `Taker.note`."""
        with self._lock:
            (self._free.add if free else self._free.discard)(taker)

    def _ring_all(self) -> None:
        for taker in self._takers:
            taker.bell.ring()


class Taker:
    """One replica's end of the queue. Only that replica's thread uses it; ``bell`` rings when there may be a batch."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.bell = Bell()

    def take(self) -> Batch | None:
        """The next batch; None once the queue is closed. Raises `queue.Empty` when none waits: the bell tells."""
        return self._batches.take()

    def take_ahead(self) -> Batch | None:
        """The next batch for a replica that is busy; None when none waits, or another replica is free for it."""
        return self._batches.take_ahead()

    def note(self, *, free: bool) -> None:
        """Say whether this replica is free: then no other one takes work ahead of it."""
        self._batches.note(self, free=free)
