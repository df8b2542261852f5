"""When somebody sets the wall clock, the waits that are written down in its time stay as long as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from watcherd import frame_files, retry
from watcherd.logs import get_logger
from watcherd.notify import hooks
from watcherd.store import waits
from watcherd.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from watcherd.config import Config
    from watcherd.inbox.expected import Expected
    from watcherd.state.run import Run
    from watcherd.store import Connection


def longest_wait(config: Config) -> timedelta:
    """Nothing waits for longer than this: neither retries, nor calls of hooks, nor frames that wait for others."""
    quiet = timedelta(seconds=config.inbox.run_quiet_seconds)
    return max(retry.LONGEST, hooks.LONGEST, frame_files.LONGEST * quiet)


class ClockFollower:
    """Looks at the wall clock in every turn of the main thread."""

    def __init__(self, run: Run, expected: Expected, queued: Callable[[], None]) -> None:
        self._run = run
        self._expected = expected
        self._queued = queued
        self._clock = WallClock()
        self._owed = 0.0
        """Seconds by which the waits are still to be moved."""
        self._moving: tuple[Future[None], float] | None = None
        self._log = get_logger()

    def follow(self) -> None:
        """Move the waits by what the clock was set by since the last turn; what the disk refuses is tried again."""
        if step := self._clock.set_by():
            self._log.warning("wall_clock_set", wait_s=round(step, 1))
            self._owed += step
            self._expected.clock_was_set(step)
        self._see_whether_moved()
        if not self._owed or self._moving is not None:
            return
        seconds, self._owed = self._owed, 0.0
        longest = longest_wait(self._run.config)

        def work(connection: Connection) -> None:
            waits.move(connection, seconds)
            waits.bound(connection, now=datetime.now(UTC), longest=longest)

        moving = self._run.database.submit(work)
        moving.add_done_callback(lambda done: None if _failed(done) else self._queued())
        self._moving = moving, seconds

    def _see_whether_moved(self) -> None:
        if self._moving is None or not self._moving[0].done():
            return
        (moving, seconds), self._moving = self._moving, None
        if _failed(moving):
            self._owed += seconds


def _failed(moving: Future[None]) -> bool:
    return moving.cancelled() or moving.exception() is not None
