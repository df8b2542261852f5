"""When somebody sets the wall clock, the waits that are written down in its time stay as long as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from watcherd import frame_files, retry
from watcherd.logs import get_logger
from watcherd.notify import hooks
from watcherd.store import waits
from watcherd.wall_clock import Step, WallClock

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


def move_all(connection: Connection, steps: list[Step], now: datetime) -> None:
    """Every wait is set with each of the steps in turn; what was written between two of them with the later ones."""
    now -= timedelta(seconds=sum(step.seconds for step in steps))
    for step in steps:
        now += timedelta(seconds=step.seconds)
        waits.move(connection, step.seconds, right_since=datetime.fromtimestamp(step.before, UTC), now=now)


class ClockFollower:
    """Looks at the wall clock in every turn of the main thread."""

    def __init__(self, run: Run, expected: Expected, queued: Callable[[], None]) -> None:
        self._run = run
        self._expected = expected
        self._queued = queued
        self._clock = WallClock()
        self._owed: list[Step] = []
        """Steps by which the waits are still to be moved, in their order."""
        self._moving: tuple[Future[None], list[Step]] | None = None
        self._log = get_logger()

    def follow(self) -> None:
        """Move the waits by what the clock was set by since the last turn; what the disk refuses is tried again."""
        if step := self._clock.set_by():
            self._log.warning("wall_clock_set", wait_s=round(step.seconds, 1))
            self._owed.append(step)
            self._expected.clock_was_set(step.seconds)
        self._see_whether_moved()
        if self._moving is not None:
            return
        if not self._owed:
            self._run.waits_clock.waits_are_set(self._clock.ahead)
            return
        steps, self._owed = self._owed, []
        longest, ahead = longest_wait(self._run.config), self._clock.ahead

        def work(connection: Connection) -> None:
            now = datetime.now(UTC)
            move_all(connection, steps, now)
            waits.bound(connection, now=now, longest=longest)
            self._run.waits_clock.waits_are_set(ahead)  # here, where claims are made too: none comes in between

        moving = self._run.database.submit(work)
        moving.add_done_callback(lambda done: None if _failed(done) else self._queued())
        self._moving = moving, steps

    def _see_whether_moved(self) -> None:
        if self._moving is None or not self._moving[0].done():
            return
        (moving, steps), self._moving = self._moving, None
        if _failed(moving):
            self._owed = steps + self._owed


def _failed(moving: Future[None]) -> bool:
    return moving.cancelled() or moving.exception() is not None
