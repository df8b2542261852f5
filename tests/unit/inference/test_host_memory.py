"""What the C library does with a replica's memory, and when it is asked to."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from watcherd.inference.replica import host_memory
from watcherd.inference.replica.process import REST_SECONDS, _Worker

if TYPE_CHECKING:
    from collections.abc import Callable

TAKING = """
import json, resource
from pathlib import Path
import numpy as np
from watcherd.inference.replica import host_memory

def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones({blocks}, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

host_memory.keep_freed()
taken()
again, held = taken(), resident()
host_memory.give_back()
print(json.dumps(dict(again=again, given_back=held - resident())))
"""
PAGES = 16_384
"""Of 4 KiB; huge ones are fewer."""


def kept_pages() -> dict[str, int]:
    """What becomes of a block of 64 MiB in a process of its own: pages taken the second time, and given back."""
    script = TAKING.format(blocks=PAGES * 4096)
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    result: dict[str, int] = json.loads(ran.stdout)
    return result


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_memory_is_kept_for_the_next_batch_and_given_back_when_asked() -> None:
    kept = kept_pages()
    assert kept["again"] < PAGES / 100
    assert kept["given_back"] > 0.9 * PAGES


@pytest.mark.parametrize("ask", [host_memory.keep_freed, host_memory.give_back])
def test_other_c_libraries_do_as_they_did(ask: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _name: object())
    ask()


class Line:
    """A connection through which work comes after a rest, or at once, and then the end."""

    def __init__(self, log: list[str], *, at_once: bool) -> None:
        self._log = log
        self._at_once = at_once
        self._lists: list[Any] = [[], None]

    def poll(self, seconds: float) -> bool:
        return self._at_once or seconds < REST_SECONDS

    def recv(self) -> Any:
        self._log.append("work" if len(self._lists) == 2 else "end")
        return self._lists.pop(0)


class Idle:
    """Work that is done as soon as it has come."""

    worn = ""

    def __init__(self, *_: object) -> None: ...
    def take(self, _items: object) -> None: ...
    def computed(self) -> bool:
        return True

    def rest(self) -> None: ...


@pytest.mark.parametrize(
    ("at_once", "log"),
    [(True, ["keep", "work", "end"]), (False, ["keep", "give back", "work", "give back", "end"])],
)
def test_a_replica_keeps_memory_at_work_and_gives_it_back_at_rest(
    at_once: bool, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(host_memory, "keep_freed", lambda: seen.append("keep"))
    monkeypatch.setattr(host_memory, "give_back", lambda: seen.append("give back"))
    monkeypatch.setattr("watcherd.inference.replica.work.Work", Idle)
    worker = object.__new__(_Worker)
    worker._connection = cast("Any", Line(seen, at_once=at_once))
    worker._segmenter = worker._probe = worker._meter = cast("Any", None)  # type: ignore[assignment]
    worker.serve()
    assert log == seen
