"""``watcherd submit`` to the running service: scans go in whole, and each is waited for until its result is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service, broken, marked_png, png
from tests.terminal import on_a_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, model={"segmenter": "fake"})
    yield service
    service.end()


def outside(service: Service, name: str, content: bytes) -> Path:
    """A file that lies somewhere else and is about to be submitted under its own name."""
    path = service.folder / "outside" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    service.remember(name, content)
    return path


def submitted(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {scan["source"]: scan for scan in json.loads(answer.stdout)}


def test_every_scan_is_waited_for_and_its_results_are_named(service: Service) -> None:
    """Code 0 when all have succeeded, 65 when one has not; the same bytes again resolve to the first one's job."""
    service.start()
    service.ready()
    good, other = outside(service, "good.png", png(1)), outside(service, "other.png", png(2))
    answer = service.command("submit", str(good), str(other), "--wait", "--json")
    assert answer.returncode == 0, answer.stderr
    scans = submitted(answer)
    for name in ("good.png", "other.png"):
        assert scans[name]["state"] == "succeeded"
        assert {"mask", "overlay", "result"} == {output["kind"] for output in scans[name]["outputs"]}
        assert all(Path(output["path"]).is_file() for output in scans[name]["outputs"])

    bad, none = outside(service, "bad.png", broken(1)), outside(service, "no mask.png", marked_png(3, "no-mask"))
    same = outside(service, "same.png", png(1))
    answer = service.command("submit", str(bad), str(none), str(same), "--wait", "--json")
    assert answer.returncode == 65, answer.stderr
    again = submitted(answer)
    assert {"bad.png": "failed", "no mask.png": "failed", "same.png": "succeeded"} == {
        name: scan["state"] for name, scan in again.items()
    }
    assert again["bad.png"]["error"]
    assert again["same.png"]["job"] == scans["good.png"]["job"]
    assert all(Path(output["path"]).name.startswith("same") for output in again["same.png"]["outputs"])

    words = service.command("submit", str(good), "--wait")
    service.remember("good.png", png(1))
    assert words.returncode == 0, words.stderr
    assert "good.png: succeeded (job " in words.stdout
    assert str(service.outbox / "masks" / "good.png") in words.stdout
    service.finished(6)
    assert check_invariants(service) == []


def test_on_a_terminal_a_bar_counts_them(service: Service) -> None:
    """And the results are lines of their own."""
    service.start()
    service.ready()
    scan = outside(service, "good.png", png(1))
    lines = on_a_terminal("submit", str(scan), "--wait", "--config", str(service.config))
    assert [line for line in lines if "0/1" in line], lines
    assert "good.png: succeeded (job 1)" in lines, lines


def test_waiting_ends_when_the_time_is_up(service: Service) -> None:
    """Code 75; the scans go on."""
    service.start()
    service.ready()
    assert service.command("pause").returncode == 0
    scan = outside(service, "good.png", png(1))
    answer = service.command("submit", str(scan), "--wait", "--timeout", "1")
    assert (answer.returncode, answer.stdout) == (75, "")
    assert "1 of 1 scans had not ended" in answer.stderr
    assert service.command("resume").returncode == 0
    service.finished(1)
    assert check_invariants(service) == []


def test_a_daemon_that_comes_late_is_waited_for(service: Service) -> None:
    """Submitted while it is down, killed while it works: the one who waits hears of the result all the same."""
    scan = outside(service, "good.png", png(1))
    command = [sys.executable, "-m", "watcherd", "submit", scan, "--wait", "--config", service.config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert "watcherd is not running: the scans wait" in waiting.stderr.readline()
        service.start(crash_at="claim.committed")
        assert service.ended() == -signal.SIGKILL
        assert waiting.poll() is None
        service.start()
        out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, err
    assert "good.png: succeeded" in out
    service.finished(1)
    assert check_invariants(service) == []
    assert [] == list(service.inbox.glob(".watcherd*"))
