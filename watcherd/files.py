"""What the standard library lacks for publishing files durably: syncfs, and a rename that never overwrites."""

from __future__ import annotations

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

_libc = ctypes.CDLL(None, use_errno=True)


def sync_filesystem(folder: Name) -> None:
    """Make everything written to the file system that holds ``folder`` durable (syncfs(2)).

    One call serves a whole batch of files and renames. Raises OSError, with the disk's own errors too.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _done(_libc.syncfs, descriptor):
            _raise(folder)
    finally:
        os.close(descriptor)


def sync_folder(folder: Name) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_new(source: Name, target: Name, *, source_fd: int = AT_FDCWD, target_fd: int = AT_FDCWD) -> None:
    """Rename, and raise FileExistsError rather than overwrite.

    renameat2(2) with RENAME_NOREPLACE; a hard link and an unlink where the file system lacks it.
    """
    old, new = os.fsencode(source), os.fsencode(target)
    if _done(_libc.renameat2, source_fd, old, target_fd, new, RENAME_NOREPLACE):
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        _raise(target)
    directories = {
        "src_dir_fd": source_fd if source_fd != AT_FDCWD else None,
        "dst_dir_fd": target_fd if target_fd != AT_FDCWD else None,
    }
    os.link(old, new, follow_symlinks=False, **directories)
    os.unlink(old, dir_fd=directories["src_dir_fd"])


def exchange(one: Name, other: Name) -> None:
    """Have two files take each other's name in one step (renameat2(2) with RENAME_EXCHANGE)."""
    if not _done(_libc.renameat2, AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        _raise(other)


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
