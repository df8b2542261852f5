"""What the stations of the pipeline hand to one another, and how one rings for another: queues and events."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.delivery.promise import Promised
    from watcherd.flights import Drawn, Failed, Flight

T = TypeVar("T")

MOST_AT_ONCE = 64
"""Scans that share a transaction at a station, at most."""


class Due:
    """When the next job in the queue may be claimed. Behind a lock: `feed` and `stage` tell it, `feed` asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("inf")

    def tell(self, when: datetime) -> None:
        """Something in the queue is due then."""
        seconds = (when - datetime.now(UTC)).total_seconds()
        with self._lock:
            self._at = min(self._at, time.monotonic() + max(0.0, seconds))

    @property
    def seconds(self) -> float:
        """Until something is due; negative when it has been for a while, infinite when nothing is known of."""
        with self._lock:
            return self._at - time.monotonic()

    def forget_past(self) -> None:
        """What was due by now has been looked for."""
        with self._lock:
            if time.monotonic() >= self._at:
                self._at = float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Belts:
    """The queues between the stations, and their bells. Each queue is emptied by one thread.

    ``results``: from `feed`, replicas and workers to `stage`; None: look for arrivals. ``promised``: from `stage` to
    `finish`; None at the end. ``landed``: from all to `dispose`, which clears up after them.
    ``bell``: there may be something in the queue of jobs; heard by `feed`, as is ``due``. ``left``: there may be
    something for `dispose`. ``held``: set while a person has paused the work. ``ending``: no more results will come;
    ``ended``: `finish` has ended.
    """

    bell: threading.Event
    results: queue.SimpleQueue[Drawn | Failed | None] = field(default_factory=queue.SimpleQueue)
    promised: queue.SimpleQueue[Sequence[Promised] | None] = field(default_factory=queue.SimpleQueue)
    landed: queue.SimpleQueue[Flight] = field(default_factory=queue.SimpleQueue)
    due: Due = field(default_factory=Due)
    left: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def look_for_arrivals(self) -> None:
        """An arrival may share a job that has ended already: its name gets its result too."""
        self.results.put(None)


def come_together(belt: queue.SimpleQueue[T], most: int = MOST_AT_ONCE) -> list[T]:
    """What has come since the last time, the first of it waited for."""
    came = [belt.get()]
    while len(came) < most and not belt.empty():
        came.append(belt.get())
    return came
