"""``watcherd status`` tells the truth: it calls no dead daemon alive, and says what holds a live one up."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from watcherd import steering

if TYPE_CHECKING:
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
    assert "did not end in good order" in said.out
    assert not watcherd("status", "--json").json["alive"]


def test_a_running_daemon_shows_what_holds_it_up(watcherd: CommandLine) -> None:
    """Replicas with their restarts and stages, an inbox that is away, pauses with their reasons, a person's pause."""
    with steering.sole_owner(watcherd.config.state.lock):
        write_live(watcherd, os.getpid())
        said = watcherd("status")
        answer = watcherd("status", "--json").json
    assert said.out.startswith("watcherd is running since ")
    for words in (
        f"(pid {os.getpid()})",
        "replica 0 on GPU-1: idle, started again 2 times (killed by signal 9)",
        "replica 1 on GPU-2: loading, weights 50%",
        "inbox OFFLINE: nothing is mounted there (nfs4, swept every 3 s)",
        "PAUSED by a person",
        "PAUSED spool: the disk is full",
    ):
        assert words in said.out, words
    assert (True, os.getpid()) == (answer["alive"], answer["daemon"]["pid"])


def test_a_daemon_that_has_written_nothing_yet_is_starting(watcherd: CommandLine) -> None:
    """What an earlier one wrote is not shown as its own."""
    write_live(watcherd, 1)
    with steering.sole_owner(watcherd.config.state.lock):
        assert f"watcherd is starting (pid {os.getpid()})" in watcherd("status").out


def test_the_backlog_is_estimated_from_the_rate(watcherd: CommandLine) -> None:
    """Four jobs ended in ten minutes; two of them wait again, so two ended and two wait: ten minutes."""
    assert 0 == watcherd("retry", "--state", "failed").code
    said = watcherd("status", "--json").json
    assert (2, 0.2, 600) == (said["jobs"]["queued"], said["per_minute"], said["backlog_seconds"])
    assert said["oldest_queued"]
    assert "backlog   about 10 min 0 s" in watcherd("status").out


def test_without_a_history_it_says_where_it_looked(watcherd: CommandLine) -> None:
    """A daemon that never ran."""
    watcherd.config.state.database.unlink()
    said = watcherd("status")
    assert (70, "") == (said.code, said.out)
    assert str(watcherd.config.state.database) in said.err
