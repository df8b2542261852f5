"""Sources that look changed whenever their turn to leave the inbox comes, though their bytes stay the same.

A program that touches its files again and again, or a file system whose times cannot be relied on, would have each of
them taken anew as a duplicate for ever. After the second time such a file is left where it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.inbox.archive import Disposal, Source

ENOUGH = 2
"""Times that a source looked changed while the same bytes were taken from it, until it is left in the inbox."""

REMEMBERED = 10_000
"""Paths remembered at most; the ones noted first are forgotten first."""


class Unsteady:
    """What has looked changed, by path: the hash of the bytes that were taken, and how often. One thread uses it."""

    def __init__(self) -> None:
        self._changed: dict[bytes, tuple[str, int]] = {}

    def spared(self, source: Source) -> Source:
        """The source, to be kept if it has looked changed often enough."""
        return replace(source, how="keep") if self._count(source) >= ENOUGH else source

    def noted(self, source: Source, disposal: Disposal) -> bool:
        """Take note of what became of a source; True when it will be left where it is from now on, to be said once."""
        if disposal.result == "changed":
            count = self._count(source) + 1
            self._changed.pop(source.path, None)
            self._changed[source.path] = (source.sha256, count)
            if len(self._changed) > REMEMBERED:
                del self._changed[next(iter(self._changed))]
            return count == ENOUGH
        if self._count(source) < ENOUGH:
            self._changed.pop(source.path, None)
        return False

    def _count(self, source: Source) -> int:
        sha256, count = self._changed.get(source.path, ("", 0))
        return count if sha256 == source.sha256 else 0
