"""The wall clock, which people and time servers set, and the clock that only goes forward.

What is decided while the service runs is decided by the latter. Waits that outlive a restart are written down as times
of the wall clock, however; when that is set they are set with it, so that a wait stays as long as it was.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""File with an id that is new after each start of the machine (random(4))."""

STEP_SECONDS = 1.0
"""Seconds of a change between two looks that are a step; time servers slew a clock by half a millisecond a second."""


def _since_boot() -> float:
    """Seconds since the machine started, time asleep included, as the wall clock has it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The clocks at one moment. ``wall``: seconds since 1970 as the wall clock has it; ``steady``: since the machine's
    start ``boot``."""

    wall: float
    steady: float
    boot: str

    @classmethod
    def now(cls) -> Self:
        """This moment."""
        boot = ""
        with suppress(OSError):
            boot = BOOT_ID.read_text().strip()
        return cls(wall=time.time(), steady=_since_boot(), boot=boot)

    def since(self, before: Reading) -> float:
        """Seconds that have passed at least: what the machine was off for is not known."""
        return max(0.0, self.steady - before.steady) if self.boot == before.boot else self.steady


SLACK = DAY
"""Seconds that the wall clock may be ahead of the time that has passed for sure: the machine may have been off."""

LASTS = 3 * DAY
"""Seconds that a wall clock must have gone on, and not have been set, until it is believed whatever it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief:
    """What is believed of the wall clock before anything is removed for its age.

    ``trusted``: seconds since 1970 that it is now at least; None: nothing is known yet. ``at``: the last look.
    ``lasted``: seconds that the wall clock has gone on since it was last set, as far as that was seen.
    """

    trusted: float | None
    at: Reading
    lasted: float = 0.0

    @property
    def is_doubted(self) -> bool:
        """Whether the wall clock is ahead of what is known."""
        return self.trusted is None or self.trusted < self.at.wall

    def to_json(self) -> str:
        """As it is kept from one look to the next."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """What `to_json` wrote; None for anything else."""
        with suppress(ValueError, TypeError, KeyError):
            values = json.loads(text or "null")
            trusted, lasted = values["trusted"], float(values["lasted"])
            at = Reading(
                wall=float(values["at"]["wall"]), steady=float(values["at"]["steady"]), boot=values["at"]["boot"]
            )
            if all(map(math.isfinite, (at.wall, at.steady, lasted, trusted or 0.0))):
                return cls(trusted=None if trusted is None else float(trusted), at=at, lasted=lasted)
        return None


def believed(before: Belief | None, now: Reading) -> Belief:
    """What is believed now, after what was believed at the last look.

    The wall clock is, where it is no more than `SLACK` ahead of the time that has passed for sure, or has gone on for
    `LASTS`. A clock that was set far ahead is not: the time that has passed counts meanwhile.
    """
    if before is None:
        return Belief(trusted=None, at=now)
    passed = now.since(before.at)
    lasted = before.lasted + passed if abs(now.wall - before.at.wall - passed) <= SLACK else 0.0
    trusted = None if before.trusted is None else before.trusted + passed
    if lasted >= LASTS or (trusted is not None and now.wall <= trusted + SLACK):
        trusted = now.wall
    return Belief(trusted=trusted, at=now, lasted=lasted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The wall clock was set. ``seconds``: by how much, negative for back; ``before``: what it showed, as it goes now,
    when it had last been seen to be right. It was set at some moment after that."""

    seconds: float
    before: float


class WallClock:
    """Tells when the wall clock has been set. One thread asks."""

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._seen = steady()
        self._ahead = wall() - self._seen

    @property
    def ahead(self) -> float:
        """Seconds by which it was ahead of the steady one at the last look."""
        return self._ahead

    def set_by(self) -> Step | None:
        """The step by which it was set since the last look, if it was."""
        ahead, seen = self._ahead, self._seen
        self._seen = self._steady()
        self._ahead = self._wall() - self._seen
        step = self._ahead - ahead
        return Step(seconds=step, before=seen + self._ahead) if abs(step) >= STEP_SECONDS else None


class WaitsClock:
    """The wall clock by which waits are judged: the one that was, until those that are written down have been set with
    the one that is. The main thread sees to that; all ask."""

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def now(self) -> datetime:
        """What it shows."""
        wall, before = self._wall(), self._steady() + self._ahead
        return datetime.fromtimestamp(wall if abs(wall - before) < STEP_SECONDS else before, UTC)

    def waits_are_set(self, ahead: float) -> None:
        """All are of the clock that was so far ahead of the steady one (`WallClock.ahead`)."""
        self._ahead = ahead
