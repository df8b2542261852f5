"""Which copies in the spool may go: those of scans that are done with, and those that never became a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.inbox.tidy import remove_if_empty
from watcherd.store import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from concurrent.futures import Future

    from watcherd.inbox.requests import IntakeRequests
    from watcherd.inbox.spool import Spool
    from watcherd.inbox.tidy import EmptyFolders
    from watcherd.state.run import Run

CLEANED_AT_ONCE = 256
"""Copies that one transaction gives up, at most."""
CLEAN_SECONDS = 1.0
"""Seconds between two looks for copies that nobody needs, while scans are being finished."""


class Copies:
    """The copies that are to be removed. The intake's thread owns it: nobody else writes to the spool.

    The transaction that gives copies up and the one that queues the same bytes anew may come to pass in either order,
    whichever was begun first. So what the first one names is only doubtful. A doubtful copy is judged when no batch is
    on its way into the queue that brings its bytes, by the row of its scan: it stays if the row names it, else it goes.
    """

    def __init__(
        self,
        run: Run,
        spool: Spool,
        requests: IntakeRequests,
        folders: EmptyFolders,
        *,
        clock: Callable[[], float],
        once: bool = False,
    ) -> None:
        self._run = run
        self._spool = spool
        self._requests = requests
        self._folders = folders
        self._clock = clock
        self._once = once
        self._look_again = True
        self._next_look = float("-inf")
        self._forgetting: Future[list[str]] | None = None
        # By name, in the order in which they came.
        self._doubtful: dict[str, None] = {}
        self._leaving: dict[str, None] = {}

    @property
    def next_wakeup(self) -> float:
        """When `clean` has something to do."""
        if self._leaving:
            return float("-inf")
        return self._next_look if self._is_wanted and self._forgetting is None else float("inf")

    @property
    def _is_wanted(self) -> bool:
        return self._look_again or self._requests.finished

    def look_again(self) -> None:
        """There may be copies that nobody needs, though no scan has ended."""
        self._look_again = True

    def keep(self, sha256: str) -> None:
        """The same bytes have come again: their copy stays, for the row that is about to be written."""
        if sha256 in self._leaving:
            del self._leaving[sha256]
            self._doubtful[sha256] = None

    def doubt(self, names: Iterable[str]) -> None:
        """These were copied, and do not come into the queue."""
        self._doubtful |= dict.fromkeys(names)

    def gather(self, coming: Callable[[], Collection[str]], *, wait: bool = False) -> None:
        """Learn which copies may go from the transaction that `clean` began: once it is done, or ``wait`` for it.

        ``coming``: the hashes of the scans that are on their way into the queue.
        """
        if self._forgetting is not None and (wait or self._forgetting.done()):
            self._gather(self._forgetting)
        if self._doubtful:
            self._judge(coming())

    def _gather(self, forgetting: Future[list[str]]) -> None:
        begun = [forgetting]

        def result() -> list[str]:
            again = begun.pop() if begun else self._forget()
            return again.result()

        names = self._run.pauses.until_possible("state", result)
        self._forgetting = None
        self.doubt(names)
        if len(names) == CLEANED_AT_ONCE:
            self._look_again, self._next_look = True, float("-inf")

    def _judge(self, coming: Collection[str]) -> None:
        sure = [name for name in self._doubtful if name not in coming]
        if not sure:
            return
        needed = self._run.read(lambda c: leftovers.spooled(c, sure))
        for name in sure:
            del self._doubtful[name]
            if name not in needed:
                self._leaving[name] = None

    def remove(self, until: Callable[[], bool] = lambda: False) -> None:
        """Remove copies that nobody needs: at least one, and no more once ``until`` says so."""
        while self._leaving:
            name = next(iter(self._leaving))
            del self._leaving[name]
            self._spool.remove(name)
            if until():
                return

    def clean(self, root_fd: int | None, until: Callable[[], bool]) -> None:
        """Have copies forgotten that nobody needs any more, remove some, and folders that have long been empty.

        ``root_fd``: descriptor of the inbox, if it is open. ``until``: as for `remove`.
        """
        self.remove(until)  # new files do not wait for hundreds of these
        now = self._clock()
        if self._is_wanted and not self._leaving and self._forgetting is None and now >= self._next_look:
            self._look_again = False  # before looking: what finishes meanwhile asks again
            self._requests.take_finished()
            self._next_look = now + (0.0 if self._once else CLEAN_SECONDS)
            self._forgetting = self._forget()
            self._forgetting.add_done_callback(lambda _: self._requests.wake.set())
        if root_fd is not None:
            for folder in self._folders.due(self._clock()):
                remove_if_empty(root_fd, folder)

    def _forget(self) -> Future[list[str]]:
        return self._run.database.submit(lambda c: leftovers.forget_spooled(c, CLEANED_AT_ONCE))
