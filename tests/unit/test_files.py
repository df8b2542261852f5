"""A rename never overwrites, on file systems of every kind, and keeps what it renames the same file; folders are made
durably."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests import fuse_like
from watcherd import files
from watcherd.files import make_folder, rename_new

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["RENAME_NOREPLACE", *fuse_like.KINDS])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that has all, and stand-ins for those that lack something."""
    if request.param != "RENAME_NOREPLACE":
        fuse_like.put_in_place(monkeypatch, request.param)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_renamed_and_stays_the_same_file(tmp_path: Path, kind: str) -> None:
    """Its inode too, and nothing is left under the old name."""
    (tmp_path / "old").write_bytes(b"scan")
    before = (tmp_path / "old").stat()
    rename_new(tmp_path / "old", tmp_path / "new")
    after = (tmp_path / "new").stat()
    assert (before.st_ino, before.st_mtime_ns, 1) == (after.st_ino, after.st_mtime_ns, after.st_nlink)
    assert ["new"] == names(tmp_path)


@pytest.mark.parametrize("taken_by", ["file", "empty folder", "link to nowhere"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str, taken_by: str) -> None:
    """Whatever has the name already, it and the source stay as they are."""
    (tmp_path / "old").write_bytes(b"scan")
    if taken_by == "file":
        (tmp_path / "new").write_bytes(b"theirs")
    elif taken_by == "empty folder":
        (tmp_path / "new").mkdir()
    else:
        (tmp_path / "new").symlink_to("nowhere")
    before = (tmp_path / "new").lstat()
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "old", tmp_path / "new")
    assert (before.st_ino, b"scan") == ((tmp_path / "new").lstat().st_ino, (tmp_path / "old").read_bytes())


def test_a_folder_is_renamed_and_nothing_is_overwritten_by_one(tmp_path: Path, kind: str) -> None:
    """A folder has no hard links anywhere. A plain rename would replace an empty one."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mask.png").write_bytes(b"mask")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "old", tmp_path / "there")
    rename_new(tmp_path / "old", tmp_path / "new")
    assert {"new/mask.png"} == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}


@pytest.mark.parametrize("missing", ["source", "folder"])
def test_what_is_missing_is_said_as_by_any_rename(tmp_path: Path, kind: str, missing: str) -> None:
    """The outbox makes a folder when it hears this."""
    if missing == "folder":
        (tmp_path / "old").write_bytes(b"scan")
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "old", tmp_path / ("sub/new" if missing == "folder" else "new"))


def test_names_below_open_folders_are_renamed(tmp_path: Path, kind: str) -> None:
    """As the inbox does it, which follows no link."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "old").write_bytes(b"scan")
    here, there = (os.open(tmp_path / name, os.O_RDONLY) for name in ("here", "there"))
    try:
        rename_new(b"old", b"new", source_fd=here, target_fd=there)
    finally:
        os.close(here)
        os.close(there)
    assert b"scan" == (tmp_path / "there" / "new").read_bytes()
    assert [] == names(tmp_path / "here")


@pytest.mark.parametrize(
    "answer", [errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EIO, errno.EMLINK]
)
def test_every_answer_by_which_a_file_system_declines_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """EINVAL is that of FUSE; others have been seen with older kernels and drivers."""
    fuse_like.put_in_place(monkeypatch, "no links: EPERM", answer)
    (tmp_path / "old").write_bytes(b"scan")
    rename_new(tmp_path / "old", tmp_path / "new")
    assert ["new"] == names(tmp_path)


@pytest.mark.parametrize("answer", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EXDEV])
def test_what_is_really_wrong_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    """These are no way of saying that such renames are not known."""
    fuse_like.put_in_place(monkeypatch, "hard links", answer)
    (tmp_path / "old").write_bytes(b"scan")
    with pytest.raises(OSError, match=os.strerror(answer)) as raised:
        rename_new(tmp_path / "old", tmp_path / "new")
    assert (answer, ["old"]) == (raised.value.errno, names(tmp_path))


def test_a_file_put_over_our_link_in_that_moment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told from our link, which such file systems show as another file too, by what it looks like."""
    fuse_like.put_in_place(monkeypatch, "hard links")
    link = os.link

    def and_then_somebody_else(*args: object, **options: object) -> None:
        link(*args, **options)  # type: ignore[arg-type]
        (tmp_path / "theirs").write_bytes(b"somebody's only copy")
        (tmp_path / "theirs").replace(tmp_path / "new")

    monkeypatch.setattr(files.os, "link", and_then_somebody_else)
    (tmp_path / "old").write_bytes(b"scan")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "old", tmp_path / "new")
    assert (b"scan", b"somebody's only copy") == tuple((tmp_path / name).read_bytes() for name in ("old", "new"))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were synced."""
    found: list[int] = []

    def fsync(descriptor: int) -> None:
        found.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_names_of_all_folders_that_are_made_are_synced(tmp_path: Path, synced: list[int]) -> None:
    """Each in the folder above it; only the last one is kept from others."""
    make_folder(tmp_path / "one" / "two" / "three", mode=0o700)
    above = [tmp_path, tmp_path / "one", tmp_path / "one" / "two"]
    assert sorted(folder.stat().st_ino for folder in above) == sorted(synced)
    assert 0o700 == (tmp_path / "one" / "two" / "three").stat().st_mode & 0o777
    assert 0o055 & (tmp_path / "one").stat().st_mode


def test_the_name_of_a_folder_that_is_there_is_synced_again(tmp_path: Path, synced: list[int]) -> None:
    """Who made it may have been killed before its own sync."""
    (tmp_path / "one").mkdir()
    make_folder(tmp_path / "one")
    assert [tmp_path.stat().st_ino] == synced


@pytest.mark.parametrize("answer", [errno.EACCES, errno.EINVAL])
def test_where_the_folder_above_cannot_be_synced_its_file_system_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """It may not be read, or that file system syncs no folders."""
    asked: list[object] = []

    def refuse(_descriptor: int) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(files, "sync_filesystem", asked.append)
    make_folder(tmp_path / "one")
    assert [tmp_path / "one"] == asked


def test_a_disk_that_fails_is_no_folder_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes through."""

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        make_folder(tmp_path / "one")


def test_a_file_in_the_place_of_a_folder_is_left_alone(tmp_path: Path) -> None:
    """Nothing is made, and the error names it."""
    (tmp_path / "one").write_bytes(b"a file")
    with pytest.raises(FileExistsError, match="one"):
        make_folder(tmp_path / "one")
    assert b"a file" == (tmp_path / "one").read_bytes()
