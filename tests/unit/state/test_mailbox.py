"""Commands as files, and the lock that says who is the one daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from watcherd.errors import BusyError, UnavailableError, UsageError
from watcherd.state import lock as state_lock
from watcherd.state.lock import owner, sole_owner
from watcherd.state.mailbox import Command, carry_out_all, send, waiting
from watcherd.store import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "watcherd.db") as database:
        yield database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "commands"
    folder.mkdir()
    return folder


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.reader() as connection:
        found = connection.exec_driver_sql("SELECT verb, outcome, error FROM command ORDER BY rowid")
        return [tuple(row) for row in found]


def test_commands_are_taken_in_the_order_in_which_they_were_left(folder: Path) -> None:
    """Their ids are random, so the files' times count."""
    for number, verb in enumerate(("pause", "retry", "resume")):
        os.utime(folder / f"{send(folder, verb, {'jobs': [number]})}.json", ns=(0, number))
    assert ["pause", "retry", "resume"] == [command.verb for _, command in waiting(folder) if command]
    assert [{"jobs": [0]}, {"jobs": [1]}, {"jobs": [2]}] == [
        command.arguments for _, command in waiting(folder) if command
    ]


def test_a_command_appears_whole(folder: Path) -> None:
    """While it is written it has a name that is not looked at."""
    (folder / ".half.json.1.tmp").write_text('{"id": "x", "ve')
    (folder / ".half.json").write_text('{"id": "x", "ve')
    assert [] == list(waiting(folder))


@pytest.mark.parametrize(
    "content", ["", "no", "[]", "{}", '{"id": 1, "verb": "pause"}', '{"id": 1, "verb": 2, "arguments": 3}']
)
def test_a_file_that_is_no_command_is_taken_away(folder: Path, database: Database, content: str) -> None:
    """It would be in the way for ever otherwise; nothing is carried out."""
    (folder / "x.json").write_text(content)
    assert 0 == carry_out_all(folder, database, lambda command: pytest.fail(command.verb))
    assert [] == list(folder.iterdir())


def test_what_came_of_a_command_is_recorded(folder: Path, database: Database) -> None:
    """A refusal with exit code, message and hint, so that the command line can say the same; the file is gone."""

    def carry_out(command: Command) -> str:
        if command.verb == "retry":
            raise UsageError("Which jobs?", hint="Name them.")
        return "paused"

    for number, verb in enumerate(("pause", "retry")):
        os.utime(folder / f"{send(folder, verb, {})}.json", ns=(0, number))
    assert 2 == carry_out_all(folder, database, carry_out)
    refusal = json.dumps([64, "Which jobs?", "Name them."])
    assert [("pause", "paused", None), ("retry", "refused", refusal)] == rows(database)
    assert [] == list(folder.iterdir())


def test_a_command_is_carried_out_once(folder: Path, database: Database) -> None:
    """Killed after it was recorded and before its file was removed: the next start finds the file again."""
    done: list[str] = []

    def carry_out(command: Command) -> str:
        done.append(command.verb)
        return "paused"

    path = folder / f"{send(folder, 'pause', {})}.json"
    content = path.read_bytes()
    carry_out_all(folder, database, carry_out)
    path.write_bytes(content)
    carry_out_all(folder, database, carry_out)
    assert ["pause"] == done
    assert [] == list(folder.iterdir())


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    """With where, and as whom to do it."""
    with pytest.raises(UnavailableError, match="nowhere") as caught:
        send(tmp_path / "nowhere", "pause", {})
    assert "as root" in caught.value.hint


def test_a_second_owner_hears_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pid; and when that one is gone, even killed, the lock is free."""
    monkeypatch.setattr(state_lock, "LOCK_TRIES", 1)
    monkeypatch.setattr(state_lock, "LOCK_PAUSE_SECONDS", 0)
    lock = tmp_path / "state" / "lock"
    program = (
        "import sys, time; from pathlib import Path; from watcherd.state.lock import sole_owner\n"
        f"with sole_owner(Path({str(lock)!r})): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert "held\n" == first.stdout.readline()
        assert first.pid == owner(lock)
        with pytest.raises(BusyError, match=f"pid {first.pid}"), sole_owner(lock):
            pass
        first.kill()
    assert owner(lock) is None
    with sole_owner(lock):
        assert os.getpid() == owner(lock)
    assert owner(lock) is None


def test_nobody_owns_a_lock_that_is_not_there(tmp_path: Path) -> None:
    """A command that only looks makes nothing."""
    assert owner(tmp_path / "lock") is None
    assert [] == list(tmp_path.iterdir())
