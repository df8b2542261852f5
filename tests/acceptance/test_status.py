"""``watcherd status`` tells the truth about a real daemon: killed, frozen, paused, held up, cut off from its inbox."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, png
from tests.acceptance.test_faults import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.end()


def said(service: Service) -> str:
    """What a person reads."""
    answer = service.command("status")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_started_killed_and_stopped(service: Service) -> None:
    """Never started; at work; kill -9; started again; stopped in good order."""
    assert service.command("status").returncode == 70, "there is no history yet"
    service.start()
    service.ready()
    pid = service.pid
    assert said(service).startswith(f"watcherd is running since {service_start(service)}")
    assert f"pid {pid}." in said(service)
    service.drop("scan.png", png(1))
    service.finished(1)
    service.kill()
    text = said(service)
    assert text.startswith("watcherd is not running. It was killed: its run of ")
    assert f"(pid {pid}) did not end in good order; the last sign of life was at " in text
    assert service.json("status")["alive"] is False
    service.start()
    service.ready()
    assert "watcherd is running since " in said(service)
    assert service.stop() == 0
    assert said(service).startswith("watcherd is not running. Its last run stopped at ")


def service_start(service: Service) -> str:
    """The clock when the daemon began, to the hour and minute as a person's clock shows it."""
    return datetime.fromisoformat(service.live()["started_at"]).astimezone().strftime("%H:%M")


def test_killed_while_it_computed(service: Service) -> None:
    """What the history calls running is not running any more."""
    service.drop("scan.png", png(1))
    service.start(crash_at="claim.committed")
    assert service.ended() == -signal.SIGKILL
    text = said(service)
    assert "1 job was under way when it ended; the next start does it again." in text
    assert "1 left half-done" in text
    assert " running" not in text.split("\n", 2)[2].replace("not running", "").replace("watcherd runs", "")


def test_frozen(service: Service) -> None:
    """SIGSTOP: it holds its lock, and is not called running."""
    service.start()
    service.ready()
    service.signal(signal.SIGSTOP)
    assert said(service).startswith("watcherd is FROZEN")
    service.signal(signal.SIGCONT)
    assert said(service).startswith("watcherd is running since ")


def test_paused_by_a_person(service: Service) -> None:
    """And going on afterwards; the backlog stands still meanwhile."""
    service.start()
    service.ready()
    assert service.command("pause").returncode == 0
    service.drop("scan.png", png(1))
    service.wait(lambda: service.states() == {"queued": 1}, "the scan to be queued")
    text = said(service)
    assert text.startswith("watcherd is running, but PAUSED; started at ")
    assert "PAUSED by a person" in text
    assert "1 queued" in text
    assert "backlog  stands still" in text
    assert service.command("resume").returncode == 0
    service.finished(1)
    assert said(service).startswith("watcherd is running since ")


@pytest.mark.parametrize("full", ["state", "outbox"])
def test_paused_by_a_full_disk(full: str, tmp_path: Path) -> None:
    """With the daemon's own reason, and the disk's figures; also when the very status file lies on that disk."""
    service = Service(tmp_path)
    with small_disk(tmp_path / full, 16):
        try:
            service.drop("before.png", png(1))
            service.start()
            service.finished(1)
            filler = fill(tmp_path / full)
            for number in range(10, 14):
                service.drop(f"scan {number}.png", png(number))
            service.wait(lambda: service.live().get("paused"), "the pause to be shown")
            text = said(service)
            assert text.startswith("watcherd is running, but PAUSED; started at ")
            assert "No space left on device" in text
            assert f"The disk of the {full} folder is full: 0 MiB free of 16" in text
            filler.unlink()
            service.finished(5)
            service.wait(lambda: not service.live().get("paused"), "the pause to end")
            text = said(service)
            assert text.startswith("watcherd is running since ")
            assert "PAUSED" not in text
        finally:
            service.end()


def test_an_inbox_that_is_gone(service: Service) -> None:
    """Offline with the reason, online again by itself."""
    service.start()
    service.ready()
    service.wait(lambda: service.live()["inbox"]["online"], "the inbox to be online")
    service.inbox.rename(service.folder / "elsewhere")
    service.wait(lambda: not service.live()["inbox"]["online"], "the inbox to be offline")
    text = said(service)
    assert text.startswith("watcherd is running, but its inbox is OFFLINE; started at ")
    assert "No such file" in text
    (service.folder / "elsewhere").rename(service.inbox)
    service.wait(lambda: service.live()["inbox"]["online"], "the inbox to be back")
    assert said(service).startswith("watcherd is running since ")


def test_a_replica_that_dies(tmp_path: Path) -> None:
    """One of two: the other goes on. Both: nothing is computed. Each with what killed it, until it is back."""
    service = Service(tmp_path, model={"segmenter": "fake"}, devices={"replicas": 2})
    service.environment = {"WATCHERD_FAKE": json.dumps({"load_seconds": 1.5})}
    try:
        service.start()
        service.wait(lambda: len(ready(service)) == 2, "two replicas")
        first, second = ready(service)
        os.kill(first, signal.SIGKILL)
        service.wait(lambda: first not in ready(service), "the death to be noticed")
        text = said(service)
        assert text.startswith("watcherd is running since ")
        assert "SIGKILL. The others go on." in text
        os.kill(second, signal.SIGKILL)
        service.wait(lambda: second not in ready(service), "the second death to be noticed")
        if not ready(service):
            text = said(service)
            assert text.startswith("watcherd is running, but NO REPLICA IS READY; started at ") or ready(service), text
        service.wait(lambda: len(ready(service)) == 2, "both to be back")
        text = said(service)
        assert text.startswith("watcherd is running since ")
        assert "started again" in text
        assert "Nothing is computed" not in text
    finally:
        service.end()


def ready(service: Service) -> list[int]:
    """The processes of replicas that are ready, as the daemon says at the moment."""
    return [one["pid"] for one in service.live().get("replicas", []) if one["phase"] in ("idle", "busy")]
