"""The replicas, seen from the main process: started, fed, watched, killed when they hang, started again.

One thread per replica talks to its process. Work comes from one bounded queue, so that whichever replica is free takes
the next batch; what became of every scan goes to one callback. A process that dies or hangs answers for nothing:
the scans that it was working on are reported as crashed, those that it had not begun are handed back.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from watcherd.errors import NO_ROOM_FOR_A_PROCESS, UnavailableError
from watcherd.inference.machine import devices
from watcherd.inference.messages import (
    BatchEnded,
    LoadFailed,
    Marked,
    NotSegmented,
    Outcome,
    Poisoned,
    Ready,
    ReplicaSpec,
    Segmented,
    WorkItem,
)
from watcherd.inference.pool.interface import Died, Listener, Phase, ReplicaStatus, ScanListener
from watcherd.inference.replica import process as replica
from watcherd.job import ErrorClass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from watcherd.inference.messages import FromReplica

STACK_SECONDS = 1.0
"""How long a hung process gets to write its stack before it is killed."""
HEALTHY_SECONDS = 300.0
"""A replica that has run this long since its start begins again with the shortest back-off."""
QUICK_SECONDS = 1.0
"""A replica whose batches take less gets the next one while it computes: it would notice the way of a message. Of
longer ones none is given ahead, for another replica may be free sooner."""
START_AGAIN_SECONDS = 1.0
"""Seconds before a process is started again for which the machine had no descriptors or memory."""
LOAD_CRASHES = 3
"""A model that kills its process so many times while loading is not tried again."""


@dataclass(slots=True)
class _Batch:
    """A batch under way: scans leave ``waiting`` as they are answered for."""

    waiting: dict[int, WorkItem]
    begun: set[int] = field(default_factory=set)
    taken_up: float = 0.0
    """When its replica had nothing else to do any more, as of `time.monotonic`."""


class ReplicaPool:
    """Replicas in processes of their own (see `Pool`)."""

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
    ) -> None:
        self._queue: queue.Queue[_Batch | None] = queue.Queue()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self.listener = listener
        self.scans = scans
        self._members = [
            _Member(spec, self, load_seconds=load_seconds, batch_seconds=batch_seconds, back_off=back_off, clock=clock)
            for spec in specs
        ]

    def start(self) -> None:
        """Start every replica; they say through the listener when they are ready."""
        for member in self._members:
            member.thread.start()

    def has_room(self) -> bool:
        """Whether another batch would be taken up soon: fewer are waiting than there are live replicas."""
        live = sum(member.status.phase in (Phase.IDLE, Phase.BUSY) for member in self._members)
        return self._queue.qsize() < live

    def capacity(self) -> int:
        """Frames in the largest batch that a ready replica computes at once; 1 while none is ready."""
        sizes = [member.status.ready.batch_size for member in self._members if member.status.ready]
        return min(sizes, default=1)

    def submit(self, items: Sequence[WorkItem]) -> None:
        """Give a batch to whichever replica is free first."""
        self._queue.put(_Batch(waiting={item.job_id: item for item in items}))
        self._wake_all()

    def status(self) -> list[ReplicaStatus]:
        """Every replica as it is now."""
        return [member.status for member in self._members]

    def progressing(self) -> bool:
        """Whether at least one replica is ready for work or shows signs of life within its deadline."""
        return any(member.progressing() for member in self._members)

    def stop(self, *, within: float) -> None:
        """Let the batches that are being computed end, ``within`` seconds at most; hand the others back."""
        self._stopping.set()
        self._hand_back_queue()
        for _ in self._members:
            self._queue.put(None)
        self._wake_all()
        deadline = time.monotonic() + within
        for member in self._members:
            if member.thread.is_alive():
                member.thread.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End every replica now; the scans at hand are handed back, for this was our will."""
        self._stopping.set()
        self._hurry.set()
        for member in self._members:
            member.interrupt()
        for member in self._members:
            if member.thread.is_alive():
                member.thread.join(5.0)

    def take(self) -> _Batch | None:
        """The next batch; None when the pool stops. Raises `queue.Empty` when there is none; `_Member.wake` tells."""
        return self._queue.get_nowait()

    def take_ahead(self) -> _Batch | None:
        """The next batch for a replica that is busy; None when there is none, or another replica is free for it."""
        if any(member.status.phase is Phase.IDLE for member in self._members):
            return None
        try:
            batch = self._queue.get_nowait()
        except queue.Empty:
            return None
        if batch is None:  # the sign to stop, which somebody must find
            self._queue.put(None)
            self._wake_all()
        return batch

    @property
    def stopping(self) -> threading.Event:
        return self._stopping

    @property
    def hurry(self) -> threading.Event:
        return self._hurry

    def _wake_all(self) -> None:
        for member in self._members:
            member.wake()

    def _hand_back_queue(self) -> None:
        while True:
            try:
                batch = self._queue.get_nowait()
            except queue.Empty:
                return
            if batch is not None:
                self.scans.scans_handed_back(tuple(batch.waiting))


class _Ended(Exception):  # noqa: N818 - not an error of ours: the end of a process, with its reason
    """The process died or was killed."""

    def __init__(self, reason: str, stack: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stack = stack


def _exit_code(process: BaseProcess) -> int | None:
    """How the process ended. Whoever starts another one meanwhile makes multiprocessing look after all of its children,
    and may be about to note this one's end: to us it is gone then, but without a code."""
    until = time.monotonic() + 5.0
    process.join(5.0)
    while process.exitcode is None and time.monotonic() < until:
        time.sleep(0.01)
    return process.exitcode


class _NoRoomError(Exception):
    """No process can be started at the moment: no death of the model's."""


class _CannotLoadError(Exception):
    """The replica says that its model cannot be loaded."""

    def __init__(self, failed: LoadFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class _Member:
    """One replica: its thread, its process, its status."""

    def __init__(
        self,
        spec: ReplicaSpec,
        pool: ReplicaPool,
        *,
        load_seconds: float,
        batch_seconds: float,
        back_off: Callable[[int], float],
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._pool = pool
        self._load_seconds = load_seconds
        self._batch_seconds = batch_seconds
        self._back_off = back_off
        self._clock = clock
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None
        self._under_way: deque[_Batch] = deque()
        self._quick = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.status = ReplicaStatus(number=spec.number, phase=Phase.STARTING, devices=spec.visible or ("cpu",))
        self.thread = threading.Thread(target=self._live, name=f"replica-{spec.number}", daemon=True)

    def progressing(self) -> bool:
        status = self.status
        if status.phase is Phase.IDLE:
            return True
        limit = self._load_seconds if status.phase is Phase.STARTING else self._batch_seconds
        return status.phase in (Phase.STARTING, Phase.BUSY) and self._clock() - status.marked_at <= limit

    def interrupt(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def _become(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)

    def _live(self) -> None:
        """Start, serve, and after a death start again with a growing pause, until the pool stops."""
        failures = load_crashes = 0
        while not self._pool.stopping.is_set():
            began = self._clock()
            try:
                self._start()
                load_crashes = 0
                self._serve()
            except _Ended as end:
                if self._pool.stopping.is_set():
                    break
                if self.status.ready is None:
                    load_crashes += 1
                failures = 0 if self._clock() - began > HEALTHY_SECONDS else failures + 1
                self._bury(end)
                if load_crashes >= LOAD_CRASHES:
                    self._give_up(f"the model ended its process {load_crashes} times while loading: {end.reason}")
                    return
                self._pool.stopping.wait(self._back_off(failures))
            except _NoRoomError as error:
                words = f"its process cannot be started: {error}"
                self._become(phase=Phase.STARTING, marked_at=self._clock(), stage=words, last_error=words)
                self._pool.stopping.wait(START_AGAIN_SECONDS)
            except _CannotLoadError as error:
                self._give_up(error.failed.message, error.failed.hint, error.failed.exit_code)
                return
            except Exception as error:  # a replica without its thread would only look alive
                self._give_up(f"The thread of replica {self._spec.number} failed: {type(error).__name__}: {error}")
                raise
        self._shut()

    def _launch(self) -> BaseProcess:
        context = get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            with theirs:
                process = context.Process(
                    target=replica.main,
                    args=(self._spec, theirs),
                    name=f"watcherd-replica-{self._spec.number}",
                    daemon=True,
                )
                process.start()
        except OSError as error:
            if error.errno not in NO_ROOM_FOR_A_PROCESS:
                raise
            raise _NoRoomError(error.strerror) from error
        self._process, self._connection = process, ours
        return process

    def _start(self) -> None:
        process = self._launch()
        self._become(phase=Phase.STARTING, pid=process.pid, ready=None, marked_at=self._clock(), stage="starting")
        self._pool.listener.replica_starting(self._spec.number, process.pid or 0)
        while self.status.ready is None:
            for message in self._receive(self._load_seconds, "loading"):
                if isinstance(message, Ready):
                    self._become(phase=Phase.IDLE, ready=message, stage="", fraction=None)
                    self._pool.listener.replica_ready(self._spec.number, message)
                elif isinstance(message, LoadFailed):
                    raise _CannotLoadError(message)

    def wake(self) -> None:
        """There is something in the queue."""
        os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        """Keep the process in work; one whose batches are quick has the next one at hand already."""
        self._quick = False
        try:
            while True:
                if not self._under_way:
                    if (batch := self._next_batch()) is None:
                        return
                    self._give(batch)
                elif self._may_have_another() and (batch := self._pool.take_ahead()) is not None:
                    self._give(batch)
                self._hear()
        except _Ended as end:
            self._answer_for(end)
            raise

    def _may_have_another(self) -> bool:
        return self._quick and len(self._under_way) == 1 and not self._pool.stopping.is_set()

    def _next_batch(self) -> _Batch | None:
        """Wait for work, but notice at once when the idle process dies."""
        assert self._process is not None
        while True:
            with contextlib.suppress(queue.Empty):
                return self._pool.take()
            if self._process.sentinel in wait([self._process.sentinel, self._wake]):
                raise self._ended()
            os.eventfd_read(self._wake)

    def _give(self, batch: _Batch) -> None:
        assert self._connection is not None
        if not self._under_way:
            batch.taken_up = self._clock()
            self._become(phase=Phase.BUSY, marked_at=batch.taken_up, jobs=tuple(batch.waiting))
        self._under_way.append(batch)
        try:
            self._connection.send(list(batch.waiting.values()))
        except OSError:
            raise self._ended() from None
        self._pool.scans.batch_taken()

    def _hear(self) -> None:
        """What the process at work says, or word that there is more for it to do."""
        messages = self._receive(self._batch_seconds, "computing a batch", heed_wake=self._may_have_another())
        outcomes = [each for each in messages if isinstance(each, Segmented | NotSegmented) and self._waits(each)]
        if outcomes:
            self._pool.scans.scans_answered(self._spec.number, outcomes)
        for message in messages:
            if isinstance(message, BatchEnded):
                self._batch_ended()
            elif isinstance(message, Poisoned):
                raise _Ended(f"its device context broke: {message.error}")
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
        now = self._clock()
        self._quick = now - self._under_way.popleft().taken_up < QUICK_SECONDS
        if self._under_way:
            self._under_way[0].taken_up = now
        else:
            self._become(phase=Phase.IDLE, jobs=(), stage="")

    def _receive(self, seconds: float, doing: str, *, heed_wake: bool = False) -> Sequence[FromReplica]:
        """The next messages; a silence longer than ``seconds`` is a hang. None came when `wake` was heeded first."""
        assert self._connection is not None
        assert self._process is not None
        sources: list[Any] = [self._connection, self._process.sentinel]
        left = self.status.marked_at + seconds - self._clock()
        ready = wait([*sources, self._wake] if heed_wake else sources, timeout=max(0.0, left))
        if not ready:
            raise self._kill_hung(f"no sign of life for {seconds:g} s while {doing}")
        if ready == [self._wake]:
            os.eventfd_read(self._wake)
            return ()
        try:
            if self._connection in ready or self._connection.poll():
                messages: list[FromReplica] = self._connection.recv()
            else:
                raise self._ended()
        except (EOFError, OSError):
            raise self._ended() from None
        self._become(marked_at=self._clock())
        for message in messages:
            if isinstance(message, Marked):
                self._become(stage=message.stage, fraction=message.fraction)
        return messages

    def _ended(self) -> _Ended:
        assert self._process is not None
        code = _exit_code(self._process)
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return _Ended(f"its process ended with {how}", self._stack())

    def _kill_hung(self, reason: str) -> _Ended:
        """Ask the hung process for its stack, then kill it."""
        assert self._process is not None
        pid = self._process.pid
        if pid is not None and self._process.is_alive():
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGCONT)
            self._pool.hurry.wait(STACK_SECONDS)
            self._process.kill()
            self._process.join(5.0)
        return _Ended(reason, self._stack())

    def _stack(self) -> str:
        try:
            return self._spec.stack.read_text(errors="replace").strip()
        except OSError:
            return ""

    def _answer_for(self, end: _Ended) -> None:
        """Scans that were under way crashed; the others had no part in it and are handed back."""
        batches, self._under_way = list(self._under_way), deque()
        waiting = [job for batch in batches for job in batch.waiting]
        if self._pool.stopping.is_set():
            self._pool.scans.scans_handed_back(tuple(waiting))
            return
        begun = {job for batch in batches for job in batch.begun}
        suspects = set(self.status.jobs) & set(waiting) & (begun or set(waiting))
        error = f"replica {self._spec.number} died while it worked on this scan: {end.reason}"
        failed = [NotSegmented(job_id=job, error_class=ErrorClass.CRASH, error=error) for job in suspects]
        self._pool.scans.scans_answered(self._spec.number, failed)
        if innocent := tuple(job for job in waiting if job not in suspects):
            self._pool.scans.scans_handed_back(innocent)

    def _bury(self, end: _Ended) -> None:
        """Make sure that the process and its memory are gone, and tell."""
        assert self._process is not None
        self._process.kill()
        self._process.join()
        pid = self._process.pid or 0
        died = Died(number=self._spec.number, pid=pid, reason=end.reason, stack=end.stack, jobs=self.status.jobs)
        self._become(
            phase=Phase.DOWN, pid=None, jobs=(), ready=None, restarts=self.status.restarts + 1, last_error=end.reason
        )
        self._pool.listener.replica_died(died)
        devices.wait_released(self._spec.visible, pid, stop=self._pool.stopping)

    def _give_up(self, message: str, hint: str = "", exit_code: int = UnavailableError.exit_code) -> None:
        self._shut()
        self._become(last_error=message)
        self._pool.listener.model_unusable(LoadFailed(message=message, hint=hint, exit_code=exit_code))

    def _shut(self) -> None:
        """End the process in good order; it holds no work any more."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
        if self._process is not None:
            self._process.join(2.0)
            self._process.kill()
            self._process.join()
        self._become(phase=Phase.STOPPED, pid=None)
        self._pool.listener.replica_stopped(self._spec.number)
