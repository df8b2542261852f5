"""A stand-in for file systems without RENAME_NOREPLACE, whose hard links are another inode or none at all.

What sshfs, mergerfs, bindfs and rclone answer was seen with real mounts of them; `tests/acceptance/test_fuse.py` has
these. Here `renameat2` and `link` alone are replaced, for the tests that cannot mount anything.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Any

from watcherd import files

KINDS = {
    "hard links": None,
    "links are another inode": None,
    "no links: EPERM": errno.EPERM,
    "no links: EOPNOTSUPP": errno.EOPNOTSUPP,
    "no links: ENOSYS": errno.ENOSYS,
    "no links: EIO": errno.EIO,
    "no links: EMLINK": errno.EMLINK,
    "no links: EINVAL": errno.EINVAL,
}


class _Libc:
    def __init__(self, answer: int) -> None:
        self._answer = answer
        self.syncfs = files._libc.syncfs

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self._answer)
        return -1


def put_in_place(monkeypatch: Any, kind: str, answer: int = errno.EINVAL) -> None:
    """Have renames and links behave as on a file system of this ``kind``; ``answer``: that of RENAME_NOREPLACE."""
    monkeypatch.setattr(files, "_libc", _Libc(answer))
    if kind == "hard links":
        return
    number = KINDS[kind]

    def link(old: bytes, new: bytes, *, src_dir_fd: int | None, dst_dir_fd: int | None, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        if number is not None:
            raise OSError(number, os.strerror(number), os.fsdecode(old))
        if stat.S_ISDIR(os.stat(old, dir_fd=src_dir_fd, follow_symlinks=False).st_mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), os.fsdecode(old))
        reading = os.open(old, os.O_RDONLY, dir_fd=src_dir_fd)
        writing = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=dst_dir_fd)
        status = os.fstat(reading)
        os.sendfile(writing, reading, 0, status.st_size)
        os.fchmod(writing, status.st_mode)
        os.close(reading)
        os.close(writing)
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", link)
