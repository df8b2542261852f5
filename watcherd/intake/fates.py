"""What becomes of files that are not taken: rows for those that wait, are ignored, or have vanished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.file_names import show
from watcherd.inbox.sweep import look
from watcherd.inbox.values import Candidate, Gone, Ignored, NotYet
from watcherd.intake.sidecars import row_of
from watcherd.logs import get_logger
from watcherd.set_aside import path_named
from watcherd.store import arrivals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watcherd.inbox.values import Outcome
    from watcherd.intake.presence import InboxPresence
    from watcherd.intake.waiting import Waiting
    from watcherd.set_aside import Named
    from watcherd.state.run import Run


class Fates:
    """Records what becomes of files that are not taken, and ends the waiting for them. The intake's thread uses it."""

    def __init__(self, run: Run, presence: InboxPresence, waiting: Waiting) -> None:
        self._run = run
        self._presence = presence
        self._waiting = waiting
        self._log = get_logger()

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """What became of settled files that were not taken."""
        for outcome in outcomes:
            if isinstance(outcome, NotYet):
                self._waits(self._waiting.wait(outcome))
            elif isinstance(outcome, Gone):
                self.vanished(outcome.path)
            else:
                self._waiting.settler.gone(outcome.path)
        self.ignored([outcome for outcome in outcomes if isinstance(outcome, Ignored)])

    def leave(self, items: Iterable[tuple[bytes, Named]]) -> None:
        """These are set aside: they have a row with the reason, and are not waited for until their time comes."""
        for path, named in items:
            self._waiting.settler.gone(path)
            self._waits(NotYet(path=path, reason=f"set aside: {self._run.set_aside.reason(named.key)}"))

    def vanished(self, path: bytes) -> None:
        """There is nothing at this path any more."""
        self._waiting.settler.gone(path)
        self._run.write(lambda c: arrivals.vanished(c, [path], now=datetime.now(UTC)))

    def ignored(self, ignored: Sequence[Ignored]) -> None:
        """These are no scans."""
        if ignored:
            self._run.set_aside.each("intake", ignored, lambda item: path_named(item.path), self._record_ignored)

    def _record_ignored(self, ignored: Sequence[Ignored]) -> None:
        rows = [(row_of(item.path, item), item.reason) for item in ignored]
        with self._run.database.reader() as connection:
            known = arrivals.known(connection, [row for row, _ in rows])
        news = [(row, reason) for row, reason in rows if row not in known]
        if news:
            now = datetime.now(UTC)
            self._run.write(lambda c: arrivals.ignored(c, news, run_id=self._run.id, now=now))
            for row, reason in news:
                self._log.info("arrival_ignored", source=show(row.path), reason=reason)

    def _waits(self, refused: NotYet) -> None:
        """A file that is waited for in earnest has a row with the reason."""
        if refused.seen is None and self._presence.is_open:
            self._run.set_aside.alone("intake", path_named(refused.path), lambda: self._note(refused))

    def _note(self, refused: NotYet) -> None:
        seen = look(self._presence.root, self._presence.ignore, refused.path)
        if isinstance(seen, Candidate):
            rows = [(row_of(seen.path, seen), refused.reason)]
            self._run.write(lambda c: arrivals.settling(c, rows, run_id=self._run.id, now=datetime.now(UTC)))
