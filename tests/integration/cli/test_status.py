"""``watcherd status`` tells the truth: it calls no dead daemon alive, and says what holds a live one up."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from tests.terminal import on_a_terminal
from watcherd.cli.status import _picture
from watcherd.state import lock
from watcherd.status.starting import how_to_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.cli.conftest import CommandLine

LIVE = {
    "phase": "running",
    "started_at": "2026-01-02T03:04:05+00:00",
    "held": True,
    "paused": {"spool": "the disk is full; make room there"},
    "inbox": {"online": False, "reason": "nothing is mounted there", "filesystem": "nfs4", "sweep_seconds": 3.0},
    "replicas": [
        {"number": 0, "devices": ["GPU-1"], "phase": "idle", "stage": "", "fraction": None, "restarts": 2,
         "last_error": "killed by signal 9"},
        {"number": 1, "devices": ["GPU-2"], "phase": "loading", "stage": "weights", "fraction": 0.5, "restarts": 0,
         "last_error": None},
    ],
}  # fmt: skip


def write_live(watcherd: CommandLine, pid: int, **changes: Any) -> None:
    """What a daemon of this pid would have written."""
    (watcherd.config.state.path / "status.json").write_text(json.dumps(LIVE | {"pid": pid} | changes))


def test_after_a_clean_stop_it_says_so(watcherd: CommandLine) -> None:
    """Not running, when and how the last run ended, and what there is."""
    said = watcherd("status")
    assert 0 == said.code
    assert "watcherd is not running. Its last run finished at" in said.out
    assert "2 succeeded, 2 failed" in said.out
    assert "1 duplicate" in said.out
    assert "refused.png" in said.out


def test_as_json_it_has_every_state_and_fate(watcherd: CommandLine) -> None:
    """Zeros too, so that a script needs no defaults."""
    said = watcherd("status", "--json").json
    assert (False, None) == (said["alive"], said["daemon"])
    assert {"queued", "running", "delivering", "succeeded", "failed", "quarantined", "cancelled"} == said["jobs"].keys()
    assert 5 == sum(said["arrivals"].values())
    assert 0.4 == said["per_minute"]
    assert ["failed", "failed"] == [failure["state"] for failure in said["failures"]]


def test_a_killed_daemon_is_not_taken_for_a_running_one(watcherd: CommandLine) -> None:
    """Its status file is still there, and the last run has no end: the kernel's lock is what counts."""
    write_live(watcherd, os.getpid())
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute("UPDATE run SET ended_at = NULL, end_reason = NULL WHERE id = 2")
    said = watcherd("status")
    assert "watcherd is not running" in said.out
    assert "It was killed: its run of " in said.out
    assert "did not end in good order" in said.out
    assert f"Start it: {how_to_start()}" in said.out
    assert not watcherd("status", "--json").json["alive"]


def test_a_running_daemon_shows_what_holds_it_up(watcherd: CommandLine) -> None:
    """Replicas with their restarts and stages, an inbox that is away, pauses with their reasons, a person's pause."""
    with lock.sole_owner(watcherd.config.state.lock):
        write_live(watcherd, os.getpid())
        said = watcherd("status")
        answer = watcherd("status", "--json").json
    assert said.out.startswith("watcherd is running, but PAUSED; started at ")
    for words in (
        f"pid {os.getpid()}",
        "replica 0 on GPU-1: idle, started again 2 times (killed by signal 9)",
        "replica 1 on GPU-2: loading, weights 50%",
        "The inbox is OFFLINE: nothing is mounted there",
        "OFFLINE (nfs4, swept every 3 s)",
        "PAUSED by a person",
        "PAUSED spool: the disk is full",
    ):
        assert words in said.out, words
    assert (True, os.getpid()) == (answer["alive"], answer["daemon"]["pid"])


def test_a_daemon_that_has_written_nothing_yet_is_starting(watcherd: CommandLine) -> None:
    """What an earlier one wrote is not shown as its own."""
    write_live(watcherd, 1)
    with lock.sole_owner(watcherd.config.state.lock):
        assert f"watcherd is starting, pid {os.getpid()}." in watcherd("status").out


def test_the_backlog_is_estimated_from_the_rate(watcherd: CommandLine) -> None:
    """Four jobs ended in ten minutes; two of them wait again, so two ended and two wait: ten minutes."""
    assert 0 == watcherd("retry", "--state", "failed").code
    said = watcherd("status", "--json").json
    assert (2, 0.2, 600) == (said["jobs"]["queued"], said["per_minute"], said["backlog_seconds"])
    assert said["oldest_queued"]
    assert "backlog   waits until watcherd runs" in watcherd("status").out
    with lock.sole_owner(watcherd.config.state.lock):
        write_live(watcherd, os.getpid(), held=False, paused={}, started_at="2026-01-02T03:04:05+00:00")
        assert "backlog   done in about 10 min" in watcherd("status").out
        write_live(watcherd, os.getpid())
        assert "backlog   stands still" in watcherd("status").out


def test_without_a_history_it_says_where_it_looked(watcherd: CommandLine) -> None:
    """A daemon that never ran."""
    watcherd.config.state.database.unlink()
    said = watcherd("status")
    assert (70, "") == (said.code, said.out)
    assert str(watcherd.config.state.database) in said.err


def test_on_a_terminal_of_80_columns_it_fits(watcherd: CommandLine) -> None:
    """No line is wider, and words are not lost; colours only there."""
    lines = on_a_terminal("status", "--config", str(watcherd.config_file))
    assert 10 < len(lines)
    assert 80 >= max(map(len, lines))
    assert [line for line in lines if "watcherd is not running" in line]
    assert not [line for line in lines if "\t" in line]
    assert "\x1b" not in watcherd("status").out


def test_watching_needs_a_terminal(watcherd: CommandLine) -> None:
    """A file would be filled without end; the interval is named and checked."""
    answer = watcherd("status", "--watch")
    assert (64, "") == (answer.code, answer.out)
    assert "--watch is for a terminal" in answer.err
    assert 64 == watcherd("status", "--watch", "--every", "0").code


def test_watching_goes_on_until_it_is_ended(watcherd: CommandLine) -> None:
    """It draws again and again in the same place, and Ctrl-C ends it without a traceback."""
    lines = on_a_terminal(
        "status", "--watch", "--every", "0.2", "--config", str(watcherd.config_file), until="every 0.2 s", times=3
    )
    assert 3 <= sum("every 0.2 s" in line for line in lines)
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(("height", "says_so"), [(8, True), (60, False)])
def test_a_low_terminal_is_told_that_there_is_more(watcherd: CommandLine, height: int, *, says_so: bool) -> None:
    """The last line stays in sight, below as much as there is room for."""
    console = Console(width=80, height=height, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(_picture(watcherd.config, 2.0, console), height=height)
    lines = captured.get().rstrip().splitlines()
    assert "watcherd is not running" in lines[0]
    assert ", every 2 s; Ctrl-C ends" in lines[-1]
    assert says_so == ("more lines need a taller window" in lines[-1])
    assert height >= len(lines)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),  # paused by a person, for a full disk, and without its inbox: nothing that a new start would mend
        ({"phase": "loading"}, 69),
        ({"phase": "stopping"}, 69),
        ({"replicas": [LIVE["replicas"][1]]}, 69),
        ({"replicas": []}, 0),
    ],
)
def test_a_health_check_is_answered_by_the_exit_code(watcherd: CommandLine, changes: dict[str, Any], code: int) -> None:
    """0 while it runs with a replica that is ready; and the same words as without --check."""
    write_live(watcherd, os.getpid(), **changes)
    with lock.sole_owner(watcherd.config.state.lock):
        said = watcherd("status", "--check")
        assert (code, watcherd("status").out) == (said.code, said.out)
        assert 0 == watcherd("status").code


def test_a_health_check_of_what_does_not_run_fails(watcherd: CommandLine) -> None:
    """Stopped in good order, or killed with its status left behind; and --check is no --watch."""
    assert 69 == watcherd("status", "--check").code
    write_live(watcherd, os.getpid())
    said = watcherd("status", "--check", "--json")
    assert (69, False) == (said.code, json.loads(said.out)["alive"])
    assert 64 == watcherd("status", "--check", "--watch").code


@pytest.fixture
def open_to_all(watcherd: CommandLine) -> Iterator[Path]:
    """A copy of the history in a folder that everybody may enter."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(watcherd.folder, folder, dirs_exist_ok=True)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder


def as_nobody(folder: Path) -> subprocess.CompletedProcess[str]:
    """``watcherd status`` as a user who owns nothing."""
    program = [sys.executable, "-m", "watcherd", "status", "--config", str(folder / "config.toml")]
    answer = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *program], capture_output=True, text=True
    )
    if "No module named" in answer.stderr or answer.returncode == 127:
        pytest.skip("nobody may read this checkout")
    return answer


def test_who_may_only_read_sees_all_of_it(open_to_all: Path) -> None:
    """With a daemon and without; nothing is written by looking."""
    lock_file = open_to_all / "state" / "watcherd.lock"
    answer = as_nobody(open_to_all)
    assert (0, "") == (answer.returncode, answer.stderr)
    assert "watcherd is not running" in answer.stdout
    with lock.sole_owner(lock_file):
        answer = as_nobody(open_to_all)
    assert (0, "") == (answer.returncode, answer.stderr)
    assert f"watcherd is starting, pid {os.getpid()}" in answer.stdout


@pytest.mark.parametrize("closed", ["state", "."])
def test_who_may_not_look_is_told_so(open_to_all: Path, closed: str) -> None:
    """A state folder that may not be entered does not make the daemon dead; nor is there a traceback."""
    (open_to_all / closed).chmod(0o700)
    answer = as_nobody(open_to_all)
    assert {"state": 69, ".": 78}[closed] == answer.returncode, answer.stderr
    assert "may not " in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "not running" not in answer.stdout
