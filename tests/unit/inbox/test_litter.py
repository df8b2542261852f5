"""What other programs leave in a shared folder is no scan, with any configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from watcherd.inbox import litter
from watcherd.inbox.litter import LITTER, is_probe
from watcherd.inbox.sweep import IgnoreList

NOTHING = IgnoreList([])

BINS = (
    "$RECYCLE.BIN/S-1-5-21-1/$RABC123.png",
    "$Recycle.Bin/S-1-5-21-1/$IABC123.png",
    "@Recycle/deleted.png",
    "Network Trash Folder/deleted.png",
    "RECYCLER/S-1-5-21-1/Dc1.png",
    "heart/#recycle/a.png",
    ".Trash-1000/files/a.png",
)
SNAPSHOTS = (
    "#snapshot/GMT-2026.01.01/old.png",
    "@Recently-Snapshot/GMT-1/old.png",
    "~snapshot/daily.0/old.png",
    ".zfs/snapshot/today/old.png",
)
PARTIAL = (
    "a.png.opdownload",
    "b.png.download/b.png",
    "c.png.sb-1234abcd-xyzw",
    "d.png.uploading",
    "e.png.writing",
    "f.png.inprogress",
    "g.png.!qB",
    "h.png~",
    "i.png.bak",
    "j.png.part-1",
    "k.png.temp",
    "l.png.CRDOWNLOAD",
)
OTHERS = (
    "scan.png:Zone.Identifier",
    "scan.png:AFP_AfpInfo",
    "scan.png:com.apple.quarantine",
    "scan.png\uf03aZone.Identifier",
    "scan.png\uf022Zone.Identifier:$DATA",
    "Thumbs.db:encryptable",
    "Icon\r",
    "a.png.lock",
    "a.png.camelLock",
    "System Volume Information/IndexerVolumeGuid",
    "ehthumbs.db",
    "a.png.aria2",
    "a.png.xmp",
    "a.png.md5",
    "@eaDir/a.png/thumb.png",
)


@pytest.mark.parametrize("path", [*BINS, *SNAPSHOTS, *PARTIAL, *OTHERS])
def test_what_others_leave_is_passed_over_without_any_setting(path: str) -> None:
    """As with a configuration whose own list is empty, or years old."""
    assert NOTHING.has_any(path.encode())


@pytest.mark.parametrize(
    "path",
    ["scan.png", "10:30 Uhr.png", "4913", "IM-0001.0002", "snapshot/a.png", "recycle/a.png", "part-1.png", "Icon",
     "lock.png", "backup.bak.png", "download/a.png", "a~b.png", "tmp/a.png", "MR.1.2.840.113619"],
)  # fmt: skip
def test_names_of_scans_are_not(path: str) -> None:
    """That look a little like such names."""
    assert not NOTHING.has_any(path.encode())


def test_an_empty_probe_of_an_editor_is_told_by_its_number() -> None:
    """vim tries 4913, then 123 more, and so on."""
    assert [True, True, True] == [is_probe(name) for name in (b"4913", b"5036", b"5159")]
    assert [False] * 5 == [is_probe(name) for name in (b"4914", b"123", b"a4913", b"4913.png", b"004913000")]


def test_the_manual_says_who_writes_each() -> None:
    """Every name of the list is on the page."""
    page = (Path(litter.__file__).parents[2] / "docs" / "inbox.md").read_text()
    names = [pattern.replace("[:\uf022\uf03a]", ":") for pattern in LITTER if pattern != "Icon\r"]
    assert [] == [name for name in names if f"`{name}`" not in page]
