"""The replicas as one: work comes from one bounded queue, so that whichever is free takes the next batch.

What each replica does is in `member`, where its process runs in `carrier`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from watcherd.inference.pool.batches import Batches
from watcherd.inference.pool.interface import Listener, Phase, ReplicaStatus, ScanListener
from watcherd.inference.pool.local import LocalCarrier
from watcherd.inference.pool.supervisor import Member, Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.inference.messages import ReplicaSpec, WorkItem
    from watcherd.inference.pool.carrier import Carriers

JOIN_SECONDS = 5.0
"""Seconds that each replica's thread gets to end after its process was killed."""


class ReplicaPool:
    """Replicas in processes of their own (see `Pool`). Called by any thread: the pipeline's, and the service's."""

    def __init__(
        self,
        specs: Sequence[ReplicaSpec],
        listener: Listener,
        scans: ScanListener,
        *,
        load_seconds: float,
        batch_seconds: float,
        back_off: Callable[[int], float] = lambda restarts: min(60.0, 0.5 * 2.0**restarts),
        clock: Callable[[], float] = time.monotonic,
        carriers: Carriers = LocalCarrier,
    ) -> None:
        self._batches = Batches()
        self._terms = Terms(
            listener=listener,
            scans=scans,
            load_seconds=load_seconds,
            batch_seconds=batch_seconds,
            back_off=back_off,
            clock=clock,
        )
        self._carriers = carriers
        self._members = [self._member(spec) for spec in specs]

    def _member(self, spec: ReplicaSpec) -> Member:
        return Member(spec, self._carriers(spec), self._batches.taker(), self._terms)

    def start(self) -> None:
        """Start every replica; they say through the listener when they are ready."""
        for member in self._members:
            member.thread.start()

    def grow(self, specs: Sequence[ReplicaSpec]) -> None:
        """Start further replicas beside those that run. Called by one thread at a time."""
        fresh = [self._member(spec) for spec in specs]
        self._members = [*self._members, *fresh]
        for member in fresh:
            member.thread.start()

    def has_room(self) -> bool:
        """Whether another batch would be taken up soon: fewer are waiting than there are live replicas."""
        return self._batches.has_room(sum(member.status.phase in (Phase.IDLE, Phase.BUSY) for member in self._members))

    def capacity(self) -> int:
        """Frames in the largest batch that a ready replica computes at once; 1 while none is ready."""
        sizes = [member.status.ready.batch_size for member in self._members if member.status.ready]
        return min(sizes, default=1)

    def submit(self, items: Sequence[WorkItem]) -> None:
        """Give a batch to whichever replica is free first; once the pool has been stopped, hand it back at once."""
        if not self._batches.put(items):
            self._terms.scans.scans_handed_back(tuple(item.job_id for item in items))

    def given(self) -> int:
        """Scans that were given to it and are not all answered for: those that wait, and those at hand."""
        return self._batches.scans + sum(len(member.status.jobs) for member in self._members)

    def status(self) -> list[ReplicaStatus]:
        """Every replica as it is now."""
        return [member.status for member in self._members]

    def progressing(self) -> bool:
        """Whether at least one replica is ready for work or shows signs of life within its deadline."""
        return any(member.progressing() for member in self._members)

    def stop(self, *, within: float) -> None:
        """Let the batches that are being computed end, ``within`` seconds at most; hand the others back."""
        self._terms.stopping.set()
        for batch in self._batches.hand_back():
            self._terms.scans.scans_handed_back(tuple(batch.waiting))
        deadline = time.monotonic() + within
        for member in self._members:
            if member.thread.is_alive():
                member.thread.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End every replica now; the scans at hand are handed back, for this was our will."""
        self._terms.stopping.set()
        self._terms.hurry.set()
        for member in self._members:
            member.interrupt()
        for member in self._members:
            if member.thread.is_alive():
                member.thread.join(JOIN_SECONDS)
