"""What the daemon says of itself at the moment, and who believes it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from watcherd import live
from watcherd.live import NAME, LiveStatus
from watcherd.steering import sole_owner

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
