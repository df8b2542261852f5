"""Hooks of the real daemon: told again after a kill, never in the way of a scan, switched on and off by a reload."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, broken, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.end()


def note(service: Service, *, then: str = "") -> list[str]:
    """A command that writes down the key and the event of each call."""
    script = f'echo "$WATCHERD_IDEMPOTENCY_KEY $WATCHERD_JOB_STATE" >> {service.folder}/told; {then}'
    return ["sh", "-c", script]


def told(service: Service) -> list[list[str]]:
    file = service.folder / "told"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_a_hook_is_called_again_with_its_key_after_a_kill(service: Service) -> None:
    """Killed between the call and the note of it, the daemon calls again; then never more."""
    service.configure(hooks={"command": note(service)})
    service.drop("a.png", png(1))
    service.start("--once", crash_at="hook.called")
    assert -signal.SIGKILL == service.ended()
    assert {"succeeded": 1} == service.states()
    assert 0 == service.once()
    assert 0 == service.once()
    first, second = told(service)
    assert first == second
    assert "succeeded" == first[1]
    assert [("called", 1, first[0])] == service.rows("SELECT state, tries, key FROM hook")


def test_an_end_that_was_killed_before_the_call_is_told_at_the_next_start(service: Service) -> None:
    """The call is in the transaction of the end: killed right after it, nothing is missing."""
    service.configure(hooks={"command": note(service)})
    service.drop("a.png", png(1))
    service.start("--once", crash_at="record.committed")
    assert -signal.SIGKILL == service.ended()
    assert 0 == service.once()
    assert ["succeeded"] == [event for _, event in told(service)]


def test_a_hook_that_hangs_holds_back_no_scan(service: Service) -> None:
    """While the first call is still running, twelve scans are done; a stop does not wait for it for long."""
    service.configure(hooks={"command": ["sleep", "600"], "at_once": 1, "timeout_seconds": 900})
    service.start()
    service.ready()
    for number in range(11):
        service.drop(f"{number}.png", png(number))
    service.drop("bad.png", broken(1))
    service.finished(12)
    assert {"succeeded": 11, "failed": 1} == service.states()
    assert [("waiting", 12)] == service.rows("SELECT state, count(*) FROM hook GROUP BY state")
    begun = time.monotonic()
    assert 0 == service.stop()
    assert time.monotonic() - begun < 60
    assert [(0,)] == service.rows("SELECT max(tries) FROM hook")


def test_a_reload_switches_hooks_on_and_off_and_refuses_a_program_that_is_not_there(service: Service) -> None:
    """What ends in between is told accordingly."""
    service.start()
    service.ready()
    service.drop("before.png", png(1))
    service.finished(1)
    assert [] == service.rows("SELECT 1 FROM hook")
    service.configure(hooks={"command": ["./not-there"]})
    refused = service.command("reload")
    assert 78 == refused.returncode
    assert "hooks.command" in refused.stderr
    checked = service.command("config", "check")
    assert 78 == checked.returncode
    service.configure(hooks={"command": note(service)})
    assert 0 == service.command("reload").returncode
    service.wait(lambda: service.rows("SELECT 1 FROM hook_wish"), "the wish for calls")
    service.drop("with.png", png(2))
    service.wait(lambda: told(service), "the hook to be called")
    service.configure()
    assert 0 == service.command("reload").returncode
    service.wait(lambda: not service.rows("SELECT 1 FROM hook_wish"), "the end of the wish")
    service.drop("after.png", png(3))
    service.finished(3)
    assert 1 == len(service.rows("SELECT 1 FROM hook"))
    assert 0 == service.stop()


def test_a_call_that_was_given_up_is_seen_where_people_look(service: Service) -> None:
    """In the job's events, by the doctor, and in the log; not what the program said, when names are hidden."""
    script = "import json, sys; sys.exit('no room for ' + json.load(sys.stdin)['source'])"
    service.configure(hooks={"command": [sys.executable, "-c", script], "tries": 1}, privacy={"names": "hidden"})
    service.drop("Smith.png", png(1))
    assert 0 == service.once()
    events = service.json("show", "1")["events"]
    assert "hook-given-up" == events[-1]["kind"]
    findings = json.loads(service.command("doctor", "--json").stdout)
    (finding,) = (finding for finding in findings if finding["check"] == "hooks")
    assert ("warning", True) == (finding["level"], "job 1" in finding["text"])
    (entry,) = service.log("hook_given_up")
    assert "it ended with exit status 1" == entry["reason"]
    assert "Smith" not in service.logs.read_text()
