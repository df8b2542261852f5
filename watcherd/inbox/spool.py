"""Our own copies of the scans, each under the SHA-256 of its bytes: ``spool/ab/ab12...``.

A file at such a name is whole and synced before anything refers to it. Copies come in batches: all are written to
temporary names, renamed, and made durable by one sync.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.crash_points import crash_point
from watcherd.errors import TransientError
from watcherd.files import make_folder, sync_filesystem, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

BLOCK = 1 << 20
"""Bytes copied at a time."""

FEW = 4
"""Up to this many files are synced one by one: syncfs also waits for what others have written to the file system."""

LOOKED_UP = 500
"""Names that `Spool.clean` asks about at a time."""

_TEMPORARY = "tmp"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_HASH = re.compile(r"[0-9a-f]{64}")

HINTS = {
    errno.ENOSPC: "Make room on that file system; intake goes on by itself.",
    errno.EDQUOT: "Raise the quota of the service's user or make room; intake goes on by itself.",
    errno.EROFS: "The file system is mounted read-only: look at the kernel's log, then remount it writable.",
    errno.EACCES: "Give the service's user write permission there.",
    errno.EIO: "The disk reports errors: look at the kernel's log.",
    errno.EMFILE: "The process has too many files open; raise LimitNOFILE.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """A copy under its temporary name."""

    temporary: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What `Spool.clean` removed."""

    temporaries: int
    orphans: int
    size_bytes: int


class Spool:
    """The folder of copies. One thread writes to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.fspath(root)
        self._temporaries = f"{self._root}/{_TEMPORARY}"
        self.folders_durable = False
        """Whether the names of the folders ``ab`` are; not known of those that an earlier run has made."""

    def path(self, sha256: str) -> Path:
        """Where the copy with this hash is, or would be."""
        return Path(self.name(sha256))

    def name(self, sha256: str) -> str:
        """`path` as text: building a Path takes longer than copying a small file."""
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def prepare(self) -> None:
        """Make the folders, for the service's user alone. Raises `TransientError` when that is not possible."""
        with _explained(self.root):
            make_folder(self.root)
            make_folder(Path(self._temporaries), mode=0o700)

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Copy several files; an exception inside takes every new file away again."""
        batch = Batch(self, self._temporaries)
        try:
            yield batch
        except BaseException:
            batch.discard()
            raise

    def remove(self, sha256: str) -> None:
        """Remove a copy that nobody needs any more; that it is gone already is no error."""
        with _explained(self.root):
            _unlink(self.name(sha256))
        crash_point("spool.removed")

    def holds(self, sha256: str, size_bytes: int) -> bool:
        """Whether the copy with this hash is there and really has it; reads the whole file. Raises OSError."""
        name = self.name(sha256)
        try:
            if os.stat(name).st_size != size_bytes:  # noqa: PTH116 - see `name`
                return False
            with open(name, "rb") as file:  # noqa: PTH123
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def clean(self, known: Callable[[Sequence[str]], Collection[str]]) -> Cleaned:
        """Remove temporaries, and copies whose hash nobody knows; to be called before anything is ingested.

        ``known``: of these hashes, the ones that rows refer to.
        """
        with _explained(self.root):
            leftovers = list(Path(self._temporaries).iterdir())
            size = sum(_remove(path) for path in leftovers)
            orphans = 0
            for paths in self._by_hash():
                kept = set(known(list(paths)))
                for sha256 in paths.keys() - kept:
                    size += _remove(paths[sha256])
                    orphans += 1
        return Cleaned(temporaries=len(leftovers), orphans=orphans, size_bytes=size)

    def _by_hash(self) -> Iterator[dict[str, Path]]:
        """The copies by hash, a few hundred at a time."""
        found: dict[str, Path] = {}
        for folder in self.root.iterdir():
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for path in folder.iterdir():
                if _HASH.fullmatch(path.name):
                    found[path.name] = path
                if len(found) >= LOOKED_UP:
                    yield found
                    found = {}
        if found:
            yield found


class Batch:
    """Copies that become durable together."""

    def __init__(self, spool: Spool, folder: str) -> None:
        self._spool = spool
        self._prefix = f"{folder}/{os.getpid()}-"
        self._temporaries: set[str] = set()
        self._published: list[str] = []
        self._numbers = 0

    def copy(self, blocks: Iterator[bytes]) -> Copy:
        """Write ``blocks`` to a temporary file and hash them on the way.

        Raises `TransientError` when the spool cannot be written; what reading ``blocks`` raises goes through.
        """
        self._numbers += 1
        temporary = f"{self._prefix}{self._numbers}"
        self._temporaries.add(temporary)
        try:
            sha256, size = self._write(temporary, blocks)
        except BaseException:
            self._drop(temporary)
            raise
        crash_point("ingest.copied")
        return Copy(temporary=temporary, sha256=sha256, size_bytes=size)

    def _write(self, temporary: str, blocks: Iterator[bytes]) -> tuple[str, int]:
        digest = hashlib.sha256()
        size = 0
        try:
            descriptor = os.open(temporary, _NEW, 0o600)
        except OSError as error:
            raise _refused(self._spool.root, error) from error
        try:
            for block in blocks:
                digest.update(block)
                size += len(block)
                try:
                    _write(descriptor, block)
                except OSError as error:
                    raise _refused(self._spool.root, error) from error
        finally:
            os.close(descriptor)
        return digest.hexdigest(), size

    def drop(self, copy: Copy) -> None:
        """Take one copy out of the batch."""
        self._drop(copy.temporary)

    def _drop(self, temporary: str) -> None:
        _unlink(temporary)
        self._temporaries.discard(temporary)

    def publish(self, copies: Sequence[Copy]) -> None:
        """Give the copies their final names and make all of it durable. Raises `TransientError`.

        The renames come before the one sync: a power cut in between may leave a name with too few bytes, but nothing
        refers to it yet, and `Spool.clean` or the next copy of the same scan replaces it.
        """
        with _explained(self._spool.root):
            kept = [self._rename(copy) for copy in copies]
            self._sync(kept)
        crash_point("ingest.synced")

    def _rename(self, copy: Copy) -> str:
        name = self._spool.name(copy.sha256)
        if os.access(name, os.F_OK) and self._spool.holds(copy.sha256, copy.size_bytes):
            _unlink(copy.temporary)
        else:
            # A committed job's copy is whole and is not touched; whatever else has the name is a leftover.
            if _rename(copy.temporary, name):
                self._spool.folders_durable = False
            self._published.append(name)
        self._temporaries.discard(copy.temporary)
        crash_point("ingest.renamed")
        return name

    def _sync(self, names: Sequence[str]) -> None:
        if len(names) > FEW:
            sync_filesystem(self._spool.root)
            self._spool.folders_durable = True
            return
        for name in names:
            _sync_file(name)
        for folder in {os.path.dirname(name) for name in names}:  # noqa: PTH120
            sync_folder(folder)
        if names and not self._spool.folders_durable:
            sync_folder(self._spool.root)
            self._spool.folders_durable = True

    def discard(self) -> None:
        """Take away everything that the batch has written; after a failed sync its files cannot be trusted."""
        for name in (*self._temporaries, *self._published):
            with contextlib.suppress(OSError):
                _unlink(name)
        self._temporaries.clear()
        self._published.clear()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn an error of the spool's file system into one that says which folder, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(folder: Path, error: OSError) -> TransientError:
    reason = error.strerror or str(error)
    return TransientError(f"The spool {folder} cannot be written: {reason}.", hint=HINTS.get(error.errno or 0, ""))


def _write(descriptor: int, block: bytes) -> None:
    written = os.write(descriptor, block)
    while written < len(block):
        written += os.write(descriptor, memoryview(block)[written:])


def _rename(temporary: str, name: str) -> bool:
    """Rename, and make the folder if it is missing, as it is the first time; whether it was."""
    try:
        os.rename(temporary, name)  # noqa: PTH104
    except FileNotFoundError:
        Path(name).parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(temporary, name)  # noqa: PTH104
        return True
    return False


def _unlink(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)  # noqa: PTH108


def _sync_file(name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> int:
    """Remove a file; the bytes that it had."""
    size = path.lstat().st_size
    path.unlink()
    return size
