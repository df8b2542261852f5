"""Names that nobody has made durable are taken away from a disk, as POSIX allows a power cut to do.

The file systems that there are for trials write names in the order in which they were given, and a file's own name
along with its bytes; a program may lean on that without knowing, and a sync of a folder that it forgot is never missed.
Here a name counts as durable when its folder was synced after it was given (fsync(2) of the folder, syncfs(2) of its
file system), and not before. Of the others, any may be there after a power cut. What was renamed is back at its old
name, unless the folder of that was synced meanwhile; bytes, and names that were taken away, are what the real disk has.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

ENTRY = struct.Struct("=qqQQQQ256s256s")
"""struct entry of power_cut.c."""

Kind = Literal["named", "renamed", "synced", "all synced"]
_KINDS: dict[int, Kind] = {1: "named", 2: "renamed", 3: "synced", 4: "all synced"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What one call has done. ``at``: in nanoseconds of the clock that only goes forward.

    ``folder``: inode of the name's folder, or of what was synced. ``old_folder``, ``old_name``: before it was renamed.
    """

    at: int
    kind: Kind
    device: int
    folder: int
    inode: int = 0
    name: bytes = b""
    old_folder: int = 0
    old_name: bytes = b""


class Record:
    """What a daemon, and whoever drops files for it, did to names; `file` has to be known to power_cut.c."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.touch()
        self._dropped: list[Entry] = []

    @contextmanager
    def dropping(self, root: Path, path: Path) -> Iterator[None]:
        """Around the making of a file below ``root``: what names it gave, itself and its folders."""
        new = [one for one in (path, *path.parents) if root in one.parents and not one.exists()]
        at = time.monotonic_ns()  # before, so that a sync that comes at once is not taken for an earlier one
        yield
        for one in new:
            status, folder = one.lstat(), one.parent.stat()
            self._dropped.append(
                Entry(
                    at=at,
                    kind="named",
                    device=status.st_dev,
                    folder=folder.st_ino,
                    inode=status.st_ino,
                    name=os.fsencode(one.name),
                )
            )

    def entries(self) -> list[Entry]:
        """All of it, in the order in which it was done."""
        content = self.file.read_bytes()
        whole = content[: len(content) // ENTRY.size * ENTRY.size]
        return sorted([*map(_entry, ENTRY.iter_unpack(whole)), *self._dropped], key=lambda entry: entry.at)


def _entry(fields: tuple[int, int, int, int, int, int, bytes, bytes]) -> Entry:
    at, kind, device, folder, inode, old_folder, name, old_name = fields
    return Entry(
        at=at,
        kind=_KINDS[kind],
        device=device,
        folder=folder,
        inode=inode,
        old_folder=old_folder,
        name=name.partition(b"\0")[0],
        old_name=old_name.partition(b"\0")[0],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsynced:
    """A name that a power cut may take away. ``may_be_back``: whether it may have its old one again."""

    entry: Entry
    may_be_back: bool


def unsynced(entries: Sequence[Entry], device: int) -> list[Unsynced]:
    """The names on one disk that are not durable at the end of ``entries``; the last ones first."""
    found, synced = [], set[int]()
    for entry in reversed(entries):
        if entry.device != device:
            continue
        if entry.kind == "all synced":
            break
        if entry.kind == "synced":
            synced.add(entry.folder)
        elif entry.folder not in synced:
            may_be_back = entry.kind == "renamed" and entry.old_folder not in synced
            found.append(Unsynced(entry=entry, may_be_back=may_be_back))
    return found


def forget(root: Path, names: Sequence[Unsynced], chance: random.Random) -> list[str]:
    """Take names away from a disk that is mounted at ``root``: all of them, or as it happens; which.

    With a folder go the names in it that are not durable themselves: nothing is moved into a folder that is not there.
    """
    share = chance.choice((0.5, 1.0))
    chosen = {id(name) for name in names if chance.random() < share}
    gone = set[int]()
    for name in reversed(names):  # a folder before what is in it
        if id(name) in chosen or name.entry.folder in gone:
            chosen.add(id(name))
            gone.add(name.entry.inode)
    return [shown for name in names if id(name) in chosen and (shown := _forget(root, name))]


def _forget(root: Path, unsynced: Unsynced) -> str:
    """What was taken away; nothing if the name is not there or another file's."""
    folders = _folders(root)
    entry = unsynced.entry
    folder, old_folder = folders.get(entry.folder), folders.get(entry.old_folder)
    path = None if folder is None else folder / os.fsdecode(entry.name)
    if path is None or not os.path.lexists(path) or path.lstat().st_ino != entry.inode:
        return ""
    old = None if old_folder is None else old_folder / os.fsdecode(entry.old_name)
    if unsynced.may_be_back and old is not None and not os.path.lexists(old) and path not in (old, *old.parents):
        path.rename(old)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return str(path.relative_to(root))


def _folders(root: Path) -> dict[int, Path]:
    return {Path(folder).stat().st_ino: Path(folder) for folder, _, _ in os.walk(root)}
