"""Names of threads in the kernel."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from watcherd.linux.threads import NamedThread, name_thread


def comm() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().rstrip("\n")


@pytest.mark.parametrize(("name", "kept"), [("feed", "feed"), ("hook-12345678901", "hook-1234567890")])
def test_the_kernel_knows_a_threads_name(name: str, kept: str) -> None:
    """The first 15 bytes of it, and Python the whole."""
    seen: list[str] = []
    thread = NamedThread(target=lambda: seen.append(comm()), name=name)
    thread.start()
    thread.join()
    assert name == thread.name
    assert [kept] == seen


def test_only_the_calling_thread_gets_the_name() -> None:
    """The main thread stays what it is."""
    before = comm()
    thread = threading.Thread(target=name_thread, args=("another",))
    thread.start()
    thread.join()
    assert before == comm()
