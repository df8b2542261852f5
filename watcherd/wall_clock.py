"""The wall clock, which people and time servers set, and the clock that only goes forward.

What is decided while the service runs is decided by the latter. Waits that outlive a restart are written down as times
of the wall clock, however; when that is set they are set with it, so that a wait stays as long as it was.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_SECONDS = 1.0
"""Seconds of a change between two looks that are a step; time servers slew a clock by half a millisecond a second."""


def _since_boot() -> float:
    """Seconds since the machine started, time asleep included, as the wall clock has it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WallClock:
    """Tells when the wall clock has been set. One thread asks."""

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def set_by(self) -> float:
        """Seconds by which it was set since the last look, negative for back; 0 when it was not."""
        before, self._ahead = self._ahead, self._wall() - self._steady()
        step = self._ahead - before
        return step if abs(step) >= STEP_SECONDS else 0.0
