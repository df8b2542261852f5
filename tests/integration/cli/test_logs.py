"""``watcherd logs``: the journal's lines about one job, and the history's where there are none. It says which.

The journal here is a program of our own that answers as journalctl does. That entries carry JOB_ID is proved with a
real one in tests/acceptance/test_systemd.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watcherd.cli.logs import journal_matches

if TYPE_CHECKING:
    from tests.integration.cli.conftest import CommandLine


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """journalctl: prints the file that is given back here, and writes down what it was asked."""
    program, entries = tmp_path / "bin" / "journalctl", tmp_path / "entries"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/asked"\ncat "{entries}" 2>/dev/null\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return entries


def entry(microseconds: int, message: object) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": str(microseconds), "MESSAGE": message}) + "\n"


def test_the_journals_lines_are_shown_where_there_are_some(watcherd: CommandLine, journal: Path) -> None:
    """By the person's clock; a message that is not UTF-8, a line that is no entry, a missing message do no harm."""
    journal.write_text(
        entry(1_790_000_000_123_456, "job_failed job_id=7") + "no entry\n" + entry(1_790_000_001_000_000, None)
        + entry(1_790_000_002_000_000, [104, 252, 33])
    )  # fmt: skip
    said = watcherd("logs", str(watcherd.job("a.png")))
    assert 0 == said.code
    assert f"The journal about job {watcherd.job('a.png')}:" in watcherd("logs", "a.png").err
    lines = said.out.splitlines()
    assert [line.partition("  ")[2] for line in lines] == ["job_failed job_id=7", "", "h\\xfc!"]
    asked = (journal.parent / "asked").read_text().splitlines()
    job = watcherd.job("a.png")
    assert f"JOB_ID={job}" in asked
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection:
        pids = {pid for (pid,) in connection.execute("SELECT pid FROM run UNION SELECT pid FROM replica")}
    assert {f"_PID={pid}" for pid in pids} == {word for word in asked if word.startswith("_PID=")}
    assert [word for word in asked if word.startswith("_BOOT_ID=")]


def test_without_journal_lines_the_history_answers_and_says_so(watcherd: CommandLine, journal: Path) -> None:
    """Every transition, with its reason."""
    said = watcherd("logs", "refused.png")
    assert 0 == said.code
    assert "The journal has nothing about it" in said.err
    assert ["ingested", "claimed", "failed"] == [line.split("  ")[1] for line in said.out.splitlines()]
    assert "it is text" in said.out


def test_without_any_journal_too(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has none."""
    monkeypatch.setenv("PATH", "/nowhere")
    said = watcherd("logs", "refused.png", "--json")
    assert "There is no journal on this machine" not in said.out
    assert [{"at", "text", "source"}] * 3 == [set(json.loads(line)) for line in said.out.splitlines()]
    assert {"history"} == {json.loads(line)["source"] for line in said.out.splitlines()}
    assert "There is no journal on this machine" in watcherd("logs", "refused.png").err


def test_following_ends_with_the_job(watcherd: CommandLine, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes meanwhile is shown once; a job that has ended is not waited for."""
    assert 3 == len(watcherd("logs", "refused.png", "--follow").out.splitlines())
    monkeypatch.setattr("watcherd.cli.logs.FOLLOW_SECONDS", 0.05)
    assert 0 == watcherd("retry", "--state", "failed", "--error-class", "input").code
    job = watcherd.job("refused.png")
    timer = threading.Timer(0.3, cancel, [watcherd.config.state.database, job])
    timer.start()
    said = watcherd("logs", str(job), "--follow")
    timer.join()
    assert ["ingested", "claimed", "failed", "asked-again", "cancelled"] == [
        line.split("  ")[1] for line in said.out.splitlines()
    ]


def cancel(database: Path, job: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE job SET state = 'cancelled', moved_why = 'cancelled', finished_at = '2026-01-01T00:00:00.000Z' "
            "WHERE id = ?",
            (job,),
        )


def test_another_services_job_of_the_same_number_is_not_looked_for() -> None:
    """The processes tell two services on one machine apart; with none known nothing is asked."""
    runs = [{"pid": 4, "pids": [5, 6], "boot_id": "ab-cd"}, {"pid": 9, "pids": [], "boot_id": None}]
    assert ["JOB_ID=7", "_PID=4", "_PID=5", "_PID=6", "_PID=9", "_BOOT_ID=abcd"] == journal_matches(7, runs)
    assert [] == journal_matches(7, [])
