"""Take away folders that people moved into the inbox together with their scans, once they are empty.

A folder that is always there, as a profile's or the one that a scanner writes to, must stay. So only folders that came
while the daemon was watching are ever removed, and only after they have been empty for long.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from watcherd.inbox.folders import open_below, split

if TYPE_CHECKING:
    from collections.abc import Collection

EMPTY_FOR = 30 * 24 * 3600.0
"""Seconds that a folder must have been empty, by our own observation: longer than the holidays of a scanner for which
somebody may have made the folder while the daemon was running."""

MOST = 10_000
"""Folders that are remembered."""


class EmptyFolders:
    """Which folders may go. Pure: the time, seconds of a monotonic clock, is passed in.

    ``keep``: folders below the inbox that always stay, with everything above them.
    """

    def __init__(self, keep: Collection[bytes], *, seconds: float = EMPTY_FOR) -> None:
        self._keep = frozenset(ancestor for folder in keep for ancestor in lineage(folder))
        self._seconds = seconds
        self._since: dict[bytes, float | None] = {}

    def came(self, folder: bytes) -> None:
        """A folder was moved or made in the inbox while we watched."""
        if folder not in self._keep and len(self._since) < MOST:
            self._since.setdefault(folder, None)

    def emptied(self, folder: bytes, now: float) -> None:
        """The last scan seen in a folder has left it; the time counts from the last call."""
        for ancestor in lineage(folder):
            if ancestor in self._since:
                self._since[ancestor] = now

    def due(self, now: float) -> list[bytes]:
        """Folders to be removed if they are empty, deepest first; they are forgotten with this."""
        due = [folder for folder, since in self._since.items() if since is not None and now - since >= self._seconds]
        for folder in due:
            del self._since[folder]
        return sorted(due, key=lambda folder: -folder.count(b"/"))


def lineage(folder: bytes) -> list[bytes]:
    """A folder below the inbox and those that it lies in, the inbox itself left out."""
    parts = folder.split(b"/") if folder else []
    return [b"/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def remove_if_empty(root_fd: int, folder: bytes) -> bool:
    """Remove a folder below ``root_fd``; False when there is something in it, or it may not be removed."""
    above, name = split(folder)
    with contextlib.suppress(OSError):
        parent = open_below(root_fd, above)
        try:
            os.rmdir(name, dir_fd=parent)
        finally:
            os.close(parent)
        return True
    return False
