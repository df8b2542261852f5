"""The threads of a running daemon, as the kernel names them."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_EACH = {
    "store", "metrics", "metrics-port", "hooks", "hook-1", "replica-0", "replica-1", "imaging", "imaging-watch",
    "intake", "events", "feed", "stage", "finish", "dispose",
}  # fmt: skip
"""``cards`` is missing: it looks at GPUs only where there are some (see tests/unit/inference/test_cards.py)."""
SHARED = {"imaging-pool"}
"""The threads of the library that keeps the imaging workers."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = Service(
        tmp_path,
        devices={"replicas": 2},
        metrics={"port": port},
        hooks={"command": ["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"]},
    )
    yield service
    (tmp_path / "go").touch()
    service.end()


def threads(pid: int) -> Counter[str]:
    """The names of a process's threads, and how many have each."""
    names: Counter[str] = Counter()
    for comm in Path(f"/proc/{pid}/task").glob("*/comm"):
        try:
            names[comm.read_text().rstrip("\n")] += 1
        except OSError:  # it has just ended
            continue
    return names


def test_every_thread_of_the_daemon_has_a_name_of_its_own(service: Service) -> None:
    """So that top, ps, perf and a debugger say which part is busy, or hangs."""
    service.drop("a.png", png(1))
    service.start()
    service.ready()
    found = service.wait(lambda: ready(threads(service.pid)), "every thread to have its name")
    assert dict.fromkeys(ONE_EACH, 1) == {name: found[name] for name in ONE_EACH}
    main = Path(f"/proc/{service.pid}/task/{service.pid}/comm").read_text().rstrip("\n")
    assert main not in ONE_EACH | SHARED


def ready(found: Counter[str]) -> Counter[str] | None:
    return found if ONE_EACH | SHARED <= found.keys() else None
