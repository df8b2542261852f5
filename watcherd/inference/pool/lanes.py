"""A lane for each model: which model its replicas have loaded, how fast they are, and how much they take at once.

Replicas' threads tell it what they know; intake and pipeline ask. A model keeps its lane while replicas come and go.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from watcherd.job import DEFAULT_MODEL

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
    """One model's replicas as the parts before and behind them see them. Behind one lock: many threads use it.

    ``name``: as the configuration calls the model. ``meant``: the model that is to be loaded, as far as that is known
    without loading it; jobs are queued for it until a replica has been ready. ``share``: of the computing time, a
    weight among the lanes.
    """

    def __init__(self, name: str = DEFAULT_MODEL, *, meant: Identity | None = None, share: float = 1.0) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._meant = meant
        self._share = share
        self._identity: Identity | None = None
        self._follows_runs = self._takes_volumes = False
        self._channels = 1
        self._seconds_per_scan = 0.0
        self._spent = 0.0

    # ------------------------------------------------------------------------------------------ told by the service

    def carried_by(self, pool: Pool | None) -> None:
        """These replicas carry the model; None: none do any more."""
        with self._lock:
            self._pool = pool

    def means(self, meant: Identity | None, share: float) -> None:
        """Another model is meant from now on, which nobody has loaded yet."""
        with self._lock:
            self._meant, self._share = meant, share
            self._identity, self._seconds_per_scan = None, 0.0
            self._follows_runs, self._takes_volumes, self._channels = False, False, 1

    def weighs(self, share: float) -> None:
        """Its share is another one from now on."""
        with self._lock:
            self._share = share

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
            self._spent += seconds

    def lost(self, seconds: float) -> None:
        """So many seconds were computed for a scan that gave no mask."""
        with self._lock:
            self._spent += seconds

    # ---------------------------------------------------------------------------------------- asked by all the others

    @property
    def is_ready(self) -> bool:
        """Whether a replica has ever been ready."""
        with self._lock:
            return self._identity is not None

    @property
    def is_carried(self) -> bool:
        """Whether there are replicas, ready or not."""
        with self._lock:
            return self._pool is not None

    @property
    def share(self) -> float:
        """The weight of this lane when computing time is shared out."""
        with self._lock:
            return self._share

    @property
    def spent(self) -> float:
        """Seconds that its replicas have computed for scans, in all."""
        with self._lock:
            return self._spent

    @property
    def pool(self) -> Pool:
        """The replicas. Raises `LookupError` while there are none."""
        with self._lock:
            if self._pool is None:
                raise LookupError(f"the lane {self.name!r} has no replicas")
            return self._pool

    @property
    def identity(self) -> Identity:
        """The model that its replicas have loaded. Raises `LookupError` before one is ready."""
        with self._lock:
            if self._identity is None:
                raise LookupError(f"no replica of the lane {self.name!r} has been ready yet")
            return self._identity

    @property
    def intended(self) -> Identity:
        """The model that jobs are queued for: the one that is loaded, and before that the one that is meant to be.

        Raises `LookupError` when neither is known.
        """
        with self._lock:
            known = self._identity if self._identity is not None else self._meant
            if known is None:
                raise LookupError(f"nobody knows yet which model the lane {self.name!r} has")
            return known

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
        """As many scans as fill a batch, or as are about `WORK_SECONDS` of work for all replicas together: larger ones
        would leave some of them without work at the end of a backlog."""
        pool, seconds = self.pool, self.seconds_per_scan
        capacity = pool.capacity()
        if not seconds:
            return capacity
        replicas = sum(replica.ready is not None for replica in pool.status())
        return max(capacity, min(MOST_AT_ONCE, int(WORK_SECONDS / seconds / max(1, replicas))))


class Lanes(Generic[Identity]):
    """The lanes of one run of the service, by name. Behind a lock: the service adds some, all others ask.

    A lane that was added stays: its model may have gone, but jobs that name it are still here.
    """

    def __init__(self, *lanes: Lane[Identity]) -> None:
        self._lock = threading.Lock()
        self._lanes = {lane.name: lane for lane in lanes}

    def add(self, lane: Lane[Identity]) -> None:
        """There is one more model."""
        with self._lock:
            self._lanes = {**self._lanes, lane.name: lane}

    def get(self, name: str) -> Lane[Identity]:
        """The lane of this model. Raises `LookupError` when there is none."""
        with self._lock:
            if name not in self._lanes:
                raise LookupError(f"there is no lane {name!r}")
            return self._lanes[name]

    def all(self) -> tuple[Lane[Identity], ...]:
        """Every lane, in the order in which they were added."""
        with self._lock:
            return tuple(self._lanes.values())

    def carried(self) -> tuple[Lane[Identity], ...]:
        """Those that have replicas and whose model has been ready: only they can take anything."""
        return tuple(lane for lane in self.all() if lane.is_carried and lane.is_ready)
