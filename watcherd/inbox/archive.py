"""Take finished scans out of the inbox: archive, keep or delete their source.

A source is touched only if it is still the file that was taken. Between a look and a rename somebody may put another
file in its place, so it is looked at once more after the rename, under a name of our own, before anything is removed;
what turns out to be another file is put back. All of it may be run again after a crash and ends in the same place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from watcherd import file_names
from watcherd.crash_points import crash_point
from watcherd.files import rename_new, sync_filesystem
from watcherd.inbox.folders import VANISHED, OpenFolders, open_root, split
from watcherd.inbox.values import signature_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from watcherd.values import Signature

How = Literal["archive", "keep", "delete"]
Result = Literal["archived", "kept", "deleted", "changed", "gone", "failed"]

FAILED_FOLDER = b"failed"
"""Where the archive keeps scans that gave no mask, below its root."""

ASIDE = b".watcherd-removing-"
COPYING = b".watcherd-copying-"
"""Beginnings of our own names in inbox and archive; the ignore list has everything that begins with a dot."""

MOST_NAMES = 1000
"""Names tried in the archive before giving up."""

LIKELY_NAMES = 3
"""Names under which a scan is looked for in the archive."""

_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A scan's file in the inbox whose job is durably finished. ``failed``: it gave no mask.

    ``ctime_ns``: of the file when it was taken; 0 where that was not written down.
    ``archive_as``: the path below the archive that is wanted, where it is not the one in the inbox.
    """

    path: bytes
    signature: Signature
    sha256: str
    how: How
    ctime_ns: int = 0
    failed: bool = False
    archive_as: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Disposal:
    """What became of a source.

    ``archived_as``: its path below the archive. ``changed``: another file has its name now, and is left alone.
    ``gone``: somebody else removed it. ``failed``: ``reason`` says why and what to do; trying again may help.
    """

    path: bytes
    result: Result
    archived_as: bytes | None = None
    reason: str = ""


def dispose(sources: Sequence[Source], *, inbox: Path, archive: Path) -> list[Disposal]:
    """Dispose of sources, durably; one result for each, in order.

    One sync serves them all. Never raises for a file: a source that cannot be moved is ``failed``, and its job stays
    what it is.
    """
    if all(source.how == "keep" for source in sources):
        return [Disposal(path=source.path, result="kept") for source in sources]
    try:
        with _Disposer(inbox, archive) as disposer:
            disposals = [disposer.dispose(source) for source in sources]
            disposer.sync()
    except OSError as error:
        reason = _reason(error)
        return [Disposal(path=source.path, result="failed", reason=reason) for source in sources]
    crash_point("dispose.synced")
    return disposals


def _reason(error: OSError) -> str:
    what = f"{error.strerror or error}"
    name = error.filename
    where = f" ({file_names.show(os.fsencode(name))})" if isinstance(name, str | bytes) else ""
    hint = {
        errno.EACCES: "; the service's user needs write permission for the inbox's folder and the archive",
        errno.EPERM: "; the service's user needs write permission for the inbox's folder and the archive",
        errno.EROFS: "; the file system is mounted read-only",
        errno.ENOSPC: "; make room in the archive",
    }.get(error.errno or 0, "")
    return f"{what}{where}{hint}"


class _Disposer:
    """The open folders of one call of `dispose`."""

    def __init__(self, inbox: Path, archive: Path) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            inbox_fd = open_root(inbox)
            stack.callback(os.close, inbox_fd)
            archive.mkdir(parents=True, exist_ok=True)
            archive_fd = open_root(archive)
            stack.callback(os.close, archive_fd)
            self._inbox = stack.enter_context(OpenFolders(inbox_fd))
            self._archive = stack.enter_context(OpenFolders(archive_fd, create=True))
            self._stack = stack.pop_all()
        self._roots = (inbox, archive)
        self._removing = _Removing(self._inbox)

    def __enter__(self) -> _Disposer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sync(self) -> None:
        """Make the renames durable on both sides; the file systems may be the same."""
        for device in {root.stat().st_dev: root for root in self._roots}.values():
            sync_filesystem(device)

    def dispose(self, source: Source) -> Disposal:
        crash_point("dispose.begun")
        try:
            file_names.check_relative(source.path)
            return self._dispose(source)
        except (OSError, ValueError) as error:
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            return Disposal(path=source.path, result="failed", reason=reason)

    def _dispose(self, source: Source) -> Disposal:
        if source.how == "keep":
            return Disposal(path=source.path, result="kept")
        removed_before = self._removing.finish(source)
        found = self._find(source)
        if source.how == "delete":
            if isinstance(found, os.stat_result):
                return Disposal(path=source.path, result="deleted" if self._removing.remove(source) else "changed")
            return Disposal(path=source.path, result="deleted" if removed_before else found)
        if isinstance(found, os.stat_result):
            return self._into_archive(source, found)
        if removed_before or found == "gone":
            return self._already_archived(source)
        return Disposal(path=source.path, result="changed")

    def _find(self, source: Source) -> os.stat_result | Literal["changed", "gone"]:
        """The status of the file at the source's path while it is the one that was taken."""
        folder, name = split(source.path)
        try:
            parent = self._inbox[folder]
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno in VANISHED:
                return "gone"
            raise
        return status if _is_same(parent, name, status, source) else "changed"

    def _into_archive(self, source: Source, seen: os.stat_result) -> Disposal:
        """Rename it to the first name that is free, or find its like there already."""
        folder, _ = split(self._archived_path(source))
        for name in _archive_names(source):
            result = self._try_name(source, seen, folder, name)
            if result is not None:
                archived_as = (folder + b"/" if folder else b"") + name if result == "archived" else None
                return Disposal(path=source.path, result=result, archived_as=archived_as)
        return Disposal(path=source.path, result="failed", reason=f"{MOST_NAMES} names are taken in the archive")

    def _archived_path(self, source: Source) -> bytes:
        if source.archive_as is not None:
            return source.archive_as
        return FAILED_FOLDER + b"/" + source.path if source.failed else source.path

    def _try_name(self, source: Source, seen: os.stat_result, folder: bytes, name: bytes) -> Result | None:
        """Archive under ``name``; None when another file has it."""
        target = self._archive[folder]
        if self._holds(target, name, source):
            return "archived" if self._removing.remove(source) else "changed"
        source_folder, source_name = split(source.path)
        try:
            rename_new(source_name, name, source_fd=self._inbox[source_folder], target_fd=target)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self._copy_across(source, target, name)
        crash_point("dispose.moved")
        if not _is_renamed(target, name, seen, source):
            _put_back(target, name, self._inbox[source_folder], source_name)
            return "changed"
        return "archived"

    def _holds(self, target: int, name: bytes, source: Source) -> bool:
        """Whether the archive has the very same bytes under ``name``."""
        try:
            status = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            return False
        same_size = stat.S_ISREG(status.st_mode) and status.st_size == source.signature.size
        return same_size and _hash(target, name) == source.sha256

    def _copy_across(self, source: Source, target: int, name: bytes) -> Result | None:
        """To another file system: copy, sync, check the hash, give it its name, only then remove the source."""
        temporary = COPYING + source.sha256[:16].encode()
        folder, source_name = split(source.path)
        try:
            if _copy(self._inbox[folder], source_name, target, temporary) != source.sha256:
                os.unlink(temporary, dir_fd=target)
                return "changed"
            crash_point("dispose.copied")
            rename_new(temporary, name, source_fd=target, target_fd=target)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=target)
            if error.errno == errno.EEXIST:
                return None
            raise
        os.fsync(target)
        crash_point("dispose.published")
        return "archived" if self._removing.remove(source) else "changed"

    def _already_archived(self, source: Source) -> Disposal:
        """The source is gone: taken by us before a crash, or by somebody else."""
        folder, _ = split(self._archived_path(source))
        for name in itertools.islice(_archive_names(source), LIKELY_NAMES):
            if self._holds(self._archive[folder], name, source):
                archived_as = (folder + b"/" if folder else b"") + name
                return Disposal(path=source.path, result="archived", archived_as=archived_as)
        return Disposal(path=source.path, result="gone")


class _Removing:
    """Removes sources: set aside under a name that follows from the file, looked at, and only then unlinked."""

    def __init__(self, inbox: OpenFolders) -> None:
        self._inbox = inbox

    def remove(self, source: Source) -> bool:
        """Remove the source; False when another file turned out to have its name.

        A crash in between leaves it set aside, for `finish`.
        """
        folder, name = split(source.path)
        parent = self._inbox[folder]
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not _is_same(parent, name, status, source):
            return False
        rename_new(name, _aside(source), source_fd=parent, target_fd=parent)
        crash_point("dispose.set-aside")
        return self._unlink(parent, source, is_source=_is_renamed(parent, _aside(source), status, source))

    def finish(self, source: Source) -> bool:
        """Unlink what a crash left set aside if it is the source, else put it back; whether the source was removed."""
        folder, _ = split(source.path)
        aside = _aside(source)
        try:
            parent = self._inbox[folder]
            status = os.stat(aside, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno in VANISHED:
                return False
            raise
        return self._unlink(parent, source, is_source=_is_same(parent, aside, status, source))

    def _unlink(self, parent: int, source: Source, *, is_source: bool) -> bool:
        if not is_source:
            _put_back(parent, _aside(source), parent, split(source.path)[1])
            return False
        os.unlink(_aside(source), dir_fd=parent)
        crash_point("dispose.removed")
        return True


def _aside(source: Source) -> bytes:
    return ASIDE + b"%x-%s" % (source.signature.inode, source.sha256[:16].encode())


def _put_back(here: int, name: bytes, there: int, wanted: bytes) -> None:
    """Give a file that is not ours the name it was found under, or one like it if that has been taken meanwhile."""
    for number in range(1, MOST_NAMES):
        back = wanted if number == 1 else file_names.insert(wanted, b"-%d" % number)
        with contextlib.suppress(FileExistsError):
            rename_new(name, back, source_fd=here, target_fd=there)
            return


def archived_names(path: bytes, sha256: str) -> Iterator[bytes]:
    """Paths below the archive at which a scan may lie that was dropped at ``path`` below the inbox."""
    folder, name = split(path)
    for place in (folder, FAILED_FOLDER + b"/" + folder if folder else FAILED_FOLDER):
        for candidate in itertools.islice(_names_like(name, sha256), LIKELY_NAMES):
            yield (place + b"/" if place else b"") + candidate


def _archive_names(source: Source) -> Iterator[bytes]:
    return _names_like(split(source.archive_as or source.path)[1], source.sha256)


def _names_like(name: bytes, sha256: str) -> Iterator[bytes]:
    digits = sha256[: file_names.HASH_DIGITS].encode()
    yield name
    yield file_names.insert(name, b"-" + digits)
    for number in range(2, MOST_NAMES):
        yield file_names.insert(name, b"-%s-%d" % (digits, number))


def _is_same(parent: int, name: bytes, status: os.stat_result, source: Source) -> bool:
    """Whether a status is that of the file that was taken, with the bytes that were taken.

    Nothing has happened to a file whose ctime is the same. Otherwise the bytes decide: permissions may have changed, a
    remount or a FUSE file system may number its files anew, and a program may set a file's time back after a write.
    """
    found, taken = signature_of(status), source.signature
    if not stat.S_ISREG(status.st_mode) or (found.size, found.mtime_ns) != (taken.size, taken.mtime_ns):
        return False
    untouched = (found.device, found.inode, status.st_ctime_ns) == (taken.device, taken.inode, source.ctime_ns)
    return untouched or _hash(parent, name) == source.sha256


def _is_renamed(parent: int, name: bytes, before: os.stat_result, source: Source) -> bool:
    """Whether the file under ``name`` is the one that was found to be the source ``before`` it was renamed.

    Some file systems give a file another number or time with its new name; then the bytes decide.
    """
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or status.st_size != before.st_size:
        return False
    return signature_of(status) == signature_of(before) or _hash(parent, name) == source.sha256


def _hash(parent: int, name: bytes) -> str:
    with open(os.open(name, _READ, dir_fd=parent), "rb") as file:  # noqa: PTH123 - a descriptor has no Path
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source_fd: int, name: bytes, target_fd: int, temporary: bytes) -> str:
    """Copy a file with its times, synced, and return the SHA-256 of what the copy holds."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=target_fd)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, _READ, dir_fd=source_fd), "rb") as old,  # noqa: PTH123
        open(os.open(temporary, flags, 0o640, dir_fd=target_fd), "w+b") as new,  # noqa: PTH123
    ):
        while block := old.read(_BLOCK):
            new.write(block)
        new.flush()
        status = os.fstat(old.fileno())
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(new.fileno())
        new.seek(0)
        return hashlib.file_digest(new, "sha256").hexdigest()
