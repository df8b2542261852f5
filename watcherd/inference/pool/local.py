"""A replica in a process on this machine: a pipe to talk through, files that both sides see."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from watcherd.errors import NO_ROOM_FOR_A_PROCESS
from watcherd.inference.machine import devices
from watcherd.inference.pool import prepared
from watcherd.inference.pool.carrier import Ended, NoRoomError, SilentError
from watcherd.inference.replica import process as replica
from watcherd.inference.replica.imports import NO_GPU

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess
    from threading import Event

    from watcherd.inference.messages import FromReplica, ReplicaSpec, Segmented, WorkItem
    from watcherd.inference.pool.bell import Bell

END_SECONDS = 2.0
"""Seconds for a process to end by itself before it is killed."""
CODE_SECONDS = 5.0
"""Seconds for the exit code of a process that has ended to become known."""


class LocalCarrier:
    """A process on this machine (see `Carrier`). Only `kill` is called by other threads than the replica's own."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    def start(self) -> int:
        """Start a process with a pipe to this one. Raises `NoRoomError` for want of descriptors or memory."""
        try:
            self._process, self._connection = prepared.start([self._spec.model], self._begin)
        except OSError as error:
            if error.errno not in NO_ROOM_FOR_A_PROCESS:
                raise
            raise NoRoomError(error.strerror) from error
        return self._process.pid or 0

    def _begin(self, context: ForkServerContext | SpawnContext) -> tuple[BaseProcess, Connection[Any, Any]]:
        ours, theirs = context.Pipe()
        with theirs:
            process: BaseProcess = context.Process(
                target=replica.main,
                args=(self._spec, theirs),
                name=f"watcherd-replica-{self._spec.number}",
                daemon=True,
            )
            process.start()
        return process, ours

    def bring(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Nothing to do: the process sees the same files."""
        return items

    def send(self, items: Sequence[WorkItem]) -> None:
        """Through the pipe. Raises `Ended` when nobody listens any more."""
        assert self._connection is not None
        try:
            self._connection.send(list(items))
        except OSError:
            raise self._ended() from None

    def receive(self, seconds: float, bell: Bell | None = None) -> Sequence[FromReplica] | None:
        """From the pipe; what it holds is read before the process's end counts."""
        assert self._connection is not None
        assert self._process is not None
        sources: list[Any] = [self._connection, self._process.sentinel]
        ready = wait(sources if bell is None else [*sources, bell.fileno()], timeout=seconds)
        if not ready:
            raise SilentError
        if bell is not None and ready == [bell.fileno()]:
            bell.answer()
            return None
        try:
            if self._connection in ready or self._connection.poll():
                messages: list[FromReplica] = self._connection.recv()
                return messages
        except (EOFError, OSError):
            raise self._ended() from None
        raise self._ended()

    def rest(self, bell: Bell) -> None:
        """Sleep until the bell rings. Raises `Ended` when the process ends first."""
        assert self._process is not None
        if self._process.sentinel in wait([self._process.sentinel, bell.fileno()]):
            raise self._ended()
        bell.answer()

    def fetch(self, outcome: Segmented) -> Segmented:
        """Nothing to do: the results are where they were asked for."""
        return outcome

    def ask_for_stack(self) -> bool:
        """By SIGUSR1 (see `replica.process`), and SIGCONT for a process that somebody has stopped."""
        pid = self._process.pid if self._process is not None and self._process.is_alive() else None
        if pid is None:
            return False
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGCONT)
        return True

    def stack(self) -> str:
        """From the file that the process was given for it."""
        try:
            return self._spec.stack.read_text(errors="replace").strip()
        except OSError:
            return ""

    def kill(self) -> None:
        """By SIGKILL."""
        process = self._process
        if process is not None and process.is_alive():
            process.kill()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the process's end."""
        if self._process is not None:
            self._process.join(seconds)

    def unreachable(self) -> bool:
        """Never: it is this machine."""
        return False

    def wait_released(self, stop: Event) -> None:
        """Until the driver does not count the process among the users of its GPUs any more."""
        assert self._process is not None
        devices.wait_released(self._spec.visible, self._process.pid or 0, stop=stop)

    def end(self) -> None:
        """Ask it to end, and kill it after `END_SECONDS`."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send(None)
        self.join(END_SECONDS)
        self.kill()
        self.join()

    def _ended(self) -> Ended:
        assert self._process is not None
        code = _exit_code(self._process)
        if code == NO_GPU:
            prepared.give_up()
            return Ended("a process that was forked cannot use a GPU here; from now on each is started anew")
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return Ended(f"its process ended with {how}", self.stack())


def _exit_code(process: BaseProcess) -> int | None:
    """How the process ended. Starting another process makes multiprocessing reap all children, so the exit code may be
    missing for a moment."""
    until = time.monotonic() + CODE_SECONDS
    process.join(CODE_SECONDS)
    while process.exitcode is None and time.monotonic() < until:
        time.sleep(0.01)
    return process.exitcode
