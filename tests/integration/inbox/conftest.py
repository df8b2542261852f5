"""The intake loop as the package's docstring has it, over real files, with a dictionary for the database."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from watcherd.config import IGNORED_NAMES
from watcherd.inbox.events import Events
from watcherd.inbox.folders import open_root
from watcherd.inbox.ingest import BATCH, take
from watcherd.inbox.settle import Settler
from watcherd.inbox.spool import Spool
from watcherd.inbox.sweep import CHUNK, IgnoreList, look, sweep
from watcherd.inbox.values import Candidate, Folder, Gone, Ignored, Ingested, NotYet

if TYPE_CHECKING:
    from pathlib import Path


class Intake:
    """Runs the loop in this thread, until what the test waits for is there."""

    def __init__(self, folder: Path, *, settle: float = 0.05, limit: float = 5.0, sweep_every: float = 60.0,
                 events: bool = True, capacity: int = 16_384) -> None:  # fmt: skip
        self.inbox = folder / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self.root_fd = open_root(self.inbox)
        self.spool = Spool(folder / "spool")
        self.spool.prepare()
        self.ignore = IgnoreList(IGNORED_NAMES)
        self.woken = threading.Event()
        self.warnings: list[str] = []
        self.events = Events(self.inbox, self.ignore, wake=self.woken.set, warn=self.warnings.append)
        self.settler = Settler(settle_seconds=settle, limit_seconds=limit, capacity=capacity)
        self.sweep_every = sweep_every
        self.next_sweep = 0.0
        self.sweep_wanted = True
        self.sweeps = []
        self.full_sweeps = 0
        self.taken: list[Ingested] = []
        self.known: dict[bytes, object] = {}
        self.ignored: dict[bytes, Ignored] = {}
        self.not_yet: list[NotYet] = []
        self.at: dict[bytes, float] = {}
        if events:
            self.events.start()

    def close(self) -> None:
        self.events.stop()
        for running in self.sweeps:
            running.close()
        os.close(self.root_fd)

    def tell(self, seen: object, now: float, *, hinted: bool = False) -> None:
        match seen:
            case Candidate() if self.known.get(seen.path) != seen.signature:
                if not self.settler.observe(seen, now, hinted=hinted):
                    self.sweep_wanted = True
            case Ignored():
                self.ignored[seen.path] = seen
            case Folder():
                self.sweeps.append(self.start_sweep(seen.path))
            case Gone():
                self.settler.gone(seen.path)

    def start_sweep(self, folder: bytes = b""):
        return sweep(self.root_fd, self.ignore, folder=folder, entering=self.events.watch)

    def turn(self) -> None:
        now, hints = time.monotonic(), self.events.fetch()
        for path in hints.paths:
            self.tell(look(self.root_fd, self.ignore, path), now, hinted=True)
        self.sweeps += [self.start_sweep(folder) for folder in hints.folders]
        self.sweep_wanted |= hints.sweep or now >= self.next_sweep
        if self.sweep_wanted and not self.sweeps:
            self.sweep_wanted = False
            self.full_sweeps += 1
            self.next_sweep = now + self.sweep_every
            self.sweeps.append(self.start_sweep())
        while self.sweeps and self.settler.room >= CHUNK:
            chunk = next(self.sweeps[0], None)
            if chunk is None:
                self.sweeps.pop(0)
                continue
            for seen in (*chunk.candidates, *chunk.ignored):
                self.tell(seen, now)
        for path in self.settler.due(now):
            self.tell(look(self.root_fd, self.ignore, path), now)
        batch = self.settler.settled(now, limit=BATCH)
        if batch:
            for outcome in take(batch, self.root_fd, self.spool):
                self.record(outcome, now)

    def record(self, outcome: object, now: float) -> None:
        match outcome:
            case Ingested():
                self.taken.append(outcome)
                self.known[outcome.path] = outcome.signature
                self.at[outcome.path] = time.monotonic()
                self.settler.gone(outcome.path)
            case NotYet():
                self.not_yet.append(outcome)
                self.settler.wait(outcome, now)
            case Ignored():
                self.ignored[outcome.path] = outcome
                self.settler.gone(outcome.path)
            case Gone():
                self.settler.gone(outcome.path)

    def run(self, until, timeout: float = 30.0) -> None:
        """Turn after turn until ``until()`` holds; fails after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < end, (
                f"waited {timeout} s; {len(self.taken)} taken, waiting {self.settler.waiting()[:5]}"
            )
            self.turn()
            if until():
                return
            wakeup = min(self.settler.next_wakeup() or self.next_sweep, self.next_sweep, end)
            if self.sweeps or self.sweep_wanted:
                wakeup = 0.0
            self.woken.wait(max(0.0, wakeup - time.monotonic()))
            self.woken.clear()

    def settle_down(self, timeout: float = 30.0) -> None:
        """Until nothing is waited for any more."""
        self.run(lambda: self.full_sweeps and not (self.sweeps or self.sweep_wanted or len(self.settler)), timeout)

    @property
    def paths(self) -> list[bytes]:
        return [ingested.path for ingested in self.taken]


@pytest.fixture
def make_intake(tmp_path):
    made = []

    def make(**settings) -> Intake:
        made.append(Intake(tmp_path, **settings))
        return made[-1]

    yield make
    for intake in made:
        intake.close()


@pytest.fixture
def intake(make_intake):
    return make_intake()
