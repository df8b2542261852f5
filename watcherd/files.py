"""What the standard library lacks for publishing files durably: syncfs, and a rename that never overwrites."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Name: TypeAlias = "bytes | str | os.PathLike[str] | os.PathLike[bytes]"

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

NOT_KNOWN = frozenset(
    {errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EIO, errno.EMLINK}
)
"""Errors by which file systems say that they know no such rename or no hard links. FUSE has EINVAL for the first
(sshfs, mergerfs, bindfs, rclone), and EIO (rclone), EPERM or ENOSYS for the second. What is really wrong comes back
from the plain rename."""

_NO_SYNC = frozenset({errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""Errors when a folder cannot be synced by itself: it may not be read, or its file system syncs no folders."""

_libc = ctypes.CDLL(None, use_errno=True)


def sync_filesystem(folder: Name) -> None:
    """Make everything written to the file system that holds ``folder`` durable (syncfs(2)).

    One call serves a whole batch of files and renames. Raises OSError, with the disk's own errors too.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_open_filesystem(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(folder)) from error
    finally:
        os.close(descriptor)


def sync_open_filesystem(descriptor: int) -> None:
    """The same for the file system that ``descriptor`` is on."""
    if not _done(_libc.syncfs, descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_folder(folder: Name) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing, durably; one that is there is left as it is.

    Its name is synced then too: an earlier run may have been killed before it had come to that. ``mode``: of the last
    one alone. Raises OSError, FileExistsError where something else has the name.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for parent in {one.parent for one in (folder, *missing)}:
        try:
            sync_folder(parent)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
            sync_filesystem(folder)


def rename_new(source: Name, target: Name, *, source_fd: int = AT_FDCWD, target_fd: int = AT_FDCWD) -> None:
    """Rename a file or a folder, and raise FileExistsError rather than overwrite. What is renamed keeps its inode.

    renameat2(2) with RENAME_NOREPLACE. Where the file system lacks it: a hard link and an unlink, if the link is seen
    to be the same file. Where it lacks hard links too, or shows a link as another file (sshfs, mergerfs): a look and a
    rename; somebody who takes the very name in between is overwritten then.
    """
    old, new = os.fsencode(source), os.fsencode(target)
    if _done(_libc.renameat2, source_fd, old, target_fd, new, RENAME_NOREPLACE):
        return
    if ctypes.get_errno() not in NOT_KNOWN:
        _raise(target)
    here = source_fd if source_fd != AT_FDCWD else None
    there = target_fd if target_fd != AT_FDCWD else None
    if _link_and_unlink(old, new, here, there):
        return
    with contextlib.suppress(FileNotFoundError):
        os.stat(new, dir_fd=there, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(new))
    os.rename(old, new, src_dir_fd=here, dst_dir_fd=there)


def _link_and_unlink(old: bytes, new: bytes, here: int | None, there: int | None) -> bool:
    """Rename by a hard link; False: not possible on this file system, and nothing was changed."""
    try:
        os.link(old, new, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
    except OSError as error:
        if error.errno in NOT_KNOWN or error.errno == errno.EXDEV:  # a union of disks may rename what it cannot link
            return False
        raise
    source = os.stat(old, dir_fd=here, follow_symlinks=False)
    linked = os.stat(new, dir_fd=there, follow_symlinks=False)
    if (source.st_dev, source.st_ino) == (linked.st_dev, linked.st_ino):
        os.unlink(old, dir_fd=here)
        return True
    if (source.st_size, source.st_mode, source.st_uid) != (linked.st_size, linked.st_mode, linked.st_uid):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(new))  # somebody else's by now
    os.unlink(new, dir_fd=there)  # to rename a file onto its own link does nothing
    return False


def exchange(one: Name, other: Name) -> None:
    """Have two files take each other's name in one step (renameat2(2) with RENAME_EXCHANGE)."""
    if not _done(_libc.renameat2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        _raise(other)


def write_new(path: Path, content: bytes) -> None:
    """Write a small file, in place of one that may be there; `Path.write_bytes` costs thrice as much."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: a reader, and a machine that lost power, sees the old or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _done(call: Callable[..., int], *arguments: object) -> bool:
    """Make a system call, again as long as a signal interrupts it; False: errno says why not."""
    while call(*arguments) != 0:
        if ctypes.get_errno() != errno.EINTR:
            return False
    return True


def _raise(name: Name) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), os.fsdecode(name))
