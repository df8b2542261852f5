"""One replica's life: started, fed, watched, killed when it hangs, buried, started again, given up.

It knows its process through a `Carrier` only, so that it is the same wherever the replica runs. A process that dies or
hangs answers for nothing: the scans that it was working on are reported as crashed, those that it had not begun are
handed back.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError
from watcherd.inference.messages import (
    BatchEnded,
    LoadFailed,
    Marked,
    NotSegmented,
    Outcome,
    Poisoned,
    Ready,
    Segmented,
    Worn,
)
from watcherd.inference.pool.carrier import Ended, NoRoomError, SilentError
from watcherd.inference.pool.interface import Died, Listener, Phase, ReplicaStatus, ScanListener
from watcherd.inference.pool.patience import Patience
from watcherd.job import ErrorClass
from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.inference.messages import FromReplica, ReplicaSpec
    from watcherd.inference.pool.batches import Batch, Taker
    from watcherd.inference.pool.carrier import Carrier

STACK_SECONDS = 1.0
"""How long a hung process gets to write its stack before it is killed."""
HEALTHY_SECONDS = 300.0
"""A replica that has run this long since its start begins again with the shortest back-off."""
QUICK_SECONDS = 1.0
"""Seconds. For batches shorter than this, message latency matters, so the next batch is sent early. Longer ones stay in
the shared queue for whichever replica is free first."""
START_AGAIN_SECONDS = 1.0
"""Seconds before a process is started again for which the machine had no descriptors or memory."""
LOAD_CRASHES = 3
"""A model that kills its process this often while loading is not tried again."""
GONE_SECONDS = 5.0
"""Seconds that a killed process gets to be gone, before its stack is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What all replicas of a pool have in common: who hears of them, their deadlines, and the pool's two flags.

    ``stopping``: set when no work shall be begun any more. ``hurry``: set when nothing is worth waiting for any more.
    """

    listener: Listener
    scans: ScanListener
    load_seconds: float
    batch_seconds: float
    back_off: Callable[[int], float]
    clock: Callable[[], float]
    stopping: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)


class _CannotLoadError(Exception):
    """The replica says that its model cannot be loaded."""

    def __init__(self, failed: LoadFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Member:
    """One replica: its thread, its carrier, its status.

    Its own thread owns everything here. Other threads read ``status``, which is replaced as a whole, and may call
    `progressing`, `interrupt` and what ``thread`` offers.
    """

    def __init__(self, spec: ReplicaSpec, carrier: Carrier, taker: Taker, terms: Terms) -> None:
        self._number = spec.number
        self._carrier = carrier
        self._taker = taker
        self._terms = terms
        self._under_way: deque[Batch] = deque()
        self._quick = False
        self._patience = Patience(terms.batch_seconds)
        devices = spec.visible or ("cpu",)
        self.status = ReplicaStatus(
            number=spec.number, name=spec.name, phase=Phase.STARTING, node=spec.node, devices=devices
        )
        self.thread = NamedThread(target=self._live, name=f"replica-{spec.number}", daemon=True)

    # -------------------------------------------------------------------------------------- called by other threads

    def progressing(self) -> bool:
        """Whether it is ready for work, or has shown a sign of life within its deadline."""
        status = self.status
        if status.phase is Phase.IDLE:
            return True
        limit = self._terms.load_seconds if status.phase is Phase.STARTING else self._patience.seconds
        return status.phase in (Phase.STARTING, Phase.BUSY) and self._terms.clock() - status.marked_at <= limit

    def interrupt(self) -> None:
        """Kill its process, whatever it is doing."""
        self._carrier.kill()

    # ------------------------------------------------------------------------------------------------ its own thread

    def _become(self, **changes: Any) -> None:
        before = self.status.phase
        self.status = replace(self.status, **changes)
        if self.status.phase is not before:
            self._taker.note(free=self.status.phase is Phase.IDLE)

    def _live(self) -> None:
        """Start, serve, and after a death start again with a growing pause, until the pool stops."""
        failures = load_crashes = 0
        stopping, clock = self._terms.stopping, self._terms.clock
        while not stopping.is_set():
            began = clock()
            try:
                self._start()
                load_crashes = 0
                self._serve()
            except Ended as end:
                if stopping.is_set():
                    break
                if self.status.ready is None and not end.lost:
                    load_crashes += 1
                failures = 0 if clock() - began > HEALTHY_SECONDS else failures + 1
                self._bury(end)
                if load_crashes >= LOAD_CRASHES:
                    self._give_up(f"the model ended its process {load_crashes} times while loading: {end.reason}")
                    return
                stopping.wait(self._terms.back_off(failures))
            except NoRoomError as error:
                words = f"its process cannot be started: {error}"
                self._become(phase=Phase.STARTING, marked_at=clock(), stage=words, last_error=words)
                stopping.wait(START_AGAIN_SECONDS)
            except _CannotLoadError as error:
                self._give_up(error.failed.message, error.failed.hint, error.failed.exit_code)
                return
            except Exception as error:  # a replica without its thread would only look alive
                self._give_up(f"The thread of replica {self._number} failed: {type(error).__name__}: {error}")
                raise
        self._shut()

    def _start(self) -> None:
        pid = self._carrier.start()
        self._become(phase=Phase.STARTING, pid=pid, ready=None, marked_at=self._terms.clock(), stage="starting")
        self._terms.listener.replica_starting(self._number, pid)
        while self.status.ready is None:
            for message in self._receive(self._terms.load_seconds, "loading"):
                if isinstance(message, Ready):
                    self._become(phase=Phase.IDLE, ready=message, stage="", fraction=None)
                    if not self.status.restarts:  # that there was no room for it at first is over
                        self._become(last_error="")
                    self._terms.listener.replica_ready(self._number, message)
                elif isinstance(message, LoadFailed):
                    raise _CannotLoadError(message)

    def _serve(self) -> None:
        """Keep the process in work; one whose batches are quick has the next one at hand already."""
        self._quick = False
        self._patience.begin(self.status.ready.batch_size if self.status.ready else 1)
        try:
            while True:
                if not self._under_way:
                    if (batch := self._next_batch()) is None:
                        return
                    self._give(batch)
                elif self._may_have_another() and (batch := self._taker.take_ahead()) is not None:
                    self._give(batch)
                self._hear()
        except Ended as end:
            self._answer_for(end)
            raise

    def _may_have_another(self) -> bool:
        return self._quick and len(self._under_way) == 1 and not self._terms.stopping.is_set()

    def _next_batch(self) -> Batch | None:
        """Wait for work, but notice at once when the idle process dies."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._taker.take()
            self._carrier.rest(self._taker.bell)

    def _give(self, batch: Batch) -> None:
        if not self._under_way:
            batch.taken_up = self._terms.clock()
            self._become(phase=Phase.BUSY, marked_at=batch.taken_up, jobs=tuple(batch.waiting))
        self._under_way.append(batch)
        self._patience.at_hand(each.items for each in self._under_way)
        self._carrier.send(self._carrier.bring(list(batch.waiting.values())))
        self._terms.scans.batch_taken()

    def _hear(self) -> None:
        """What the process at work says, or word that there is more for it to do."""
        marked_at = self.status.marked_at
        messages = self._receive(self._patience.seconds, "computing a batch", heed_bell=self._may_have_another())
        self._patience.heard(self.status.marked_at - marked_at)
        fetched = [self._carrier.fetch(each) if isinstance(each, Segmented) else each for each in messages]
        outcomes = [each for each in fetched if isinstance(each, Segmented | NotSegmented) and self._waits(each)]
        if outcomes:
            self._terms.scans.scans_answered(self._number, outcomes)
        for message in messages:
            if isinstance(message, BatchEnded):
                self._batch_ended()
            elif isinstance(message, Poisoned):
                raise Ended(f"its device context broke: {message.error}")
            elif isinstance(message, Worn):
                raise Ended(f"it starts anew after an error inside its model: {message.error}")
            elif isinstance(message, Marked):
                self._begun(message.jobs)

    def _waits(self, outcome: Outcome) -> bool:
        """Whether nothing was said of a scan before: what stops a whole batch is said of all of them."""
        return any(batch.waiting.pop(outcome.job_id, None) for batch in self._under_way)

    def _begun(self, jobs: tuple[int, ...]) -> None:
        if not jobs:
            return
        for batch in self._under_way:
            batch.begun.update(job for job in jobs if job in batch.waiting)
        self._become(jobs=jobs)

    def _batch_ended(self) -> None:
        if left := len(self._under_way[0].waiting):
            raise Ended(f"it ended a batch without an answer for {left} of its scans", lost=True)
        now = self._terms.clock()
        ended = self._under_way.popleft()
        self._quick = now - ended.taken_up < QUICK_SECONDS
        self._patience.ended(ended.items)
        if self._under_way:
            self._under_way[0].taken_up = now
            self._patience.at_hand(each.items for each in self._under_way)
        else:
            self._become(phase=Phase.IDLE, jobs=(), stage="")

    def _receive(self, seconds: float, doing: str, *, heed_bell: bool = False) -> Sequence[FromReplica]:
        """The next messages; a silence longer than ``seconds`` is a hang. There are none when the bell rang first."""
        left = self.status.marked_at + seconds - self._terms.clock()
        try:
            messages = self._carrier.receive(max(0.0, left), self._taker.bell if heed_bell else None)
        except SilentError:
            raise self._kill_hung(f"no sign of life for {seconds:g} s while {doing}") from None
        if messages is None:
            return ()
        self._become(marked_at=self._terms.clock())
        for message in messages:
            if isinstance(message, Marked):
                self._become(stage=message.stage, fraction=message.fraction)
        return messages

    def _kill_hung(self, reason: str) -> Ended:
        """Ask the hung process for its stack, then kill it."""
        if self._carrier.ask_for_stack():
            self._terms.hurry.wait(STACK_SECONDS)
            self._carrier.kill()
            self._carrier.join(GONE_SECONDS)
        return Ended(reason, self._carrier.stack(), lost=self._carrier.unreachable())

    def _answer_for(self, end: Ended) -> None:
        """Scans that were under way crashed; the others had no part in it and are handed back. With a machine that is
        lost, no scan has crashed: those under way are tried again later, as after anything that may pass."""
        batches, self._under_way = list(self._under_way), deque()
        waiting = [job for batch in batches for job in batch.waiting]
        if self._terms.stopping.is_set():
            self._terms.scans.scans_handed_back(tuple(waiting))
            return
        begun = {job for batch in batches for job in batch.begun}
        suspects = set(self.status.jobs) & set(waiting) & (begun or set(waiting))
        what, kind = ("was lost", ErrorClass.TRANSIENT) if end.lost else ("died", ErrorClass.CRASH)
        error = f"replica {self._number} {what} while it worked on this scan: {end.reason}"
        failed = [NotSegmented(job_id=job, error_class=kind, error=error) for job in suspects]
        self._terms.scans.scans_answered(self._number, failed)
        if innocent := tuple(job for job in waiting if job not in suspects):
            self._terms.scans.scans_handed_back(innocent)

    def _bury(self, end: Ended) -> None:
        """Make sure that the process and its memory are gone, and tell."""
        self._carrier.kill()
        self._carrier.join()
        status = self.status
        died = Died(number=self._number, pid=status.pid or 0, reason=end.reason, stack=end.stack, jobs=status.jobs)
        self._become(
            phase=Phase.DOWN, pid=None, jobs=(), ready=None, restarts=status.restarts + 1, last_error=end.reason
        )
        self._terms.listener.replica_died(died)
        self._carrier.wait_released(self._terms.stopping)

    def _give_up(self, message: str, hint: str = "", exit_code: int = UnavailableError.exit_code) -> None:
        self._shut()
        self._become(last_error=message)
        self._terms.listener.model_unusable(LoadFailed(message=message, hint=hint, exit_code=exit_code))

    def _shut(self) -> None:
        """End the process in good order; it holds no work any more."""
        self._carrier.end()
        self._become(phase=Phase.STOPPED, pid=None)
        self._terms.listener.replica_stopped(self._number)
