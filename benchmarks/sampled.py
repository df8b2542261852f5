"""Run watcherd and put its main process's CPU down to the package that spends it.

    python -m benchmarks.sampled REPORT ARGUMENTS OF watcherd ...

A thread reads every other thread's CPU clock and stack some hundred times a second. What a thread has spent since the
last look belongs to the innermost function of watcherd in its stack: a commit to ``store``, a rename to ``outbox``.
SIGUSR2 has the report written and what was spent forgotten. The clocks are exact, the split is a sample: a thread is
more often seen where it lets others run.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from benchmarks.running import Running

EVERY = 0.005
"""Seconds between two looks."""

PACKAGES = ("inbox", "store", "imaging", "inference", "outbox")


class Sampler(threading.Thread):
    """Looks until the process ends."""

    def __init__(self, report: Path) -> None:
        super().__init__(name="sampler", daemon=True)
        self._report = report
        self.spent: dict[str, float] = {}
        self._clocks: dict[int, float] = {}

    def run(self) -> None:
        while True:
            time.sleep(EVERY)
            self._look()

    def tell(self, *_: object) -> None:
        """Write the report and begin anew."""
        self._look()
        spent, self.spent = self.spent, {}
        whole = self._report.with_suffix(".new")
        whole.write_text(json.dumps(spent))
        whole.replace(self._report)

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
    """The innermost of watcherd's packages in a stack; ``the rest`` for its own modules and for none.

    The threads of pebble, which keeps the imaging workers, stand for themselves.
    """
    rest = "pipeline and the rest"
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("pebble."):
            rest = "pebble's threads"
        if name.startswith("watcherd."):
            package = name.split(".")[1]
            return package if package in PACKAGES else "pipeline and the rest"
        frame = frame.f_back
    return rest


def read(running: Running, report: Path) -> dict[str, float]:
    """CPU seconds by stage since the last time, the measurement's own left out."""
    running.signal(signal.SIGUSR2)
    running.wait(report.exists, 10)
    spent: dict[str, float] = json.loads(report.read_text())
    report.unlink()
    spent.pop("the measurement", None)
    return spent


def main() -> None:
    """Start sampling, then be watcherd."""
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR2, sampler.tell)
    sampler.start()
    sys.argv = ["watcherd", *sys.argv[2:]]
    from watcherd.__main__ import main as watcherd

    watcherd()


if __name__ == "__main__":
    main()
