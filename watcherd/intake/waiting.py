"""The files of the inbox that are waited for, and the sidecars beside them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from watcherd.inbox import mounts
from watcherd.inbox.ingest import OPEN_FOR_WRITING
from watcherd.inbox.settle import Settler
from watcherd.inbox.sidecars import Sidecars
from watcherd.intake.sidecars import Overrides
from watcherd.set_aside import Named, file_named

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from watcherd.inbox.expected import Expected
    from watcherd.inbox.settle import Settled
    from watcherd.inbox.values import Candidate, NotYet
    from watcherd.state.run import Run

FEW = 8
"""Files that go into the queue before all other work, at most; more of them are in no hurry."""
ONCE_PATIENCE = 5.0
"""Seconds that ``--once`` waits for an unfinished file that nobody is known to write."""


class Waiting:
    """What the intake waits for. Its thread alone uses this; `Expected` tells the other threads.

    ``once``: the service ends when everything is done, so it waits for unfinished files for a shorter time.
    """

    settler: Settler
    overrides: Overrides

    def __init__(self, run: Run, expected: Expected, *, clock: Callable[[], float], once: bool = False) -> None:
        self._run = run
        self._expected = expected
        self._clock = clock
        self._once = once
        self.begin(network=False)

    def begin(self, *, network: bool) -> None:
        """Begin to wait for files and their sidecars, with nothing remembered."""
        inbox = self._run.config.inbox
        settle = mounts.settle_seconds(inbox.settle_seconds, network=network)
        limit = inbox.settle_limit_seconds
        self._expected.forget_all()
        self.settler = Settler(settle_seconds=settle, limit_seconds=limit, expected=self._expected)
        sidecars = Sidecars(settle_seconds=settle, limit_seconds=min(limit, ONCE_PATIENCE) if self._once else limit)
        run = self._run
        self.overrides = Overrides(sidecars, self.settler, run.database, run.set_aside, run_id=run.id)

    def wait(self, refused: NotYet) -> NotYet:
        """A settled file could not be taken: look again later. Returns why, with the patience that it is given."""
        if self._once and not refused.reason.endswith(OPEN_FOR_WRITING):  # itself, or its sidecar
            refused = replace(refused, patience=ONCE_PATIENCE)
        self.settler.wait(refused, self._clock())
        return refused

    def tell_of_sidecars(self) -> None:
        """Tell the other threads whether some sidecar's fate is open."""
        self._expected.sidecars(self.overrides.waiting)

    @property
    def next_wakeup(self) -> float:
        """When some file or sidecar is due; infinity while nothing is waited for."""
        times = (self.settler.next_wakeup(), self.overrides.next_wakeup)
        return min((when for when in times if when is not None), default=float("inf"))

    def ahead(self, files: int) -> AbstractContextManager[None]:
        """While so many files are looked at or taken: a few go before all other work of the service."""
        return self._run.new_files_first.first() if 0 < files <= FEW else nullcontext()


def candidate_named(candidate: Candidate) -> Named:
    """What a file that was seen is called where it may be set aside."""
    return file_named(candidate.path, candidate.signature.size, candidate.signature.mtime_ns)


def settled_named(item: Settled) -> Named:
    """What a settled file is called where it may be set aside."""
    return candidate_named(item.candidate)
