"""Make sources durable before anything relies on them: a file that somebody has just copied may be in memory only.

Once its job has succeeded the spool's copy goes, and the file in the inbox, or renamed into the archive, is all there
is. A power cut must not take it then. So a batch's sources are on the disk before the batch is written to the history.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from watcherd.errors import TransientError
from watcherd.files import sync_open_filesystem
from watcherd.inbox.folders import VANISHED, split
from watcherd.inbox.spool import FEW, HINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from watcherd.inbox.folders import OpenFolders
    from watcherd.inbox.spool import Spool

NOT_KNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS, errno.EBADF})
"""Errors of a file system that cannot sync what is open for reading, or to which nobody can have written."""


class Durable:
    """How the sources of one batch become durable.

    A few files one by one: syncfs(2) would also wait for what others are writing to the file system. Many by one call
    of it; or all of them one by one, ``each``, where the file system takes no notice of that call, as those of FUSE.
    """

    def __init__(self, root_fd: int, folders: OpenFolders, *, files: int, each: bool) -> None:
        self._root_fd = root_fd
        self._folders = folders
        self._one_by_one = each or files <= FEW

    def file(self, descriptor: int) -> None:
        """To be called for each file, while it is open. Raises OSError when its bytes cannot be made durable."""
        if self._one_by_one:
            _sync(os.fsync, descriptor)

    def batch(self, paths: Collection[bytes], spool: Spool) -> None:
        """To be called for what was taken, when its copies are durable. Raises `TransientError`."""
        try:
            if self._one_by_one:
                self._sync_folders(paths)
            elif paths and not self._is_covered(len(paths), spool):
                _sync(sync_open_filesystem, self._root_fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise TransientError(
                f"The scans in the inbox cannot be made durable: {reason}.", hint=HINTS.get(error.errno or 0, "")
            ) from error

    def _is_covered(self, copies: int, spool: Spool) -> bool:
        """Whether the sync of so many copies in the spool was one of the inbox's file system too."""
        return copies > FEW and spool.root.stat().st_dev == os.fstat(self._root_fd).st_dev

    def _sync_folders(self, paths: Collection[bytes]) -> None:
        """Make the names durable: the files' own, and those of the folders that they are in."""
        for folder in sorted({above for path in paths for above in _folders_of(path)}):
            try:
                _sync(os.fsync, self._folders[folder])
            except OSError as error:
                if error.errno not in VANISHED:  # then its files are gone with it
                    raise


def _folders_of(path: bytes) -> Iterator[bytes]:
    while path:
        path, _ = split(path)
        yield path


def _sync(call: Callable[[int], None], descriptor: int) -> None:
    try:
        call(descriptor)
    except OSError as error:
        if error.errno not in NOT_KNOWN:
            raise
