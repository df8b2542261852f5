"""Whether the service makes progress, and whether ``run --once`` has nothing left to do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from watcherd.errors import StoreError
from watcherd.job import State
from watcherd.pauses import is_passing
from watcherd.store import history, overview

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Future

    from watcherd.intake.intake import Intake
    from watcherd.notify.hooks import Hooks
    from watcherd.pipeline.stations import Pipeline
    from watcherd.service.fleet import Fleet
    from watcherd.state.run import Run

HANG_SECONDS = 300.0
"""Seconds without a sign of life after which a part is hung, and systemd is no longer told that all is well."""
BEAT_SECONDS = 15.0
"""Seconds between two questions to the database whether it still answers."""


class Pulse:
    """Asks the parts for signs of life. For the main thread; the database's thread answers."""

    def __init__(self, run: Run, intake: Intake, fleet: Fleet) -> None:
        self._run = run
        self._intake = intake
        self._fleet = fleet
        self._lock = threading.Lock()
        self._beat = time.monotonic()
        self._asked = float("-inf")

    def is_alive(self) -> bool:
        """Whether sweep, database and at least one replica make progress."""
        now = time.monotonic()
        paused = bool(self._run.pauses.reasons)
        if paused:
            self._heard(now)
        elif now - self._asked >= BEAT_SECONDS:
            self._asked = now
            self._run.database.submit(lambda _connection: None).add_done_callback(self._answered)
        turned = paused or now - self._intake.turned_at < HANG_SECONDS
        return turned and now - self._last_beat() < HANG_SECONDS and self._fleet.progressing()

    def _answered(self, _future: Future[None]) -> None:
        self._heard(time.monotonic())

    def _heard(self, now: float) -> None:
        with self._lock:
            self._beat = now

    def _last_beat(self) -> float:
        with self._lock:
            return self._beat


def is_done(run: Run, intake: Intake, pipeline: Pipeline, hooks: Hooks, able: Collection[str]) -> bool:
    """Whether ``--once`` has nothing left to do. ``able``: the models that can do something: others are not waited
    for."""
    if not intake.idle or pipeline.busy or hooks.busy:
        return False
    try:
        with run.database.reader() as connection:
            counts = history.counts(connection)
            open_jobs = sum(counts[state] for state in (State.QUEUED, State.RUNNING, State.DELIVERING))
            jobs_aside, arrivals_aside = run.set_aside.open()
            more = history.open_arrivals(connection, but=arrivals_aside)
            waiting = overview.queued_by_model(connection)
            unable = sum(count for name, count in waiting.items() if name not in able)
            return open_jobs <= jobs_aside + unable and not more and intake.idle
    except StoreError as error:
        if not is_passing(error):
            raise
        return False
