"""``watcherd prune``: what is old or too much goes, what somebody still needs never does, and a backup is made."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from watcherd import housekeeping
from watcherd.inbox.spool import Spool
from watcherd.store import Database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine

LATER = timedelta(days=40)


def prune(watcherd: CommandLine, after: timedelta = LATER) -> housekeeping.Pruned:
    """As the nightly run so much later."""
    config = watcherd.config
    with Database.open(config.state.database) as database:
        return housekeeping.prune(config, database, Spool(config.state.spool), datetime.now(UTC) + after)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_by_default_only_copies_of_long_failed_scans_go(watcherd: CommandLine) -> None:
    """After 30 days; history and archive are kept for ever. Until then a failed scan can be tried again."""
    spool, archive = watcherd.config.state.spool, watcherd.config.inbox.archive_path
    before = files(archive)
    assert 2 == len(files(spool))
    assert housekeeping.Pruned() == prune(watcherd, timedelta(days=29))
    assert housekeeping.Pruned(spool_files=2) == prune(watcherd, timedelta(days=31))
    assert (set(), before) == (files(spool), files(archive))
    assert 4 == len(watcherd.states())
    assert "queued again" in watcherd("retry", str(watcherd.job("refused.png"))).out, "the archive still has it"


def test_old_history_goes_and_the_rest_still_adds_up(watcherd: CommandLine) -> None:
    """With all that belongs to it, copies in the spool too; results in the outbox stay where they are."""
    watcherd.configure("[retention]\nhistory_days = 30\nspool_days = 0\n")
    results = files(watcherd.config.outbox.path)
    assert housekeeping.Pruned() == prune(watcherd, timedelta(days=29))
    assert housekeeping.Pruned(jobs=4, spool_files=2) == prune(watcherd)
    assert {} == watcherd.states()
    assert set() == files(watcherd.config.state.spool)
    assert results == files(watcherd.config.outbox.path)
    assert [] == watcherd("db", "check", "--json").json["findings"]
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection:
        for table in ("job", "scan", "arrival", "attempt", "attempt_device", "output"):
            assert [(0,)] == connection.execute(f"SELECT count(*) FROM {table}").fetchall(), table  # noqa: S608


def test_what_is_not_finished_is_never_pruned(watcherd: CommandLine) -> None:
    """A job that waits keeps its row and its copy, however old."""
    watcherd.configure("[retention]\nhistory_days = 1\nspool_days = 1\n")
    watcherd("retry", str(watcherd.job("refused.png")))
    prune(watcherd)
    assert {"refused.png": "queued"} == watcherd.states()
    sha256 = watcherd("jobs", "--json").json[0]["sha256"]
    assert {f"{sha256[:2]}/{sha256}"} == files(watcherd.config.state.spool)


@pytest.mark.parametrize(
    "unfinished", ["present = 1", "disposal = 'pending'", "delivery = 'due'", "delivery = 'intended'"]
)
def test_a_name_that_waits_keeps_its_job(watcherd: CommandLine, unfinished: str) -> None:
    """A file in the inbox would be taken for a new one without its row; an undelivered result would be lost."""
    watcherd.configure("[retention]\nhistory_days = 1\n")
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute(f"UPDATE arrival SET {unfinished} WHERE path_text = 'again.png'")  # noqa: S608
    assert 3 == prune(watcherd).jobs
    assert {"a.png"} == set(watcherd.states())


def test_the_archive_is_pruned_by_age(watcherd: CommandLine) -> None:
    """The age is that since archiving, not that of the file: scans often have times of long ago."""
    watcherd.configure("[retention]\narchive_days = 30\nspool_days = 0\n")
    archive = watcherd.config.inbox.archive_path
    for path in archive.rglob("*.png"):
        os.utime(path, (0, 0))
    assert 0 == prune(watcherd, timedelta(days=29)).archive_files
    before = files(archive)
    pruned = prune(watcherd)
    assert (len(before), set()) == (pruned.archive_files, files(archive))


def test_the_archive_is_pruned_by_size_the_oldest_first(watcherd: CommandLine) -> None:
    """Until the rest is small enough, and not further."""
    archive = watcherd.config.inbox.archive_path
    for path in archive.rglob("*.png"):
        path.unlink()
    for number in range(4):
        (archive / f"{number}.png").write_bytes(bytes(1000))
        time.sleep(0.02)  # the kernel's clock for ctime ticks every few milliseconds
    watcherd.configure(f"[retention]\narchive_gib = {2500 / 2**30}\n")
    pruned = prune(watcherd, timedelta())
    assert (2, 2000) == (pruned.archive_files, pruned.archive_bytes)
    assert {"2.png", "3.png"} == files(archive)


def test_neither_inbox_nor_outbox_is_touched(watcherd: CommandLine) -> None:
    """Whatever is set."""
    watcherd.configure("[retention]\nhistory_days = 1\narchive_days = 1\narchive_gib = 0.0001\nspool_days = 1\n")
    (watcherd.folder / "inbox" / "new.png").write_bytes(b"just come")
    before = files(watcherd.folder / "outbox")
    prune(watcherd)
    assert {"new.png"} == files(watcherd.folder / "inbox")
    assert before == files(watcherd.folder / "outbox")


def test_the_command_says_what_went_and_makes_a_backup(watcherd: CommandLine) -> None:
    """Every night; the copy is checked."""
    answer = watcherd("prune", "--json").json
    assert answer["outcome"].startswith("pruned: 0 jobs from the history, 0 copies of failed scans, 0 archived scans")
    assert [] == answer["findings"]
    (copy,) = (watcherd.config.state.path / "backups").iterdir()
    assert str(copy) == answer["backup"]
    assert "history copied to" in watcherd("prune").out
