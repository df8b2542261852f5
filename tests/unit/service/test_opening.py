"""The run folder: in a place where everybody may make folders, and somebody has made ours first."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from watcherd.service import opening

NOBODY = 65534


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everybody may make folders, with room enough."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    monkeypatch.setattr(opening, "room_mib", lambda _folder: opening.TMPFS_MIB)
    return folder


def run(state: Path) -> Path:
    """Where one run has its folder, which is gone afterwards."""
    with opening.scratch_folder(state) as folder:
        assert isinstance(folder, Path)
        status = folder.lstat()
        assert (0o700, os.geteuid()) == (stat.S_IMODE(status.st_mode), status.st_uid)
        (folder / "a.npy").touch()
    assert not folder.exists()
    return folder


@pytest.mark.parametrize("kind", ["link", "file", "open", "another user's"])
def test_what_somebody_else_has_put_in_its_place_is_left_alone(tmp_path: Path, memory: Path, kind: str) -> None:
    """The run has another name, and nothing of theirs is touched."""
    usual = run(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    if kind == "link":
        usual.symlink_to(theirs)
    elif kind == "file":
        usual.write_text("precious")
    elif kind == "open":
        theirs.rename(usual)
        usual.chmod(0o777)
    elif os.geteuid() == 0:
        theirs.rename(usual)
        usual.chmod(0o700)
        os.chown(usual, NOBODY, NOBODY)
    else:
        pytest.skip("only root can make another user's folder")
    before = usual.lstat()
    other = run(tmp_path)
    assert other != usual
    assert memory == other.parent
    assert usual.lstat() == before
    assert kind == "file" or (usual / "precious").exists()


def test_what_a_killed_run_has_left_is_removed(tmp_path: Path, memory: Path) -> None:
    """Under the usual name, and under one that it had because of somebody else."""
    usual = run(tmp_path)
    others = usual.with_name("watcherd-of-another-state-folder")
    for folder in (usual, usual.with_name(f"{usual.name}-x1"), others):
        folder.mkdir(mode=0o700)
        (folder / "a.npy").touch()
    assert usual == run(tmp_path)
    assert [others] == list(memory.iterdir())
