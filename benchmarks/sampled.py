"""Run watcherd and put its main process's CPU down to the package that spends it.

    python -m benchmarks.sampled REPORT ARGUMENTS OF watcherd ...

A thread reads every other thread's CPU clock and stack some hundred times a second. What a thread has spent since the
last look belongs to the innermost function of watcherd in its stack: a commit to ``store``, a rename to ``outbox``.
SIGUSR2 forgets what was spent so far; the report is written at the end. The clocks are exact, the split is a sample:
a thread is more often seen where it lets others run.
"""

from __future__ import annotations

import atexit
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

EVERY = 0.005
"""Seconds between two looks."""

PACKAGES = ("inbox", "store", "imaging", "inference", "outbox")


class Sampler(threading.Thread):
    """Looks until the process ends."""

    def __init__(self) -> None:
        super().__init__(name="sampler", daemon=True)
        self.spent: dict[str, float] = {}
        self._clocks: dict[int, float] = {}

    def run(self) -> None:
        while True:
            time.sleep(EVERY)
            self._look()

    def forget(self, *_: object) -> None:
        """Begin anew."""
        self.spent = {}

    def _look(self) -> None:
        for ident, frame in sys._current_frames().items():
            try:
                clock = time.clock_gettime(time.pthread_getcpuclockid(ident))
            except OSError:  # it has just ended
                continue
            spent = clock - self._clocks.get(ident, 0.0)
            self._clocks[ident] = clock
            stage = "the measurement" if ident == self.ident else stage_of(frame)
            self.spent[stage] = self.spent.get(stage, 0.0) + max(0.0, spent)


def stage_of(frame: FrameType | None) -> str:
    """The innermost of watcherd's packages in a stack; ``the rest`` for its own modules and for none."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("watcherd."):
            package = name.split(".")[1]
            return package if package in PACKAGES else "pipeline and the rest"
        frame = frame.f_back
    return "pipeline and the rest"


def read(report: Path) -> dict[str, float]:
    """CPU seconds by stage, the measurement's own left out."""
    spent: dict[str, float] = json.loads(report.read_text())
    spent.pop("the measurement", None)
    return spent


def main() -> None:
    """Start sampling, then be watcherd."""
    report = Path(sys.argv[1])
    sampler = Sampler()
    signal.signal(signal.SIGUSR2, sampler.forget)
    atexit.register(lambda: report.write_text(json.dumps(sampler.spent)))
    sampler.start()
    sys.argv = ["watcherd", *sys.argv[2:]]
    from watcherd.__main__ import main as watcherd

    watcherd()


if __name__ == "__main__":
    main()
