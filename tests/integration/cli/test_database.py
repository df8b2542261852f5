"""``watcherd db``: upgrade, check, backup and restore, as a person does them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from tests.integration.store.helpers import damage_quietly
from watcherd.state import lock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine


def count_jobs(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


def test_check_finds_nothing_in_a_sound_one(watcherd: CommandLine) -> None:
    """Exit code 0."""
    assert "nothing is wrong" in watcherd("db", "check").out
    assert [] == watcherd("db", "check", "--json").json["findings"]


def test_check_finds_damage_that_every_day_use_does_not(watcherd: CommandLine) -> None:
    """Exit code 70, in words and as JSON; with what to do."""
    damage_quietly(watcherd.config.state.database)
    said = watcherd("db", "check")
    assert (70, "") == (said.code, said.out)
    assert "is damaged" in said.err
    assert "watcherd db restore" in said.err
    as_json = watcherd("db", "check", "--json")
    assert 70 == as_json.code
    assert 1 <= len(json.loads(as_json.out)["findings"])


def test_check_finds_wrong_sums(watcherd: CommandLine) -> None:
    """A total that somebody changed by hand."""
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute("UPDATE total SET count = 7 WHERE name = 'job.failed'")
    said = watcherd("db", "check")
    assert 70 == said.code
    assert "the total job.failed says 7, but there are 2" in said.err


def test_a_backup_is_named_by_the_time_or_by_the_person(watcherd: CommandLine) -> None:
    """Either is a whole history by itself; also while a daemon runs."""
    with lock.sole_owner(watcherd.config.state.lock):
        named = watcherd.folder / "copy of today.db"
        assert {"backup": str(named)} == watcherd("db", "backup", str(named), "--json").json
        assert not (watcherd.config.state.path / "backups").exists()
        assert "Copied to" in watcherd("db", "backup").out
    (by_time,) = (watcherd.config.state.path / "backups").iterdir()
    assert [4, 4] == [count_jobs(path) for path in (named, by_time)]


def test_so_many_backups_are_kept_as_configured(watcherd: CommandLine) -> None:
    """The newest of them."""
    folder = watcherd.config.state.path / "backups"
    folder.mkdir()
    for day in range(1, 10):
        (folder / f"watcherd-2020010{day}T000000Z.db").touch()
    watcherd("db", "backup")
    kept = sorted(path.name for path in folder.iterdir())
    assert [f"watcherd-2020010{day}T000000Z.db" for day in range(4, 10)] == kept[:-1]
    assert 7 == len(kept)


def test_a_backup_that_cannot_be_written_is_said_so(watcherd: CommandLine) -> None:
    """No traceback, and no piece of a file."""
    (watcherd.folder / "file").touch()
    for place in ("nowhere", "file"):
        said = watcherd("db", "backup", str(watcherd.folder / place / "copy.db"))
        assert (70, "") == (said.code, said.out)
        assert f"{place}/copy.db cannot be written" in said.err


def test_restore_brings_back_what_was_and_keeps_what_is(watcherd: CommandLine) -> None:
    """The present database is set aside, not thrown away."""
    config = watcherd.config
    copy = watcherd.folder / "copy.db"
    watcherd("db", "backup", str(copy))
    watcherd("retry", "--state", "failed")
    answer = watcherd("db", "restore", str(copy), "--json").json
    assert ["failed", "failed"] == sorted(watcherd.states().values())[:2]
    assert 2 == watcherd("status", "--json").json["jobs"]["failed"]
    aside = config.state.path / answer["set_aside"].rsplit("/", 1)[-1]
    assert 4 == count_jobs(aside)


def test_a_damaged_backup_is_not_restored(watcherd: CommandLine) -> None:
    """Nor a file that is no backup, nor one that is not there; the present database stays."""
    copy = watcherd.folder / "copy.db"
    watcherd("db", "backup", str(copy))
    damage_quietly(copy)
    other = watcherd.folder / "letter.txt"
    other.write_text("Dear colleague, " * 100)
    for path in (copy, other, watcherd.folder / "nothing.db"):
        said = watcherd("db", "restore", str(path))
        assert (70, "") == (said.code, said.out), path
        assert path.name in said.err
    assert 4 == count_jobs(watcherd.config.state.database)


def test_a_database_in_use_is_not_replaced(watcherd: CommandLine) -> None:
    """Restore and upgrade need the daemon to be down: exit code 75, with its pid."""
    copy = watcherd.folder / "copy.db"
    watcherd("db", "backup", str(copy))
    with lock.sole_owner(watcherd.config.state.lock):
        for command in (["restore", str(copy)], ["upgrade"]):
            said = watcherd("db", *command)
            assert 75 == said.code
            assert "pid" in said.err


def test_upgrade_brings_an_empty_file_up_to_date(watcherd: CommandLine) -> None:
    """And is harmless on one of this version."""
    path = watcherd.config.state.database
    assert "is of this version" in watcherd("db", "upgrade").out
    assert 4 == count_jobs(path)
    path.unlink()
    path.touch()
    assert 70 == watcherd("jobs").code
    assert watcherd("db", "upgrade", "--json").json["upgraded"]
    assert [] == watcherd("jobs", "--json").json


def test_a_newer_database_is_left_alone(watcherd: CommandLine) -> None:
    """After a step back to an older version of the program: which version wrote it, and what to do."""
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for command in (["jobs"], ["status"], ["db", "upgrade"], ["retry", "1"]):
        said = watcherd(*command)
        assert 70 == said.code, command
        assert "newer watcherd (version 9999" in said.err
