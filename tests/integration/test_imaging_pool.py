"""Tasks go to workers in groups, and what one does costs no other its result."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pebble import ProcessExpired

from watcherd.errors import CrashError, InputError
from watcherd.imaging import pool as pool_module
from watcherd.imaging.pool import GROUP, ImagingPool, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0


@pytest.fixture
def pool() -> Iterator[ImagingPool]:
    made = ImagingPool(workers=2, memory_mib=300)
    yield made
    made.stop()


def note(folder: Path, name: str) -> int:
    """Leave a file that says which worker did it, and in what order."""
    (folder / f"{time.monotonic_ns()}-{os.getpid()}-{name}").touch()
    return os.getpid()


def fail(reason: str) -> None:
    raise InputError(reason)


def die(folder: Path) -> None:
    note(folder, "died")
    os.kill(os.getpid(), signal.SIGKILL)


def hang(folder: Path) -> None:
    note(folder, "hung")
    time.sleep(600)


def quick(pool: ImagingPool, folder: Path) -> None:
    """Have the pool see that tasks are quick: it sends them in groups from then on."""
    for _ in range(40):
        pool.run(note, folder, "warm", seconds=PATIENCE).result()
    assert pool._task_seconds < 0.1 / GROUP


def test_tasks_of_a_block_go_to_the_workers_in_groups(pool: ImagingPool, tmp_path: Path) -> None:
    quick(pool, tmp_path)
    groups = []
    schedule = pool._schedule
    pool._schedule = lambda calls: (groups.append(len(calls)), schedule(calls))[1]  # type: ignore[func-returns-value]
    with pool.together():
        futures = [pool.run(note, tmp_path, str(number), seconds=PATIENCE) for number in range(12)]
        assert groups == []
    assert all(future.result() for future in futures)
    assert sum(groups) == 12
    assert groups[0] == 6
    assert len(groups) < 6


def test_a_lone_task_goes_at_once_and_slow_ones_go_alone(pool: ImagingPool) -> None:
    groups = []
    schedule = pool._schedule
    pool._schedule = lambda calls: (groups.append(len(calls)), schedule(calls))[1]  # type: ignore[func-returns-value]
    with pool.together():
        futures = [pool.run(time.sleep, 0.12, seconds=PATIENCE) for _ in range(4)]
    for future in futures:
        future.result()
    assert groups == [1, 1, 1, 1]


def test_an_error_is_that_of_its_task_alone(pool: ImagingPool, tmp_path: Path) -> None:
    quick(pool, tmp_path)
    with pool.together():
        good = [pool.run(note, tmp_path, "good", seconds=PATIENCE) for _ in range(3)]
        bad = pool.run(fail, "not a scan", seconds=PATIENCE)
        more = [pool.run(note, tmp_path, "good", seconds=PATIENCE) for _ in range(3)]
    assert all(future.result() for future in [*good, *more])
    with pytest.raises(InputError, match="not a scan"):
        bad.result()


@pytest.mark.parametrize(("what", "ends_with"), [(die, ProcessExpired), (hang, TimeoutError)])
def test_who_ends_a_worker_is_found_and_the_rest_of_the_group_get_their_results(
    pool: ImagingPool, tmp_path: Path, what: object, ends_with: type[Exception]
) -> None:
    quick(pool, tmp_path)
    with pool.together():
        before = [pool.run(note, tmp_path, "good", seconds=1.0) for _ in range(3)]
        bad = pool.run(what, tmp_path, seconds=1.0)  # type: ignore[arg-type]
        after = [pool.run(note, tmp_path, "good", seconds=1.0) for _ in range(3)]
    assert all(future.result(PATIENCE) for future in [*before, *after])
    with pytest.raises(ends_with) as caught:
        bad.result(PATIENCE)
    assert isinstance(explained(caught.value, doing="decoding", seconds=1.0), CrashError)
    ended = [path.name for path in tmp_path.iterdir() if path.name.endswith(("died", "hung"))]
    assert len(ended) == 2  # once in the group, once alone
    assert pool.run(note, tmp_path, "later", seconds=PATIENCE).result()


def test_when_all_workers_are_lost_new_ones_do_what_they_had(pool: ImagingPool, tmp_path: Path) -> None:
    """Also after a second loss: those that the first one's end has made live as long as they should."""
    for _ in range(2):
        quick(pool, tmp_path)
        with pool.together():
            futures = [pool.run(time.sleep, 0.05, seconds=PATIENCE) for _ in range(40)]
        for process in multiprocessing.active_children():
            process.kill()
        assert [future.result(PATIENCE) for future in futures] == [None] * 40
    assert pool.run(note, tmp_path, "later", seconds=PATIENCE).result(PATIENCE)


def test_a_stopped_pool_answers_for_what_it_had_not_begun(tmp_path: Path) -> None:
    pool = ImagingPool(workers=1, memory_mib=300)
    begun = pool.run(hang, tmp_path, seconds=PATIENCE)
    while not list(tmp_path.iterdir()):
        threading.Event().wait(0.01)
    waiting = [pool.run(note, tmp_path, "never", seconds=PATIENCE) for _ in range(20)]
    pool.stop()
    for future in [begun, *waiting]:
        assert future.exception(PATIENCE) is not None if not future.cancelled() else future.cancelled()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith("never")] == []


class SteppedClock:
    """The module `time` for pebble alone, with a wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@pytest.mark.parametrize("hours", [24, -24])
def test_setting_the_wall_clock_ends_no_task_and_lets_none_run_on(
    pool: ImagingPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """While one is under way, and with another that hangs; only how long they really take counts."""
    clock = SteppedClock()
    monkeypatch.setattr("pebble.pool.process.time", clock)
    good = pool.run(time.sleep, 2.0, seconds=PATIENCE)
    hung = pool.run(hang, tmp_path, seconds=1.0)
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    clock.offset = hours * 3600.0
    assert good.result(PATIENCE) is None
    with pytest.raises(TimeoutError):
        hung.result(PATIENCE)


def test_tasks_wait_until_there_is_room_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors or memory have run out: no task fails for that, and they keep their order."""
    made = pool_module.ImagingPool._make
    errors: list[BaseException] = [OSError(errno.EMFILE, "Too many open files")] * 3
    broken = BrokenProcessPool()
    broken.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    errors.append(broken)

    def refuse(pool: ImagingPool) -> Any:
        if errors:
            raise errors.pop()
        return made(pool)

    monkeypatch.setattr(pool_module, "START_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(ImagingPool, "_make", refuse)
    pool = ImagingPool(workers=1, memory_mib=300)
    try:
        futures = [pool.run(note, tmp_path, str(number), seconds=PATIENCE) for number in range(3)]
        assert {futures[0].result(PATIENCE)} == {future.result(PATIENCE) for future in futures}
        assert ["0", "1", "2"] == [path.name.rpartition("-")[2] for path in sorted(tmp_path.iterdir())]
    finally:
        pool.stop()
