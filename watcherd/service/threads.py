"""The threads of the service's parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from watcherd.errors import WatcherdError
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from watcherd.service.ending import Ending


class Threads:
    """Starts a thread for each part, by name, and waits for it at the end. For the main thread."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._threads: dict[str, threading.Thread] = {}
        self._log = get_logger()

    def start(self, name: str, target: Callable[[], None]) -> None:
        """Run ``target`` in a thread of its own. If it fails, the service ends: it must not only look alive."""

        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                self._log.exception("daemon_part_failed", kind=name)
                self._ending.fail(WatcherdError(f"The part {name!r} failed: {type(error).__name__}: {error}"))

        thread = NamedThread(target=guarded, name=name, daemon=True)
        self._threads[name] = thread
        thread.start()

    def join(self, name: str, seconds: float) -> None:
        """Wait for a part to end, unless somebody hurries us; a part that was never started has ended."""
        thread = self._threads.get(name)
        deadline = time.monotonic() + seconds
        while thread and thread.is_alive() and time.monotonic() < deadline and not self._ending.hurry.is_set():
            thread.join(0.1)
