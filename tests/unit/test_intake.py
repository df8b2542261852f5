"""Copies in the spool are removed though scans finish at any moment."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from watcherd.config import Config
from watcherd.intake import Intake
from watcherd.pauses import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable


class Books:
    """A database in which a scan finishes at the very moment at which it is asked what may go."""

    def __init__(self) -> None:
        self.answers = [["first"], ["second"], []]
        self.meanwhile: Callable[[], None] = lambda: None

    def write(self, _work: object) -> list[str]:
        answer = self.answers.pop(0)
        if answer == ["first"]:
            self.meanwhile()
        return answer


class Copies:
    """A spool that notes what is removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, name: str) -> None:
        self.removed.append(name)


def test_a_scan_that_finishes_while_copies_are_removed_is_not_forgotten() -> None:
    """Its copy goes in the same turn, not with the next scan, which may never come."""
    books, copies, nothing = Books(), Copies(), cast("Any", None)
    intake = Intake(
        Config(),
        cast("Any", books),
        cast("Any", copies),
        Pauses(threading.Event()),
        run_id=1,
        model=nothing,
        queued=lambda: None,
        stopping=threading.Event(),
    )
    books.meanwhile = intake.scans_finished
    intake._clean()
    assert copies.removed == ["first", "second"]
