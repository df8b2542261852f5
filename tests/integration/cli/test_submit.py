"""``watcherd submit`` while no daemon runs, and what it makes of what the history says. (With one:
tests/acceptance/test_submit.py.)"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import png
from watcherd.state import lock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine


@pytest.fixture
def scans(tmp_path: Path) -> list[str]:
    """Two scans that nobody has seen yet."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for number in (11, 12):
        (folder / f"{number}.png").write_bytes(png(number))
    return [str(path) for path in sorted(folder.iterdir())]


def in_the_inbox(watcherd: CommandLine) -> set[str]:
    inbox = watcherd.config.inbox.path
    return {str(path.relative_to(inbox)) for path in inbox.rglob("*") if path.is_file()}


def test_scans_wait_for_a_daemon_that_is_down(watcherd: CommandLine, scans: list[str]) -> None:
    """They are in the inbox, the command succeeds, and the person hears that they wait."""
    said = watcherd("submit", *scans, "--profile", "coronary")
    assert 0 == said.code
    assert "dropped coronary/11.png\ndropped coronary/12.png\n" == said.out
    assert "watcherd is not running: the scans wait in the inbox" in said.err
    assert {"coronary/11.png", "coronary/12.png"} == in_the_inbox(watcherd)


def test_waiting_for_a_daemon_that_is_down_ends_in_time(watcherd: CommandLine, scans: list[str]) -> None:
    """Exit code 75; what waits is named in JSON too."""
    said = watcherd("submit", *scans, "--wait", "--timeout", "0.3", "--json")
    assert 75 == said.code
    assert "2 of 2 scans had not ended within 300 ms" in said.err
    assert ["dropped", "dropped"] == [scan["state"] for scan in json.loads(said.out)]


def test_a_scan_that_is_taken_away_is_not_waited_for(
    watcherd: CommandLine, scans: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing will ever come of it."""

    def drop_and_lose(*_: object) -> bytes:
        return b"lost.png"

    monkeypatch.setattr(sys.modules["watcherd.cli.submit"], "drop", drop_and_lose)
    said = watcherd("submit", scans[0], "--wait", "--json")
    assert 65 == said.code
    (scan,) = json.loads(said.out)
    assert ("gone", "It was taken out of the inbox before watcherd took it.") == (scan["state"], scan["error"])


def test_a_job_that_is_done_is_waited_for_until_its_result_has_this_name(watcherd: CommandLine) -> None:
    """The same bytes under another name: the job has long succeeded, its result is still to be put there."""
    look, config = sys.modules["watcherd.cli.submit"].look, watcherd.config
    for delivery, expected in (("due", "delivering"), ("delivered", "succeeded")):
        with closing(sqlite3.connect(config.state.database)) as connection, connection:
            connection.execute("UPDATE arrival SET delivery = ? WHERE path_text = 'again.png'", (delivery,))
        scan = {"source": "again.png", "state": "dropped", "outputs": []}
        look(config, [scan], 0)
        assert expected == scan["state"]
    assert [str(config.outbox.path / "masks" / "again.png")] == [
        output["path"] for output in scan["outputs"] if output["kind"] == "mask"
    ]


def test_nothing_is_copied_when_one_of_them_cannot_be(watcherd: CommandLine, scans: list[str]) -> None:
    """All are looked at first."""
    answer = watcherd("submit", scans[0], "missing.png")
    assert (64, "") == (answer.code, answer.out)
    assert "missing.png cannot be read" in answer.err
    assert set() == in_the_inbox(watcherd)


def test_an_inbox_that_is_offline_is_left_alone(watcherd: CommandLine, scans: list[str]) -> None:
    """What lies below an unmounted share would be hidden when it is back."""
    live = {"pid": os.getpid(), "phase": "running", "inbox": {"online": False, "reason": "nothing is mounted there"}}
    (watcherd.config.state.path / "status.json").write_text(json.dumps(live))
    with lock.sole_owner(watcherd.config.state.lock):
        answer = watcherd("submit", *scans)
    assert (69, "") == (answer.code, answer.out)
    assert "offline: nothing is mounted there" in answer.err
    assert set() == in_the_inbox(watcherd)


def test_before_the_first_start_scans_may_wait_already(watcherd: CommandLine, scans: list[str]) -> None:
    """There is no history yet; the inbox suffices."""
    watcherd.config.state.database.unlink()
    assert 0 == watcherd("submit", *scans).code
    assert 75 == watcherd("submit", *scans, "--wait", "--timeout", "0.1").code
