"""What the daemon says of itself at the moment, and who believes it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from watcherd.errors import UnavailableError
from watcherd.intake.presence import InboxState
from watcherd.state import live
from watcherd.state.live import NAME, ROOM, LiveStatus
from watcherd.state.lock import sole_owner

if TYPE_CHECKING:
    from pathlib import Path


def test_only_the_lock_makes_a_daemon_alive(tmp_path: Path) -> None:
    """A status file that a killed daemon left behind is not believed, whatever it says."""
    lock = tmp_path / "lock"
    LiveStatus(tmp_path).write({"pid": os.getpid(), "phase": "running"})
    assert live.read(tmp_path, lock) is None
    lock.write_text(f"{os.getpid()}\n")
    assert live.read(tmp_path, lock) is None
    with sole_owner(lock):
        assert {"pid": os.getpid(), "phase": "running"} == live.read(tmp_path, lock)
    assert live.read(tmp_path, lock) is None


@pytest.mark.parametrize("content", [None, "", '{"pid": 1, "ph', '{"pid": 1, "phase": "running"}', "{}"])
def test_a_daemon_that_has_said_nothing_yet_is_starting(tmp_path: Path, content: str | None) -> None:
    """No file, half a file, or that of an earlier one."""
    if content is not None:
        (tmp_path / NAME).write_text(content)
    with sole_owner(tmp_path / "lock"):
        assert {"pid": os.getpid(), "phase": "starting"} == live.read(tmp_path, tmp_path / "lock")


def test_it_is_written_when_it_changes_and_only_then(tmp_path: Path) -> None:
    """A service that idles for weeks does not write a file every few seconds."""
    status = LiveStatus(tmp_path)
    status.write({"phase": "running"})
    before = (tmp_path / NAME).stat()
    status.write({"phase": "running"})
    assert before.st_ino == (tmp_path / NAME).stat().st_ino
    status.write({"phase": "stopping"})
    assert before.st_ino != (tmp_path / NAME).stat().st_ino
    assert {"phase": "stopping"} == json.loads((tmp_path / NAME).read_text())
    assert {NAME, "status.next"} == {path.name for path in tmp_path.iterdir()}


def test_a_folder_that_cannot_be_written_does_not_stop_the_daemon(tmp_path: Path) -> None:
    """A full disk, say; it is written once that is over, though nothing has changed since."""
    folder = tmp_path / "state"
    status = LiveStatus(folder)
    status.write({"phase": "running"})
    folder.mkdir()
    status.write({"phase": "running"})
    assert {"phase": "running"} == json.loads((folder / NAME).read_text())


def test_a_reader_never_believes_half_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written over while it is read: it is read again, even if what was read makes sense as it is."""
    path, states = tmp_path / NAME, iter(["mixed", "whole"])
    LiveStatus(tmp_path).write({"pid": os.getpid(), "phase": "running", "inbox": "before"})
    fstat = os.fstat

    def write_meanwhile(descriptor: int) -> os.stat_result:
        """The reader asks before and after it reads: after the first the new document is half there, then all of it."""
        status = fstat(descriptor)
        if status.st_ino == path.stat().st_ino and (inbox := next(states, None)) is not None:
            path.write_text(json.dumps({"pid": os.getpid(), "phase": "running", "inbox": inbox}).ljust(ROOM))
            os.utime(path, ns=(0, status.st_mtime_ns + 1))
        return status

    with sole_owner(tmp_path / "lock"):
        monkeypatch.setattr(os, "fstat", write_meanwhile)
        seen = live.read(tmp_path, tmp_path / "lock")
    assert {"pid": os.getpid(), "phase": "running", "inbox": "whole"} == seen


def test_a_daemon_that_was_stopped_is_not_shown_as_running(tmp_path: Path) -> None:
    """SIGSTOP: it holds its lock and says nothing new."""
    program = (
        "import sys, pathlib, time; from watcherd.state.lock import sole_owner\n"
        "with sole_owner(pathlib.Path(sys.argv[1])):\n    print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        LiveStatus(tmp_path).write({"pid": process.pid, "phase": "running"})
        seen = []
        for number in (signal.SIGSTOP, signal.SIGCONT):
            process.send_signal(number)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WCONTINUED)
            seen.append((live.read(tmp_path, tmp_path / "lock") or {})["phase"])
        process.kill()
    assert ["frozen", "running"] == seen


def test_an_inbox_that_nobody_has_looked_at_is_not_away() -> None:
    """In the first moment of a run; the words are the intake's own."""
    first = InboxState()
    assert live.NOT_LOOKED_AT == first.reason
    looks = {"online": first.online, "reason": first.reason}
    assert live.inbox_away({"phase": "running", "inbox": looks}) is None
    assert "gone" == live.inbox_away({"phase": "running", "inbox": looks | {"reason": "gone"}})
    assert live.inbox_away({"phase": "running", "inbox": looks | {"online": True}}) is None
    assert live.inbox_away(None) is None


def test_who_may_not_look_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that cannot be seen is not called dead; the message says which group may see it."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnavailableError, match="You may not read") as told:
        live.read(tmp_path, tmp_path / "lock")
    assert "Run it as root" in told.value.hint
