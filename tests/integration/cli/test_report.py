"""``watcherd report`` over real histories: a small one that a daemon made, and a long one."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from benchmarks import long_history
from watcherd.report.figures import LISTED, full_hour, gather
from watcherd.store import Database, reader, summary
from watcherd.store.summary import Period

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine

NOW = datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
JOBS = 6000


def test_the_page_tells_what_the_daemon_did(watcherd: CommandLine) -> None:
    """Two scans succeeded, two failed, one was dropped again; the file is named, and nothing stays beside it."""
    out = watcherd.folder / "pages" / "week.html"
    out.parent.mkdir()
    said = watcherd("report", "--since", "7d", "--out", str(out))
    assert (0, True) == (said.code, said.out.startswith(f"{out}: 4 jobs"))
    content = out.read_text()
    for words in ("2 failed", '<td class="w">no-mask</td>', "coronary/b_1.png", "from queued to delivered", "fake"):
        assert words in content, words
    assert re.search(r"<dt>dropped again</dt><dd>1</dd>", content)
    assert [out] == list(out.parent.iterdir())


def test_its_figures_are_those_of_the_history(watcherd: CommandLine) -> None:
    """As JSON; no page is written."""
    figures = watcherd("report", "--json").json
    records = watcherd("jobs", "--json").json
    assert {"succeeded": 2, "failed": 2} == figures["ended"]
    assert (0.5, {"files": 1, "scans": 1}) == (figures["failed_share"], figures["duplicates"])
    assert {"input", "no-mask"} == {row["error_class"] for row in figures["failures"]}
    done = [record for record in records if record["state"] == "succeeded"]
    assert max(record["inference_ms"] for record in done) == figures["latency"]["inference"]["max"]
    assert {record["id"] for record in done} == {row["id"] for row in figures["slowest"]}
    assert (4, 2) == (
        sum(c["succeeded"] + c["failed"] for c in figures["throughput"]),
        figures["restarts"]["daemon_starts"],
    )
    assert 0 == figures["restarts"]["daemon_deaths"] + figures["restarts"]["replica_deaths"]
    assert not list(watcherd.folder.glob("*.html"))


def test_hidden_names_are_not_in_the_page(watcherd: CommandLine) -> None:
    """Nor in the JSON: both are passed on."""
    watcherd.configure('\n[privacy]\nnames = "hidden"\n')
    out = watcherd.folder / "report.html"
    assert 0 == watcherd("report", "--out", str(out)).code
    for text in (out.read_text(), watcherd("report", "--json").out):
        assert "b_1" not in text
        assert "a.png" not in text
        assert f"job {watcherd.job('coronary/b_1.png')}" in text


def test_a_history_without_jobs_gives_a_page_that_says_so(watcherd: CommandLine) -> None:
    database = watcherd.config.state.database
    for file in database.parent.glob("watcherd.db*"):
        file.unlink()
    Database.open(database).close()
    out = watcherd.folder / "report.html"
    said = watcherd("report", "--since", "1900-01-01", "--out", str(out))
    assert (0, True) == (said.code, "0 jobs" in said.out)
    assert "Nothing happened" in out.read_text()


def test_the_time_before_the_history_is_not_shown(watcherd: CommandLine) -> None:
    """Ten years asked for, and a daemon that ran today: one column."""
    figures = watcherd("report", "--since", "520w", "--json").json
    assert len(figures["throughput"]) <= 2
    assert 3600 == figures["column_seconds"]


@pytest.mark.parametrize("since", ["yesterday", "7", "2026-13-01", "9999999999d", "0001-01-01T00:00+14:00", "-3d", ""])
def test_a_time_that_cannot_be_read_is_refused(watcherd: CommandLine, since: str) -> None:
    said = watcherd("report", f"--since={since}")
    assert (64, True) == (said.code, f"--since {since} is no time." in said.err)
    assert "7d" in said.err


def test_a_time_to_come_is_refused(watcherd: CommandLine) -> None:
    said = watcherd("report", "--since", "2999-01-01")
    assert (64, True) == (said.code, "lies in the future" in said.err)


def test_a_file_that_cannot_be_written_is_refused(watcherd: CommandLine) -> None:
    """A folder, a folder that is not there, a pipe, and one that may not be written to."""
    os.mkfifo(watcherd.folder / "pipe")
    for name, words in (("", "is no file"), ("nowhere/a.html", "there is no folder"), ("pipe", "is no file")):
        said = watcherd("report", "--out", str(watcherd.folder / name))
        assert (64, True) == (said.code, words in said.err)
    said = watcherd("report", "--out", "/proc/report.html")
    assert (69, True) == (said.code, "The report cannot be written to /proc/report.html: " in said.err)
    assert "--out" in said.err
    assert "Traceback" not in said.err


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty days, a job every seven minutes."""
    path = tmp_path_factory.mktemp("long") / "watcherd.db"
    long_history.make(path, JOBS, now=NOW, days=30, waiting=10)
    return path


def test_only_a_sample_of_many_jobs_is_read(long: Path) -> None:
    """About as many as asked for, evenly over the period and over the cards; numbers of jobs are of all."""
    period = Period(since=full_hour(NOW - timedelta(days=31)), until=NOW)
    with reader(long) as connection:
        of = summary.ended(connection, period)["succeeded"]
        sample = summary.sample(connection, period, of=of, size=500)
        memory = summary.memory(connection, period, of=of, size=500)
        everything = summary.sample(connection, period, of=of, size=of)
        facts = gather(connection, period)
    assert 12 == sample.step
    assert len(sample.rows) == pytest.approx(of / 12, rel=0.2)
    assert (1, of) == (everything.step, len(everything.rows))
    days = {row["finished_at"][:10] for row in sample.rows}
    assert len(days) >= 30
    cards = [sum(row["device"] == f"GPU-{card}" for row in memory.rows) for card in range(4)]
    assert min(cards) > 0.5 * max(cards)
    assert LISTED == len(facts.slowest) == len(facts.largest)
    assert of == sum(row["succeeded"] for row in facts.hours)


def test_what_ended_before_the_period_does_not_count(long: Path, tmp_path: Path) -> None:
    """Not in a single figure."""
    period = Period(since=full_hour(NOW - timedelta(hours=12)), until=NOW)
    since = summary.stamp(period.since)
    with reader(shutil.copy(long, tmp_path / "watcherd.db")) as connection:
        facts = gather(connection, period)
    moments = [row["finished_at"] for row in (*facts.sample.rows, *facts.memory.rows, *facts.slowest)]
    assert moments
    assert min(moments) >= since
    assert sum(facts.ended.values()) == sum(row["succeeded"] + row["failed"] for row in facts.hours)
    assert min(row["hour"] for row in (*facts.hours, *facts.device_hours)) >= since[:13]
    assert {row["id"] for row in facts.largest} <= set(range(JOBS - 200, JOBS))
