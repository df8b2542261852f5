"""How long a replica may be silent over a batch before it is taken for dead, by what its batches have taken before.

What takes longer for good reasons is not held against it, and gets the configuration's whole time: runs of frames and
volumes, and the first batch of a size, of options, or of so many scans, at which kernels are picked, graphs captured
and workspaces made. Compiling and probing belong to loading, which has a deadline of its own. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from watcherd.inference.messages import WorkItem

TIMES = 20.0
"""Times the longest silence of a batch seen that another may last..."""
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
        self._at_once = 1
        self._silence = 0.0
        self.seconds = most
        """Seconds of silence, over what it has at hand, after which it counts as hanging. Any thread may read it."""

    def begin(self, at_once: int) -> None:
        """A new process: nothing is known of it but how many scans it computes at once. It says when these are done."""
        self._at_once = at_once
        self._seen.clear()
        self._longest = None
        self._silence = 0.0
        self.seconds = self._most

    def at_hand(self, batches: Iterable[Sequence[WorkItem]]) -> None:
        """It has these: a second batch may be begun before the first is answered for."""
        self.seconds = max(map(self._seconds, batches))

    def heard(self, silence: float) -> None:
        """It has said something, so many seconds after what it had said before."""
        self._silence = max(self._silence, silence)

    def ended(self, items: Sequence[WorkItem]) -> None:
        """These scans were answered for. What their like has taken before is a measure; the first of a kind is none."""
        kinds, silence = _kinds(items), self._silence
        self._silence = 0.0
        if kinds is None:
            return
        if self._knows(kinds):
            self._longest = max(silence, self._longest or 0.0)
        if len(self._seen) + len(kinds) > KINDS:
            self._seen.clear()
        for kind, count in kinds.items():
            self._seen[kind] = max(min(count, self._at_once), self._seen.get(kind, 0))

    def _seconds(self, items: Sequence[WorkItem]) -> float:
        if self._longest is None or not self._knows(_kinds(items)):
            return self._most
        return min(self._most, max(LEAST_SECONDS, TIMES * self._longest))

    def _knows(self, kinds: Mapping[Hashable, int] | None) -> bool:
        return kinds is not None and all(
            min(count, self._at_once) <= self._seen.get(kind, 0) for kind, count in kinds.items()
        )


def _kinds(items: Iterable[WorkItem]) -> dict[Hashable, int] | None:
    """How many scans there are of each size and options; None where a scan is more than a picture."""
    kinds: dict[Hashable, int] = {}
    for item in items:
        if item.frames > 1 or item.run or item.volume is not None or item.channel is not None:
            return None
        kind = (item.size, item.options)
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds
