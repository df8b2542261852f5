"""A submitted scan is put into the inbox whole, over nobody's file, and readable for the service."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests import fuse_like
from watcherd import config as configuration
from watcherd.cli import dropping
from watcherd.cli.dropping import check_inbox, check_sources, drop, place_in_inbox
from watcherd.errors import UnavailableError, UsageError

PROFILES = {"profiles": {"coronary": {"folder": "coronary/cine"}}}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"new")
    return path


def test_it_is_copied_and_the_original_stays(inbox: Path, scan: Path) -> None:
    """Nothing else is left in the inbox."""
    assert b"a.png" == drop(scan, inbox, Path())
    assert {"a.png": b"new"} == {path.name: path.read_bytes() for path in inbox.iterdir()}
    assert b"new" == scan.read_bytes()


def test_no_file_is_ever_overwritten(inbox: Path, scan: Path) -> None:
    """The next free name is taken, before the extension."""
    (inbox / "a.png").write_bytes(b"somebody's")
    assert [b"a-2.png", b"a-3.png"] == [drop(scan, inbox, Path()) for _ in range(2)]
    assert b"somebody's" == (inbox / "a.png").read_bytes()


@pytest.mark.parametrize("kind", fuse_like.KINDS)
def test_nor_where_the_file_system_knows_no_such_rename(
    inbox: Path, scan: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some shares can neither rename without overwriting nor link."""
    fuse_like.put_in_place(monkeypatch, kind)
    (inbox / "a.png").write_bytes(b"somebody's")
    assert b"a-2.png" == drop(scan, inbox, Path())
    assert {"a.png": b"somebody's", "a-2.png": b"new"} == {path.name: path.read_bytes() for path in inbox.iterdir()}


def test_a_disk_that_fills_up_leaves_nothing_behind(inbox: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half file under any name, and the message says what to do."""

    def fill(_: object, copy: object, *__: object) -> None:
        copy.write(b"ha")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dropping.shutil, "copyfileobj", fill)
    with pytest.raises(UnavailableError, match="There is no room"):
        drop(scan, inbox, Path())
    assert [] == list(inbox.iterdir())


def test_the_service_may_read_it_and_empty_its_folder(inbox: Path, scan: Path) -> None:
    """By its group, though the sender's umask forbids it."""
    before = os.umask(0o077)
    try:
        drop(scan, inbox, Path("coronary/today"))
    finally:
        os.umask(before)
    assert 0o060 == (inbox / "coronary/today/a.png").stat().st_mode & 0o060
    for folder in ("coronary", "coronary/today"):
        assert stat.S_IRWXG == (inbox / folder).stat().st_mode & stat.S_IRWXG


def test_a_folder_that_goes_away_meanwhile_is_made_again(
    inbox: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon tidies up empty ones."""
    made, tidied = dropping._make_folder, []

    def make(inbox: Path, below: Path) -> Path:
        folder = made(inbox, below)
        if not tidied:
            tidied.append(folder)
            folder.rmdir()
        return folder

    monkeypatch.setattr(dropping, "_make_folder", make)
    assert b"sub/a.png" == drop(scan, inbox, Path("sub"))
    assert tidied


def test_no_link_leads_out_of_the_inbox(inbox: Path, scan: Path, tmp_path: Path) -> None:
    """watcherd would not look into it anyway."""
    (inbox / "sub").symlink_to(tmp_path)
    with pytest.raises(UnavailableError, match="is a link"):
        drop(scan, inbox, Path("sub"))


def test_who_may_not_write_is_told_so(inbox: Path, scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the group that may."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(dropping, "_copy", refuse)
    with pytest.raises(UnavailableError, match="You may not write into") as told:
        drop(scan, inbox, Path())
    assert "Run it as root" in told.value.hint


@pytest.mark.parametrize(
    ("folder", "profile", "expected"),
    [
        (None, None, "."),
        ("a/b", None, "a/b"),
        (None, "coronary", "coronary/cine"),
        ("today", "coronary", "coronary/cine/today"),
    ],
)
def test_a_folder_or_a_profile_says_where(
    tmp_path: Path, folder: str | None, profile: str | None, expected: str
) -> None:
    """A profile is chosen by its folder; a folder is below that."""
    settings = configuration.build(PROFILES, base=tmp_path)
    assert Path(expected) == place_in_inbox(settings, Path(folder) if folder else None, profile)


@pytest.mark.parametrize(
    ("folder", "profile", "said"),
    [
        ("../x", None, "leads out of the inbox"),
        ("/srv", None, "leads out of the inbox"),
        (".hidden", None, "is never looked into"),
        (None, "retina", "no profile 'retina'"),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, folder: str | None, profile: str | None, said: str) -> None:
    """Before anything is copied."""
    settings = configuration.build(PROFILES, base=tmp_path)
    with pytest.raises(UsageError, match=said):
        place_in_inbox(settings, Path(folder) if folder else None, profile)


def test_what_would_not_be_taken_is_refused(tmp_path: Path, scan: Path) -> None:
    """Folders, devices, missing files, names on the ignore list."""
    settings = configuration.build({}, base=tmp_path)
    check_sources([scan], settings)
    (tmp_path / "Thumbs.db").touch()
    wrong = {
        tmp_path: "is a folder",
        tmp_path / "nothing.png": "cannot be read: No such file",
        tmp_path / "Thumbs.db": "would be ignored",
        Path("/dev/null"): "is not a file",
    }
    for path, said in wrong.items():
        with pytest.raises(UsageError, match=said):
            check_sources([scan, path], settings)


def test_an_inbox_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It may be an empty mount point: what is copied there would be hidden later."""
    with pytest.raises(UnavailableError, match="There is no inbox"):
        check_inbox(tmp_path / "inbox", None)
    with pytest.raises(UnavailableError, match="offline: not mounted"):
        check_inbox(tmp_path, "not mounted")
