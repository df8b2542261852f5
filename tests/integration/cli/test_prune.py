"""``watcherd prune``: what is old or too much goes, what somebody still needs never does, and a backup is made."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from watcherd.inbox.spool import Spool
from watcherd.service import prune as housekeeping
from watcherd.service.backups import back_up
from watcherd.service.job_commands import JobCommands
from watcherd.state.mailbox import Command
from watcherd.state.run import Settings
from watcherd.store import Database, runs
from watcherd.wall_clock import Reading

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine

LATER = timedelta(days=40)


def prune(watcherd: CommandLine, after: timedelta = LATER, *, trust_clock: bool = True) -> housekeeping.Pruned:
    """As the nightly run so much later, by a clock that is right."""
    config = watcherd.config
    with Database.open(config.state.database) as database:
        spool = Spool(config.state.spool)
        return housekeeping.prune(config, database, spool, reading(after), trust_clock=trust_clock)


def reading(ahead: timedelta = timedelta(), *, up: timedelta = timedelta(), boot: str = "first") -> Reading:
    """The clocks when the wall clock is ahead of this moment, and the machine has been up for so long."""
    return Reading(wall=time.time() + ahead.total_seconds(), steady=up.total_seconds(), boot=boot)


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


def test_a_service_prunes_by_what_a_reload_has_changed(watcherd: CommandLine) -> None:
    """The page of the configuration says that a reload applies `[retention]`."""
    config = watcherd.config
    settings = Settings(config)
    assert files(config.inbox.archive_path)
    with Database.open(config.state.database) as database:
        commands = JobCommands(settings, database, Spool(config.state.spool))
        retention = config.retention.model_copy(update={"archive_gib": 1e-9})
        settings.replace(config.model_copy(update={"retention": retention}))
        commands.carry_out(Command(id="1", verb="prune", arguments={}))
    assert set() == files(config.inbox.archive_path)


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


FAR = timedelta(days=3650)


def everything_by_age(watcherd: CommandLine) -> None:
    watcherd.configure("[retention]\nhistory_days = 30\narchive_days = 30\nspool_days = 30\n")


def nightly(watcherd: CommandLine, now: Reading) -> housekeeping.Pruned:
    config = watcherd.config
    with Database.open(config.state.database) as database:
        return housekeeping.prune(config, database, Spool(config.state.spool), now)


def test_a_clock_that_was_set_far_ahead_removes_nothing(watcherd: CommandLine) -> None:
    """Not in the first night, not after the next start; it is said."""
    everything_by_age(watcherd)
    prune(watcherd, timedelta())
    archive, day = watcherd.config.inbox.archive_path, timedelta(days=1)
    before = files(archive)
    pruned = nightly(watcherd, reading(FAR, up=day))
    assert (0, 0, 0) == (pruned.jobs, pruned.spool_files, pruned.archive_files)
    assert "is not believed" in str(pruned)
    assert "--trust-clock" in str(pruned)
    pruned = nightly(watcherd, reading(FAR + day, up=day, boot="second"))
    assert (0, before) == (pruned.jobs, files(archive))
    pruned = nightly(watcherd, reading(day, up=2 * day, boot="second"))
    assert "" == pruned.doubt, "it was set right again"


def test_a_clock_that_goes_on_for_three_days_is_believed(watcherd: CommandLine) -> None:
    """Each time it is set it begins anew; nothing is known at the first time of all."""
    everything_by_age(watcherd)
    for days, ahead in ((0, FAR), (1, FAR), (2, 2 * FAR), (4, 2 * FAR)):
        up = timedelta(days=days)
        pruned = nightly(watcherd, reading(ahead + up, up=up))
        assert (0, True) == (pruned.jobs + pruned.archive_files, bool(pruned.doubt)), days
    pruned = nightly(watcherd, reading(2 * FAR + timedelta(days=5), up=timedelta(days=5)))
    assert (4, "") == (pruned.jobs, pruned.doubt)


def test_what_has_grown_old_goes_though_the_clock_is_not_believed(watcherd: CommandLine) -> None:
    """Ages are counted by the time that has passed for sure."""
    everything_by_age(watcherd)
    prune(watcherd, timedelta())
    pruned = nightly(watcherd, reading(FAR, up=timedelta(days=31)))
    assert (4, True) == (pruned.jobs, bool(pruned.doubt))


def test_a_machine_that_was_off_for_the_night_is_believed(watcherd: CommandLine) -> None:
    """The time for which it was off is not known."""
    everything_by_age(watcherd)
    prune(watcherd, timedelta())
    pruned = nightly(watcherd, reading(timedelta(hours=30), up=timedelta(hours=8), boot="second"))
    assert "" == pruned.doubt


def test_a_person_may_say_that_the_clock_is_right(watcherd: CommandLine) -> None:
    """Then it is, from there on."""
    everything_by_age(watcherd)
    assert "not believed" in watcherd("prune").out
    assert "not believed" not in watcherd("prune", "--trust-clock").out
    assert "not believed" not in watcherd("prune").out


def test_what_is_no_belief_counts_as_none(watcherd: CommandLine) -> None:
    """Whatever somebody has written there."""
    everything_by_age(watcherd)
    for text in ("", "[]", "{}", '{"trusted": "x", "lasted": 1, "at": {}}', '{"trusted": NaN}'):
        with Database.open(watcherd.config.state.database) as database:
            database.write(lambda c, text=text: runs.set_setting(c, housekeeping.BELIEF, text))
        assert nightly(watcherd, reading()).doubt


def test_a_backup_from_a_clock_that_was_ahead_makes_room_for_newer_ones(watcherd: CommandLine) -> None:
    """Its name sorts behind all others until that time has come."""
    watcherd.configure("[retention]\nbackups = 2\n")
    folder = watcherd.config.state.path / "backups"
    folder.mkdir()
    for year in (2025, 2090, 2091):
        (folder / f"watcherd-{year}0101T000000Z.db").touch()
    copy = back_up(watcherd.config)
    assert {copy.name, "watcherd-20250101T000000Z.db"} == {path.name for path in folder.iterdir()}
