"""What scans' sidecars override, and what becomes of the sidecars: `inbox.sidecars` together with the history."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.inbox.sidecar_options import KEYS
from watcherd.inbox.sidecars import NOTHING, Asked, Sidecars, Unsettled, is_sidecar, scan_of
from watcherd.inbox.sweep import look
from watcherd.inbox.values import Candidate, Ignored
from watcherd.set_aside import file_named
from watcherd.store import PathSignature, arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from watcherd.inbox.settle import Settled, Settler
    from watcherd.inbox.sweep import IgnoreList
    from watcherd.inbox.values import NotYet, Seen
    from watcherd.set_aside import SetAside
    from watcherd.store import Database

FOLDERS = "gives options to the scans of its folder"
WAITS = "waits for its scan"
TOO_LATE = "came after its scan was taken, and has no effect on it; drop the scan again to have it followed"
FOREIGN = (
    f"has none of the keys of a sidecar ({', '.join(KEYS)}), so it is taken for another program's and not followed"
)
NO_SCAN = "is a sidecar whose scan did not come; when it does, this is followed"


class Overrides:
    """The sidecars of an inbox, for the thread that takes its scans."""

    def __init__(
        self, sidecars: Sidecars, settler: Settler, database: Database, set_aside: SetAside, *, run_id: int
    ) -> None:
        self._sidecars = sidecars
        self._settler = settler
        self._database = database
        self._set_aside = set_aside
        self._run_id = run_id
        self._asked: dict[bytes, Asked] = {}

    @property
    def waiting(self) -> bool:
        """Whether some sidecar's fate is open."""
        return self._sidecars.waiting

    @property
    def next_wakeup(self) -> float | None:
        """When `judge` may have something to do; None while there is nothing."""
        return self._sidecars.next_wakeup()

    def entering(self, root_fd: int, folder: bytes) -> None:
        """A sweep enters ``folder``."""
        self._sidecars.entering(root_fd, folder)

    def takes(self, candidate: Candidate, now: float, *, hinted: bool) -> bool:
        """Whether a file is a sidecar, and no scan; it is remembered then."""
        if not is_sidecar(candidate.path):
            return False
        self._sidecars.saw(candidate, now, hinted=hinted)
        return True

    def ready(
        self, batch: Sequence[Settled], root_fd: int, now: float, *, sure: bool, leases: bool
    ) -> tuple[list[Settled], list[NotYet]]:
        """The scans that can be taken now, and those that wait for a sidecar of theirs; see `Sidecars.asked`.

        A scan whose sidecar has just changed settles with it, and is in neither. What is asked for is remembered until
        `forget_asked`.
        """
        taken: list[Settled] = []
        refused: list[NotYet] = []
        for item, asked in self._sidecars.asked(batch, root_fd, now, sure=sure, leases=leases):
            if isinstance(asked, Unsettled):
                self._settler.observe(item.candidate, asked.since, hinted=True)
            elif isinstance(asked, Asked):
                taken.append(item)
                if asked is not NOTHING:
                    self._asked[item.candidate.path] = asked
            else:
                refused.append(asked)
        return taken, refused

    def asked(self, path: bytes) -> Asked:
        """What the sidecars of a scan ask for that `ready` has let through."""
        return self._asked.get(path, NOTHING)

    def forget_asked(self) -> None:
        """The scans that `ready` has let through are taken, or come again."""
        self._asked = {}

    def used(self, paths: Iterable[bytes]) -> list[tuple[PathSignature, str]]:
        """The sidecars of scans that are being taken, and what is to be recorded of them in the same transaction."""
        rows = []
        for path in paths:
            for own in self._asked.get(path, NOTHING).own:
                self._sidecars.forget(own.path)
                rows.append((row_of(own.path, own), arrivals.SIDECAR))
            for foreign in self._asked.get(path, NOTHING).foreign:
                self._sidecars.forget(foreign.path)
                rows.append((row_of(foreign.path, foreign), FOREIGN))
        return rows

    def note(self, path: bytes) -> str:
        """What the record of a scan that `ready` has let through says of files that are called like its sidecars."""
        foreign = self._asked.get(path, NOTHING).foreign
        return "; ".join(f"the *{os.fsdecode(each.path[len(path) :])} beside it {FOREIGN}" for each in foreign)

    def judge(
        self,
        root_fd: int,
        ignore: IgnoreList,
        now: float,
        *,
        tell: Callable[[Seen | None], None],
        ignored: Callable[[Sequence[Ignored]], None],
        store: Callable[[Callable[[Any], Any]], Any],
    ) -> None:
        """Say what becomes of sidecars that have settled and whose scans are not being taken.

        ``tell``, ``ignored`` and ``store``: the intake's own ways of passing on a look, recording and writing.
        """
        there: dict[PathSignature, tuple[Candidate, bool]] = {}

        def see(candidate: Candidate, *, late: bool) -> None:
            seen = look(root_fd, ignore, candidate.path)
            if seen == candidate:
                there[row_of(candidate.path, candidate)] = (candidate, late)
            else:
                self._sidecars.forget(candidate.path)
                tell(seen)

        for candidate, late in self._sidecars.due(now):
            named = file_named(candidate.path, candidate.signature.size, candidate.signature.mtime_ns)
            if not self._set_aside.alone("sidecars", named, partial(see, candidate, late=late)):
                self._sidecars.forget(candidate.path)
        if not there:
            return
        with self._database.reader() as connection:
            known = arrivals.known(connection, list(there))
            scans = {scan for candidate, _ in there.values() if (scan := scan_of(candidate.path)) is not None}
            taken = arrivals.taken(connection, sorted(scans))
        waits, useless = [], []
        for row, (candidate, late) in there.items():
            reason = self._judged(candidate, now, late=late, known=row in known, taken=taken)
            if reason == WAITS:
                waits.append((row, reason))
            elif reason:
                useless.append(_ignored(candidate, reason))
        if waits:
            store(lambda c: arrivals.settling(c, waits, run_id=self._run_id, now=datetime.now(UTC)))
        ignored(useless)

    def _judged(self, candidate: Candidate, now: float, *, late: bool, known: bool, taken: set[bytes]) -> str:
        """What is to be recorded of one sidecar; empty: nothing."""
        path, scan = candidate.path, scan_of(candidate.path)
        if scan is None:
            self._sidecars.stands(path)
            return "" if known else FOLDERS
        if scan in self._settler:
            self._sidecars.waits(path, now)
            return ""
        if known:
            self._sidecars.forget(path)
            return ""
        if scan in taken or late:
            self._sidecars.forget(path)
            return TOO_LATE if scan in taken else NO_SCAN
        self._sidecars.waits(path, now)
        return WAITS


def row_of(path: bytes, item: Candidate | Ignored) -> PathSignature:
    """The store's key for a file in the inbox."""
    return PathSignature.at(path, item.signature, item.ctime_ns)


def _ignored(candidate: Candidate, reason: str) -> Ignored:
    return Ignored(path=candidate.path, signature=candidate.signature, ctime_ns=candidate.ctime_ns, reason=reason)
