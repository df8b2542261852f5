"""The replicas as everything else sees them: what they can be asked, and who is told what they do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from watcherd.job import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.inference.messages import LoadFailed, Outcome, Ready, ReplicaSpec, WorkItem


class Phase(StrEnum):
    """What a replica is doing."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    DOWN = "down"
    """Dead; started again after a back-off."""
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaStatus:
    """One replica as it is now: a value that its thread replaces as a whole. ``name``: of its model. ``node``: the
    machine that it is on; empty: this one. Times are of `time.monotonic`."""

    number: int
    name: str = DEFAULT_MODEL
    phase: Phase
    node: str = ""
    devices: tuple[str, ...]
    pid: int | None = None
    stage: str = ""
    fraction: float | None = None
    marked_at: float = 0.0
    restarts: int = 0
    jobs: tuple[int, ...] = ()
    last_error: str = ""
    ready: Ready | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Died:
    """A replica's process ended, and nobody had asked it to."""

    number: int
    pid: int
    reason: str
    stack: str
    jobs: tuple[int, ...]


class Listener(Protocol):
    """Hears of each replica's life. Called from the replicas' threads."""

    def replica_starting(self, number: int, pid: int) -> None: ...
    def replica_ready(self, number: int, ready: Ready) -> None: ...
    def replica_died(self, died: Died) -> None: ...
    def replica_stopped(self, number: int) -> None: ...
    def model_unusable(self, failed: LoadFailed) -> None: ...


class ScanListener(Protocol):
    """Hears what became of the scans. Called from the replicas' threads."""

    def batch_taken(self) -> None: ...
    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None: ...
    def scans_handed_back(self, jobs: Sequence[int]) -> None: ...


class Pool(Protocol):
    """What the pipeline and the service need of the replicas, be they one or many. Any thread may call it."""

    def start(self) -> None: ...
    def grow(self, specs: Sequence[ReplicaSpec]) -> None: ...
    def has_room(self) -> bool: ...
    def capacity(self) -> int: ...
    def submit(self, items: Sequence[WorkItem]) -> None: ...
    def given(self) -> int: ...
    def status(self) -> list[ReplicaStatus]: ...
    def progressing(self) -> bool: ...
    def stop(self, *, within: float) -> None: ...
    def kill(self) -> None: ...
