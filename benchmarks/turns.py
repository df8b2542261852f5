"""Ways of doing the same work, compared while they take short turns: the others stand still by SIGSTOP.

A machine's speed changes from second to second, with what else it does and with what other machines beside it do. Ways
that run one after the other meet different machines; ways that take short turns meet the same one, and the ratio of
their times is that of their work. Nobody gains by standing still, but for a sync to disk that ends meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SLICE = 0.15
"""Seconds of a turn: four equal ways differed by 3 % in 2 s each, by 5 % in turns of 0.5 s or of 0.05 s."""
LONG_SLICE = 0.5
"""Where one of them waits for the disk most of the time: of shorter turns more would be given to it, see above."""


class Way(Protocol):
    """One way of doing the work, in processes of their own.

    ``group``: their process group; ``repeats``: how often it goes over the same scans, to take time enough.
    """

    repeats: int

    @property
    def group(self) -> int: ...
    def cpu_seconds(self) -> float:
        """Of all its processes until now."""
        ...

    def prepare(self, scans: Path) -> None:
        """Do for a folder of scans what does not count."""
        ...

    def begin(self) -> float:
        """Be told to work through it; how many seconds it waits at first, which do not count either."""
        ...

    def wait(self, seconds: float) -> float | None:
        """Let it work for so long; when it was done, as of `time.time`, None when it is not."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One way over one folder of scans. Seconds for each scan, of the clock and of the CPU."""

    seconds: float
    cpu_seconds: float


@dataclass(kw_only=True, slots=True)
class Course:
    """One way's course: what it waits for at first, its turns from and to, the CPU that it had used before."""

    waits: float
    cpu: float
    slices: list[tuple[float, float]] = field(default_factory=list)

    def seconds_until(self, end: float) -> float:
        return sum(min(to, end) - since for since, to in self.slices if since < end) - self.waits


def take_turns(ways: Mapping[str, Way], folders: Mapping[str, Path], slice_seconds: float = SLICE) -> dict[str, Turn]:
    """Let every way work through its folder, ``slice_seconds`` at a time, until all are done."""
    counts = {name: way.repeats * sum(1 for _ in folders[name].iterdir()) for name, way in ways.items()}
    taken: dict[str, Turn] = {}
    for name, way in ways.items():
        way.prepare(folders[name])
    try:
        for way in ways.values():
            os.killpg(way.group, signal.SIGSTOP)
        courses = {name: Course(cpu=way.cpu_seconds(), waits=way.begin()) for name, way in ways.items()}
        while len(taken) < len(ways):
            for name, way in ways.items():
                if name not in taken and (end := _go_on(way, courses[name], slice_seconds)) is not None:
                    cpu = way.cpu_seconds() - courses[name].cpu
                    seconds = courses[name].seconds_until(end)
                    taken[name] = Turn(seconds=seconds / counts[name], cpu_seconds=cpu / counts[name])
    finally:
        for way in ways.values():
            with suppress(ProcessLookupError):
                os.killpg(way.group, signal.SIGCONT)
    return taken


def _go_on(way: Way, course: Course, seconds: float) -> float | None:
    """One turn; when the way was done, if it is: then it may go on, for it has nothing to do."""
    since = time.time()
    os.killpg(way.group, signal.SIGCONT)
    end = way.wait(seconds if course.slices else seconds + course.waits)
    if end is None:
        os.killpg(way.group, signal.SIGSTOP)
    course.slices.append((since, time.time()))
    return end
