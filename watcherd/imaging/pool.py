"""The imaging workers: spawned processes with a memory limit; each task has a deadline.

A worker that dies or overruns costs its task only. Call `ImagingPool.start` from a thread that lives as long as the
pool: the kernel ends the workers with the thread that made them.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from watcherd.errors import CrashError
from watcherd.imaging.worker import start_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")

TASKS_PER_WORKER = 5000
"""A worker is replaced after so many tasks, whatever a decoder may have leaked."""


class ImagingPool:
    """Runs functions of this package in workers."""

    def __init__(self, *, workers: int, memory_mib: int) -> None:
        self._workers = workers
        self._memory_mib = memory_mib
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None

    def start(self) -> None:
        """Start the workers; without it the first task does."""
        with self._lock:
            self._pool = self._pool or self._make()

    def _make(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=self._workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=start_worker,
            initargs=[self._memory_mib, os.getpid()],
            context=get_context("spawn"),
        )
        assert pool.active
        return pool

    def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> Future[T]:
        """Have a worker call ``function``; the future raises what it raised.

        See `explained` for what it raises when the worker died or overran ``seconds``.
        """
        with self._lock:
            self._pool = self._pool or self._make()
            try:
                return self._pool.schedule(function, args=arguments, timeout=seconds)
            except (RuntimeError, BrokenProcessPool):  # all workers were lost at once: begin anew
                self._pool.stop()
                self._pool = self._make()
                return self._pool.schedule(function, args=arguments, timeout=seconds)

    def stop(self) -> None:
        """End the workers, with whatever they are doing."""
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join(5)


def explained(error: BaseException, *, doing: str, seconds: float) -> BaseException:
    """The end of a worker as an error of ours; other errors as they are."""
    if isinstance(error, ProcessExpired):
        return CrashError(
            f"The process that was {doing} the scan died (exit code {error.exitcode}).",
            hint="The file is probably damaged; open and save it again with another program.",
        )
    if isinstance(error, TimeoutError):
        return CrashError(
            f"{doing.capitalize()} the scan took longer than {seconds:g} s and was ended.",
            hint="Raise limits.decode_seconds if the scan is good.",
        )
    if isinstance(error, BrokenProcessPool):
        return CrashError(f"All imaging workers were lost while one was {doing} the scan.")
    return error
