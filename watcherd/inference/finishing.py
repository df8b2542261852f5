"""What remains to be done for a frame once it is computed, done in a thread of its own while the device goes on."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from watcherd.inference.messages import FromReplica

MOST_BYTES = 256 * 2**20
"""So much may wait to be written; then the device waits too. A single step may be larger."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to finish. ``finish``: returns what the main process has to hear, if anything; raises nothing.
    ``bytes``: what it keeps in memory until then."""

    finish: Callable[[], FromReplica | None]
    bytes: int = 0


class Finisher:
    """Takes steps in order and sends what comes of them."""

    def __init__(self, send: Callable[[FromReplica], None]) -> None:
        self._send = send
        self._steps: deque[Step] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="finisher", daemon=True).start()

    def put(self, step: Step) -> None:
        """Have it finished soon; waits while too much waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + step.bytes <= MOST_BYTES)
            self._steps.append(step)
            self._bytes += step.bytes
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when everything that was put is finished and sent."""
        with self._changed:
            self._changed.wait_for(lambda: not self._steps)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._steps))
                step = self._steps[0]
            try:
                if (message := step.finish()) is not None:
                    self._send(message)
            except OSError:  # the main process is gone, which ends this one too; nobody is left to be answered
                pass
            with self._changed:
                self._steps.popleft()
                self._bytes -= step.bytes
                self._changed.notify_all()
