"""How long a replica may be silent over a batch before it is taken for dead, by what its batches have taken before.

What takes longer for good reasons is not held against it, and gets the configuration's whole time: runs of frames and
volumes, and the first batch of a size, of options, or of so many scans, at which kernels are picked, graphs captured
and workspaces made. Compiling and probing belong to loading, which has a deadline of its own. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from watcherd.inference.messages import WorkItem

TIMES = 20.0
"""Times the longest batch seen that a silence may last..."""
LEAST_SECONDS = 10.0
"""...and the seconds that it may last in any case: a busy machine stops a process for some."""
KINDS = 1000
"""Kinds of batches that are kept in mind; where there are more of them, they are learned anew."""


class Patience:
    """What one process has shown of itself. Only its replica's thread uses it.

    ``most``: seconds that no silence may exceed, and all that is known of a process that has shown nothing.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._seen: dict[Hashable, int] = {}
        self._longest: float | None = None

    def begin(self) -> None:
        """A new process: nothing is known of it."""
        self._seen.clear()
        self._longest = None

    def seconds(self, items: Iterable[WorkItem]) -> float:
        """Seconds of silence over a batch of these scans after which its process counts as hanging."""
        kinds = _kinds(items)
        if self._longest is None or not self._knows(kinds):
            return self._most
        return min(self._most, max(LEAST_SECONDS, TIMES * self._longest))

    def ended(self, items: Iterable[WorkItem], seconds: float) -> None:
        """A batch of these scans was answered for, which took so long. Only one whose like was seen is measured."""
        kinds = _kinds(items)
        if kinds is None:
            return
        if self._knows(kinds):
            self._longest = max(seconds, self._longest or 0.0)
        if len(self._seen) + len(kinds) > KINDS:
            self._seen.clear()
        for kind, count in kinds.items():
            self._seen[kind] = max(count, self._seen.get(kind, 0))

    def _knows(self, kinds: Mapping[Hashable, int] | None) -> bool:
        return kinds is not None and all(count <= self._seen.get(kind, 0) for kind, count in kinds.items())


def _kinds(items: Iterable[WorkItem]) -> dict[Hashable, int] | None:
    """How many scans there are of each size and options; None where a scan is more than a picture."""
    kinds: dict[Hashable, int] = {}
    for item in items:
        if item.frames > 1 or item.run or item.volume is not None or item.channel is not None:
            return None
        kind = (item.size, item.options)
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds
