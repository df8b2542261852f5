"""Whether the service is to end, and why: a signal asked for it, or a part of it has failed."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.errors import WatcherdError


class Ending:
    """What signals and failing parts tell the main thread. Any thread may call `fail`.

    ``asked``: the service is to stop. ``hurry``: somebody asked twice. ``reload``: the configuration is to be read
    again. ``wake``: ends the main thread's pause.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.hurry = threading.Event()
        self.reload = threading.Event()
        self.wake = threading.Event()
        self._lock = threading.Lock()
        self._failure: WatcherdError | None = None
        self._signals = 0

    @property
    def failure(self) -> WatcherdError | None:
        """What ends the service; None while nothing has failed."""
        with self._lock:
            return self._failure

    @property
    def by_signal(self) -> bool:
        """Whether a signal asked for the end."""
        return self._signals > 0

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop the service, a second one hurries it; SIGHUP reloads. For the main thread."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def fail(self, error: WatcherdError) -> None:
        """End the service with this error; the first one counts."""
        with self._lock:
            self._failure = self._failure or error
        self.asked.set()
        self.wake.set()

    # Python runs signal handlers in the main thread, so that only it counts.

    def _on_stop(self, *_: object) -> None:
        self._signals += 1
        if self._signals > 1:
            self.hurry.set()
        self.asked.set()
        self.wake.set()

    def _on_reload(self, *_: object) -> None:
        self.reload.set()
        self.wake.set()
