"""The imaging workers: spawned processes with a memory limit; each task has a deadline.

A worker that dies or overruns costs its task only.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

from pebble import CONSTS, ProcessExpired, ProcessPool

from watcherd.errors import NO_ROOM_FOR_A_PROCESS, CrashError
from watcherd.imaging.worker import run_group, start_worker
from watcherd.linux.threads import NamedThread, name_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from watcherd.imaging.worker import Call, Ended

T = TypeVar("T")

LOOK_SECONDS = 0.25
"""How often pebble looks for workers that died: two of its threads wake up so often, also at rest. And how often it is
looked for groups that take too long, while there are any."""
START_AGAIN_SECONDS = 1.0
"""Seconds before workers are started again for which the machine had no descriptors or memory."""
TASKS_PER_WORKER = 5000
"""Groups of tasks after which a worker is replaced, so that nothing a decoder leaks adds up."""
GROUP = 8
"""Tasks that go to a worker together, at most."""
GROUP_SECONDS = 0.1
"""Seconds that a group of tasks may take in all, judged by the last ones."""


@dataclass(eq=False, slots=True)
class _Task:
    """A call that waits for a worker. ``alone``: it was with others when their worker ended, or all workers did."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    seconds: float
    alone: bool = False
    future: Future[Any] = field(default_factory=Future)


class _Deadline:
    """How long a group may take from when it is first seen to run. Seconds of a clock that nobody sets: pebble's own
    deadlines are of the wall clock, and to set that would end whatever is under way."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None

    def is_over(self, now: float, *, running: bool) -> bool:
        """Whether it has taken too long by ``now``."""
        if self._began is None and running:
            self._began = now
        return self._began is not None and now - self._began > self._seconds


class ImagingPool:
    """Runs functions of this package in workers.

    To hand a task over and to hear of it costs as much as decoding a small scan. So quick tasks that wait at the same
    time go to the workers in groups; a lone task goes at once. When a group costs its worker its life, or overruns,
    each of its tasks is given to a worker by itself: those that had no part in it get their results.
    """

    def __init__(self, *, workers: int, memory_mib: int) -> None:
        self._workers = workers
        self._memory_mib = memory_mib
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._given = 0
        """Groups that workers have, or will have as soon as they are free."""
        self._task_seconds = GROUP_SECONDS
        self._gathering = 0
        self._pool: ProcessPool | None = None
        self._under_way: dict[Future[list[Ended]], _Deadline] = {}
        self._overran: set[Future[list[Ended]]] = set()
        self._some_under_way = threading.Event()
        self._ended = threading.Event()
        self._stopped = False
        self._thread = NamedThread(target=self._serve, name="imaging", daemon=True)
        self._watch = NamedThread(target=self._end_what_overruns, name="imaging-watch", daemon=True)

    def start(self) -> None:
        """Start the workers; without it the first task does."""
        with self._changed:
            if not self._thread.is_alive() and not self._stopped:
                self._thread.start()
                self._watch.start()

    def run(self, function: Callable[..., T], *arguments: Any, seconds: float) -> Future[T]:
        """Have a worker call ``function``; the future raises what it raised.

        See `explained` for what it raises when the worker died or overran ``seconds``.
        """
        task = _Task(function, arguments, seconds)
        self.start()
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is run inside is shared out when the block ends, rather than one by one as it comes."""
        with self._changed:
            self._gathering += 1
        try:
            yield
        finally:
            with self._changed:
                self._gathering -= 1
                self._changed.notify()

    def _serve(self) -> None:
        """Give what waits to the workers until `stop`: in one thread, for the kernel ends them with that which made
        them (`worker.start_worker`)."""
        with suppress(OSError, BrokenProcessPool):  # the first task tries again, and says what is wrong
            self._pool = self._make()
        while (group := self._next()) is not None:
            try:
                future = self._schedule([(task.function, task.arguments) for task in group])
            except Exception as error:  # not even new workers can be started
                if _is_passing(error):
                    self._put_back(group)
                    self._ended.wait(START_AGAIN_SECONDS)
                else:
                    self._failed(group, error)  # these tasks fail, the next try again
                continue
            self._under_way[future] = _Deadline(group[0].seconds)
            self._some_under_way.set()
            future.add_done_callback(partial(self._done, group))
        self._end_pool()

    def _end_what_overruns(self) -> None:
        """Cancel groups that take too long, in a thread of its own: pebble ends the worker of one that is cancelled."""
        while not self._stopped:
            self._some_under_way.wait()
            if not self._under_way:
                self._some_under_way.clear()
                if not self._under_way:  # none has come since
                    continue
                self._some_under_way.set()
            for future, deadline in list(self._under_way.items()):
                if deadline.is_over(time.monotonic(), running=future.running()):
                    self._overran.add(future)
                    future.cancel()
            self._ended.wait(LOOK_SECONDS)

    def _schedule(self, calls: Sequence[Call]) -> Future[list[Ended]]:
        self._pool = self._pool or self._make()
        try:
            return self._pool.schedule(run_group, args=(calls,))
        except (RuntimeError, BrokenProcessPool):  # all workers were lost at once: begin anew
            self._end_pool()
            self._pool = self._make()
            return self._pool.schedule(run_group, args=(calls,))

    def _end_pool(self) -> None:
        """End the workers. What pebble had not told them yet it forgets: those tasks are given back by `_done`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join(5)
        for future in list(self._under_way):
            future.cancel()

    def _make(self) -> ProcessPool:
        CONSTS.sleep_unit = LOOK_SECONDS
        name_thread("imaging-pool")  # pebble's threads begin with the name of the one that starts them
        pool = ProcessPool(
            max_workers=self._workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=start_worker,
            initargs=[self._memory_mib, os.getpid()],
            context=get_context("spawn"),
        )
        try:
            assert pool.active
        except BaseException:  # some of its workers may have been started
            pool.stop()
            pool.join(5)
            raise
        finally:
            name_thread(self._thread.name)
        return pool

    def _next(self) -> list[_Task] | None:
        """Wait for a group, and for somebody to take it: each worker has one, and finds another when it is done."""
        with self._changed:
            while not self._stopped:
                if self._waiting and not self._gathering and self._given < 2 * self._workers:
                    self._given += 1
                    return self._next_group()
                self._changed.wait()
        return None

    def _next_group(self) -> list[_Task]:
        """As many as share out evenly, and are quick enough together."""
        even = math.ceil(len(self._waiting) / self._workers)
        most = max(1, min(even, GROUP, int(GROUP_SECONDS / self._task_seconds)))
        group = [self._waiting.popleft()]
        while len(group) < most and self._waiting and not (group[0].alone or self._waiting[0].alone):
            group.append(self._waiting.popleft())
        return group

    def _done(self, group: Sequence[_Task], future: Future[list[Ended]]) -> None:
        """A group has ended, or has ended its worker; called from a thread of pebble's."""
        self._under_way.pop(future, None)
        overran = future in self._overran
        self._overran.discard(future)
        try:
            ended = future.result()
        except BaseException as error:  # a worker's death, a deadline, or the pool's end
            self._failed(group, TimeoutError() if overran and isinstance(error, CancelledError) else error)
            return
        with self._changed:
            self._given -= 1
            for each in ended:
                self._task_seconds = max(1e-6, 0.8 * self._task_seconds + 0.2 * each.seconds)
            self._changed.notify()
        for task, each in zip(group, ended, strict=True):
            if each.error is not None:
                task.future.set_exception(each.error)
            else:
                task.future.set_result(each.result)

    def _put_back(self, group: Sequence[_Task]) -> None:
        """No worker was to be had for these; they stay the first."""
        with self._changed:
            self._given -= 1
            if not self._stopped:
                self._waiting.extendleft(reversed(group))
                return
        for task in group:
            task.future.cancel()
            task.future.set_running_or_notify_cancel()

    def _failed(self, group: Sequence[_Task], error: BaseException) -> None:
        """Whose fault it was shows when each is given to a worker again, by itself."""
        unclear = len(group) > 1 or isinstance(error, BrokenProcessPool | CancelledError)
        with self._changed:
            self._given -= 1
            again = [task for task in group if unclear and not task.alone and not self._stopped]
            for task in reversed(again):
                task.alone = True
                self._waiting.appendleft(task)
            self._changed.notify()
        for task in group:
            if task not in again:
                task.future.set_exception(error)

    def stop(self) -> None:
        """End the workers, with whatever they are doing; what they had not begun is cancelled."""
        with self._changed:
            self._stopped = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify()
        self._ended.set()
        self._some_under_way.set()
        for task in waiting:
            task.future.cancel()
            task.future.set_running_or_notify_cancel()
        if self._thread.is_alive():
            self._thread.join()
            self._watch.join()


def _is_passing(error: BaseException) -> bool:
    """Whether workers cannot be started for want of descriptors or memory; pebble hides the kernel's error."""
    cause = error.__cause__ if isinstance(error, BrokenProcessPool) else error
    return isinstance(cause, OSError) and cause.errno in NO_ROOM_FOR_A_PROCESS


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
