"""Which frames of a run may still be on their way: kept by the intake, asked by whoever claims jobs."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class Expected:
    """What the intake knows of files that are not in the queue yet. Behind one lock: two threads use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._swept = False
        self._waiting: set[bytes] = set()
        self._quiet = timedelta()
        self._since = datetime.now(UTC)

    def swept(self, whole: bool) -> None:
        """Whether the whole inbox has been looked at, so that every file in it is known."""
        with self._lock:
            self._swept = whole

    def waits_for(self, path: bytes) -> None:
        """This file is waited for."""
        with self._lock:
            self._waiting.add(path)

    def forget(self, path: bytes) -> None:
        """It is waited for no longer: it is in the queue, or gone."""
        with self._lock:
            self._waiting.discard(path)

    def forget_all(self) -> None:
        """Nothing is waited for any more."""
        with self._lock:
            self._waiting.clear()

    def set_quiet(self, quiet: timedelta) -> None:
        """How long no frame must have come for a run to be complete."""
        with self._lock:
            self._quiet = quiet

    def clock_was_set(self, seconds: float) -> None:
        """The wall clock was set by so many seconds: what had been waiting before waits no longer for that."""
        with self._lock:
            self._since += timedelta(seconds=seconds)

    @property
    def quiet(self) -> timedelta:
        """How long no frame must have come for a run to be complete."""
        with self._lock:
            return self._quiet

    @property
    def since(self) -> datetime:
        """When the service began to know of frames that wait."""
        with self._lock:
            return self._since

    def may_bring(self, before: bytes) -> bool:
        """Whether files whose paths begin so may lie in the inbox and not in the queue yet."""
        with self._lock:
            return not self._swept or any(path.startswith(before) for path in self._waiting)
