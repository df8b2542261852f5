"""A lane for each model: which model its replicas have loaded, how fast they are, and how much they take at once.

Replicas' threads tell it what they know; intake and pipeline ask. One service has one lane so far, ``default``.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from watcherd.inference.pool.interface import Pool

Identity = TypeVar("Identity")

WORK_SECONDS = 0.5
"""Seconds of work in a batch: enough to hide the message latency, little enough to share out evenly."""
MOST_AT_ONCE = 64
"""Scans in a batch at most."""
SMOOTHING = 0.2
"""Weight of the newest scan in the running mean of the seconds that one takes."""


class Lane(Generic[Identity]):
    """One model's replicas as the parts before and behind them see them. Behind one lock: many threads use it."""

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._identity: Identity | None = None
        self._follows_runs = self._takes_volumes = False
        self._channels = 1
        self._seconds_per_scan = 0.0

    # ------------------------------------------------------------------------------------------ told by the service

    def carried_by(self, pool: Pool) -> None:
        """These replicas carry the model."""
        with self._lock:
            self._pool = pool

    def became_ready(
        self, identity: Identity, *, follows_runs: bool, takes_volumes: bool = False, channels: int = 1
    ) -> None:
        """A replica has loaded this model, and passed its checks."""
        with self._lock:
            self._identity, self._follows_runs = identity, follows_runs
            self._takes_volumes, self._channels = takes_volumes, channels

    def took(self, seconds: float) -> None:
        """A scan took this many seconds to compute."""
        with self._lock:
            before = self._seconds_per_scan
            self._seconds_per_scan = (1 - SMOOTHING) * before + SMOOTHING * seconds if before else seconds

    # ---------------------------------------------------------------------------------------- asked by all the others

    @property
    def is_ready(self) -> bool:
        """Whether a replica has ever been ready."""
        with self._lock:
            return self._identity is not None

    @property
    def pool(self) -> Pool:
        """The replicas. Raises `LookupError` before there are any."""
        if self._pool is None:
            raise LookupError(f"the lane {self.name!r} has no replicas yet")
        return self._pool

    @property
    def identity(self) -> Identity:
        """The model that its replicas have loaded. Raises `LookupError` before one is ready."""
        with self._lock:
            if self._identity is None:
                raise LookupError(f"no replica of the lane {self.name!r} has been ready yet")
            return self._identity

    @property
    def follows_runs(self) -> bool:
        """Whether the model follows a run's frames with its memory."""
        with self._lock:
            return self._follows_runs

    @property
    def takes_volumes(self) -> bool:
        """Whether the model takes a scan's own numbers, not its 8-bit frames."""
        with self._lock:
            return self._takes_volumes

    @property
    def channels(self) -> int:
        """How many files with one channel each make a case; 1: every file is a scan."""
        with self._lock:
            return self._channels

    @property
    def joins_files(self) -> bool:
        """Whether several files may be computed as one: the frames of a run, or the channels of a case."""
        with self._lock:
            return self._follows_runs or self._channels > 1

    @property
    def seconds_per_scan(self) -> float:
        """Running mean of the seconds that a scan takes; 0 while none was computed."""
        with self._lock:
            return self._seconds_per_scan

    def batch_limit(self) -> int:
        """As many scans as fill a batch, or as are about `WORK_SECONDS` of work."""
        capacity, seconds = self.pool.capacity(), self.seconds_per_scan
        return max(capacity, min(MOST_AT_ONCE, int(WORK_SECONDS / seconds))) if seconds else capacity
