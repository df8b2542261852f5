"""New files go first: whoever works off the queue makes way while a few files are on their way into it.

All parts of the daemon share one interpreter, and often two cores. Under a backlog they are never idle, and a file that
comes then has to wait its turn at each of the hundred steps that queue it, 3 ms of work that take 100. Whoever is in no
hurry asks `NewFilesFirst.give_way` before each scan, and lets such a file pass.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

LONGEST = 0.1
"""Seconds that others wait at most: what takes longer is held up itself, by a disk or a share."""


class NewFilesFirst:
    """Who goes first at the moment. Shared by all threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ahead = 0
        self._since = 0.0
        self._nobody = threading.Event()
        self._nobody.set()

    @property
    def is_taken(self) -> bool:
        """Whether somebody goes first."""
        return not self._nobody.is_set()

    @contextmanager
    def first(self) -> Iterator[None]:
        """What is done inside goes first."""
        self._begin()
        try:
            yield
        finally:
            self._end()

    def until(self, done: Future[Any]) -> None:
        """What leads to ``done`` goes first, whoever does it."""
        self._begin()
        done.add_done_callback(lambda _: self._end())

    def give_way(self) -> None:
        """Wait while somebody goes first, though not for one who has for `LONGEST`."""
        if self.is_taken:
            self._nobody.wait(max(0.0, self._since + LONGEST - self._clock()))

    def _begin(self) -> None:
        with self._lock:
            if not self._ahead:
                self._since = self._clock()
                self._nobody.clear()
            self._ahead += 1

    def _end(self) -> None:
        with self._lock:
            self._ahead -= 1
            if not self._ahead:
                self._nobody.set()
