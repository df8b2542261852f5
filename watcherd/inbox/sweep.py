"""One pass over the inbox: the truth about what lies there.

A sweep is a generator: it holds one open folder for each level it is in and a chunk of names, however many files there
are, and it can be left waiting while nobody has room for more.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import translate
from typing import TYPE_CHECKING

from watcherd.formats.table import FORMATS
from watcherd.inbox.folders import VANISHED, OpenFolders, open_below, split
from watcherd.inbox.litter import LITTER
from watcherd.inbox.values import (
    Candidate,
    Folder,
    Gone,
    Ignored,
    Seen,
    candidate_of,
    ignored_of,
    reason_not_regular,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNK = 1000
"""Files and ignored things in one chunk, at most."""

DEEPEST = 64
"""Levels of folders that are walked; each costs two file descriptors."""

FOLDER_WITH_A_SCANS_NAME = "is a folder, though named like a scan; what is in it is taken one by one"
UNREADABLE_FOLDER = "is a folder that the service may not enter; give its user permission to read it (r-x)"

_SUFFIXES = (*(suffix for row in FORMATS for suffix in row.suffixes), "npy")
_LOOKS_LIKE_A_SCAN = re.compile(rf".\.({'|'.join(map(re.escape, _SUFFIXES))})\Z", re.IGNORECASE)


class IgnoreList:
    """Names that are never scans, as shell patterns, beside those of `LITTER`; upper and lower case alike, as Windows
    writes them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        every = "|".join(translate(pattern) for pattern in (*LITTER, *patterns))
        self._match = re.compile(every, re.IGNORECASE).match

    def has(self, name: str) -> bool:
        """Whether one component of a path is on the list; ``name`` as os.fsdecode gives it."""
        return self._match(name) is not None

    def has_any(self, path: bytes) -> bool:
        """Whether any component of a path below the inbox is on the list."""
        return any(self.has(part) for part in os.fsdecode(path).split("/"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Some of what a sweep saw. ``skipped``: folders whose reading failed; the next sweep tries them again."""

    candidates: list[Candidate]
    ignored: list[Ignored]
    skipped: list[bytes]


def sweep(
    root_fd: int,
    ignore: IgnoreList,
    *,
    folder: bytes = b"",
    entering: Callable[[bytes], None] | None = None,
    chunk: int = CHUNK,
) -> Iterator[Chunk]:
    """Everything below ``folder``, in chunks; one that is gone gives none.

    ``root_fd``: descriptor of the inbox. ``entering``: called with every folder before it is read, so that a watch
    can be there first and nothing slips in between. Raises OSError when the inbox itself cannot be read.
    """
    try:
        descriptor = open_below(root_fd, folder)
    except OSError as error:
        if folder and error.errno in VANISHED | {errno.EACCES, errno.EPERM}:
            return
        raise
    walk = _Walk(ignore, entering, chunk)
    try:
        yield from walk.below(descriptor, folder, frozenset({_identity(descriptor)}))
    finally:
        os.close(descriptor)
    yield from walk.full(at_least=1)


class _Walk:
    """Walks folders depth first and gathers what it sees into chunks."""

    def __init__(self, ignore: IgnoreList, entering: Callable[[bytes], None] | None, chunk: int) -> None:
        self._ignore = ignore
        self._entering = entering
        self._chunk = chunk
        self._empty()

    def _empty(self) -> None:
        self._candidates: list[Candidate] = []
        self._ignored: list[Ignored] = []
        self._skipped: list[bytes] = []

    def full(self, at_least: int) -> Iterator[Chunk]:
        """The chunk gathered so far, if it has ``at_least`` entries."""
        if len(self._candidates) + len(self._ignored) + len(self._skipped) >= at_least:
            yield Chunk(candidates=self._candidates, ignored=self._ignored, skipped=self._skipped)
            self._empty()

    def below(self, descriptor: int, folder: bytes, above: frozenset[tuple[int, int]]) -> Iterator[Chunk]:
        """Go through an open folder; ``above``: the folders that it lies in and itself, to see a loop of mounts."""
        if self._entering:
            self._entering(folder)
        prefix = folder + b"/" if folder else b""
        for entry in self._entries(descriptor, folder):
            if self._ignore.has(entry.name):
                continue
            path = prefix + os.fsencode(entry.name)
            if self._is_folder(path, entry):
                yield from self._deeper(descriptor, path, above)
            yield from self.full(at_least=self._chunk)

    def _entries(self, descriptor: int, folder: bytes) -> Iterator[os.DirEntry[str]]:
        """The entries of an open folder, as far as they can be read."""
        try:
            with os.scandir(descriptor) as entries:
                yield from entries
        except OSError:
            if not folder:
                raise
            self._skipped.append(folder)

    def _is_folder(self, path: bytes, entry: os.DirEntry[str]) -> bool:
        """Note what ``entry`` is, unless it is a folder, or was gone before it could be looked at."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return False
        if stat.S_ISREG(status.st_mode):
            self._candidates.append(candidate_of(path, status))
        elif not stat.S_ISDIR(status.st_mode):
            self._ignored.append(ignored_of(path, status, reason_not_regular(status.st_mode)))
        else:
            if _LOOKS_LIKE_A_SCAN.search(entry.name):
                self._ignored.append(ignored_of(path, status, FOLDER_WITH_A_SCANS_NAME))
            return True
        return False

    def _deeper(self, descriptor: int, path: bytes, above: frozenset[tuple[int, int]]) -> Iterator[Chunk]:
        name = split(path)[1]
        try:
            inner = open_below(descriptor, name)
        except OSError as error:
            self._cannot_enter(descriptor, path, error)
            return
        try:
            identity = _identity(inner)
            if identity not in above and path.count(b"/") < DEEPEST:
                yield from self.below(inner, path, above | {identity})
            elif identity not in above:
                self._ignored.append(ignored_of(path, os.fstat(inner), f"lies more than {DEEPEST} folders deep"))
        finally:
            os.close(inner)

    def _cannot_enter(self, descriptor: int, path: bytes, error: OSError) -> None:
        if error.errno in (errno.EACCES, errno.EPERM):
            status = os.stat(split(path)[1], dir_fd=descriptor, follow_symlinks=False)
            self._ignored.append(ignored_of(path, status, UNREADABLE_FOLDER))
        elif error.errno not in VANISHED:
            self._skipped.append(path)


def look(root_fd: int, ignore: IgnoreList, path: bytes, folders: OpenFolders | None = None) -> Seen | None:
    """What lies at one path below the inbox now; None for a name on the ignore list.

    ``folders``: of the same inbox, for many looks one after the other. A file behind a symbolic link, or in a folder
    that cannot be entered, is `Gone`: the sweep says what is in its way. Raises OSError when the file system does not
    answer.
    """
    if ignore.has_any(path):
        return None
    folder, name = split(path)
    try:
        with nullcontext(folders) if folders else OpenFolders(root_fd) as opened:
            status = os.stat(name, dir_fd=opened[folder], follow_symlinks=False)
    except OSError as error:
        if error.errno in VANISHED | {errno.EACCES, errno.EPERM}:
            return Gone(path=path)
        raise
    if stat.S_ISREG(status.st_mode):
        return candidate_of(path, status)
    if stat.S_ISDIR(status.st_mode):
        return Folder(path=path)
    return ignored_of(path, status, reason_not_regular(status.st_mode))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
