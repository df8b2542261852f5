"""Which files are not in the queue yet: the intake tells, and the threads that claim jobs or end the service ask."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class Expected:
    """What the intake knows of files that are not in the queue yet.

    Behind one lock: the intake's thread writes it, the claiming thread and the main thread read it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._swept = False
        self._waiting: set[bytes] = set()
        self._sidecars = False
        self._quiet = timedelta()
        self._since = datetime.now(UTC)

    # ------------------------------------------------------------------------------------------- for the intake alone

    def begin(self, quiet: timedelta) -> None:
        """The intake begins: frames that were left from earlier runs wait from now on."""
        with self._lock:
            self._quiet, self._since = quiet, datetime.now(UTC)

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

    def sidecars(self, waiting: bool) -> None:
        """Whether some sidecar's fate is open."""
        with self._lock:
            self._sidecars = waiting

    def set_quiet(self, quiet: timedelta) -> None:
        """How long no frame must have come for a run to be complete."""
        with self._lock:
            self._quiet = quiet

    def clock_was_set(self, seconds: float) -> None:
        """The wall clock was set by so many seconds: what had been waiting before waits no longer for that."""
        with self._lock:
            self._since += timedelta(seconds=seconds)

    # ---------------------------------------------------------------------------------------------- for all threads

    @property
    def quiet(self) -> timedelta:
        """How long no frame must have come for a run to be complete."""
        with self._lock:
            return self._quiet

    @property
    def since(self) -> datetime:
        """Since when this run of the service has known of frames that wait, by the wall clock."""
        with self._lock:
            return self._since

    def may_bring(self, before: bytes) -> bool:
        """Whether files whose paths begin so may lie in the inbox and not in the queue yet."""
        with self._lock:
            return not self._swept or any(path.startswith(before) for path in self._waiting)

    @property
    def nothing(self) -> bool:
        """Whether everything in the inbox has been looked at and taken, as far as can be known."""
        with self._lock:
            return self._swept and not self._waiting and not self._sidecars
