"""A scan whose copy in the spool is missing or damaged: its bytes are looked for in the archive and in the inbox.

What has the scan's hash is the scan, wherever it lies; nothing else is taken for it. Also after an older backup of the
history was restored, whose copies are gone and which does not know yet what went into the archive.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from watcherd.inbox.archive import archived_names
from watcherd.inbox.folders import open_below, open_root, split
from watcherd.inbox.spool import BLOCK
from watcherd.store import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.inbox.spool import Spool
    from watcherd.store import Database
    from watcherd.store.leftovers import ScanBytes

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Refetch:
    """For the thread that owns the spool."""

    def __init__(self, config: Config, database: Database, spool: Spool) -> None:
        self._inbox = config.inbox.path
        self._archive = config.inbox.archive_path
        self._database = database
        self._spool = spool

    def bring_back(self, job_id: int) -> bool:
        """See to it that the copy of a job's scan lies in the spool, with its own bytes; whether it does.

        Raises `TransientError` when the spool cannot be written.
        """
        with self._database.reader() as connection:
            scan = leftovers.scan_bytes(connection, job_id)
        if not self._is_there(scan) and not any(self._take(scan, *place) for place in self._places(scan)):
            return False
        if scan.spool_name is None:
            self._database.write(lambda c: leftovers.remember_spooled(c, scan.sha256, scan.sha256))
        return True

    def _is_there(self, scan: ScanBytes) -> bool:
        try:
            return self._spool.holds(scan.sha256, scan.size_bytes)
        except OSError:  # a bad block, for example: another copy is as good
            return False

    def _places(self, scan: ScanBytes) -> Iterator[tuple[Path, bytes]]:
        """Where the scan may lie, the likeliest first: roots, and paths below them."""
        for path in scan.archived:
            yield self._archive, path
        for path in scan.dropped:
            for name in archived_names(path, scan.sha256):
                yield self._archive, name
            yield self._inbox, path

    def _take(self, scan: ScanBytes, root: Path, path: bytes) -> bool:
        """Copy the file there into the spool if it is the scan: its hash is that of what was copied."""
        try:
            descriptor = _open(root, path)
        except (OSError, ValueError):
            return False
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != scan.size_bytes:
                return False
            with self._spool.batch() as batch:
                try:
                    copy = batch.copy(iter(lambda: file.read(BLOCK), b""))
                except OSError:  # it cannot be read
                    return False
                if copy.sha256 != scan.sha256:
                    batch.drop(copy)
                    return False
                batch.publish([copy])
        return True


def _open(root: Path, path: bytes) -> int:
    """A file below a folder, without following links. Raises OSError, or ValueError for a path that leads out."""
    folder, name = split(path)
    root_fd = open_root(root)
    try:
        parent = open_below(root_fd, folder)
    finally:
        os.close(root_fd)
    try:
        return os.open(name, _READ, dir_fd=parent)
    finally:
        os.close(parent)
