"""Which names a power cut may take away, by the record of names and syncs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from benchmarks.forgotten_names import Entry, Kind, Record, Unsynced, forget, unsynced

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DISK = 7


def entry(kind: Kind, folder: int, inode: int = 0, *, old_folder: int = 0, device: int = DISK) -> Entry:
    return Entry(at=0, kind=kind, device=device, folder=folder, inode=inode, name=b"n", old_folder=old_folder)


def gone(*entries: Entry) -> list[tuple[int, bool]]:
    return [(name.entry.inode, name.may_be_back) for name in unsynced(entries, DISK)]


def test_a_name_is_durable_when_its_folder_was_synced_after_it_was_given() -> None:
    """Not when it was synced before, when the file itself was, or when another folder was."""
    assert [(11, False)] == gone(entry("synced", 1), entry("named", 1, 11), entry("synced", 11), entry("synced", 2))
    assert [] == gone(entry("named", 1, 11), entry("synced", 1))


def test_one_sync_of_a_file_system_does_for_all_on_it() -> None:
    """And for nothing on another."""
    assert [(12, False)] == gone(entry("named", 1, 11), entry("all synced", 1), entry("named", 1, 12))
    assert [(11, False)] == gone(entry("named", 1, 11), entry("all synced", 1, device=DISK + 1))


def test_what_was_renamed_may_be_back_unless_its_old_folder_was_synced() -> None:
    """Then it is nowhere."""
    renamed = entry("renamed", 1, 11, old_folder=2)
    assert [(11, True)] == gone(renamed)
    assert [(11, False)] == gone(renamed, entry("synced", 2))
    assert [] == gone(renamed, entry("synced", 1))


@pytest.fixture
def all_of_them() -> random.Random:
    """Chance that takes every name away."""
    chance = random.Random(1)
    chance.choice = lambda _shares: 1.0  # type: ignore[method-assign, assignment]
    return chance


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def of(root: Path, *paths: str, old: Path | None = None) -> Sequence[Unsynced]:
    """Each was named in turn, the last one renamed from ``old``; the last ones come first."""
    entries = [
        Entry(
            at=0,
            kind="named" if old is None or path != root / paths[-1] else "renamed",
            device=path.stat().st_dev,
            folder=path.parent.stat().st_ino,
            inode=path.stat().st_ino,
            name=path.name.encode(),
            old_folder=old.parent.stat().st_ino if old else 0,
            old_name=old.name.encode() if old else b"",
        )
        for path in (root / name for name in paths)
    ]
    return unsynced(entries, root.stat().st_dev)


def test_names_are_taken_away_and_renamed_files_put_back(tmp_path: Path, all_of_them: random.Random) -> None:
    """A file in a folder that goes is where it was before."""
    (tmp_path / "staged").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_bytes(b"bytes")
    found = of(tmp_path, "new", "new/a", old=tmp_path / "staged" / "a")
    assert ["new/a", "new"] == forget(tmp_path, found, all_of_them)
    assert ["staged", "staged/a"] == names(tmp_path)


def test_a_name_that_another_file_has_by_now_is_left_alone(tmp_path: Path, all_of_them: random.Random) -> None:
    """The record is of what it once was."""
    (tmp_path / "a").write_bytes(b"one")
    found = of(tmp_path, "a")
    (tmp_path / "b").write_bytes(b"another")
    (tmp_path / "b").replace(tmp_path / "a")
    assert [] == forget(tmp_path, found, all_of_them)
    assert ["a"] == names(tmp_path)


def test_what_is_dropped_is_on_the_record_with_its_new_folders(tmp_path: Path) -> None:
    """Folders that were there are not."""
    record, inbox = Record(tmp_path / "record"), tmp_path / "inbox"
    inbox.mkdir()
    with record.dropping(tmp_path, inbox / "ward" / "a.png"):
        (inbox / "ward").mkdir()
        (inbox / "ward" / "a.png").write_bytes(b"a scan")
    assert {b"a.png", b"ward"} == {one.name for one in record.entries()}
