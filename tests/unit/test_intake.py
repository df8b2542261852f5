"""Copies in the spool are removed though scans finish at any moment."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from watcherd.config import Config, build
from watcherd.errors import StoreError
from watcherd.intake import Intake
from watcherd.pauses import Pauses
from watcherd.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


class ShyBooks:
    """A database that cannot be read until somebody has waited for it."""

    def __init__(self, error: StoreError) -> None:
        self.error = error

    def write(self, _work: object) -> int:
        return 0

    @contextmanager
    def reader(self) -> Iterator[None]:
        raise self.error
        yield


@pytest.mark.parametrize("passing", [True, False])
def test_a_history_that_cannot_be_read_for_a_while_pauses_the_intake(
    passing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is shown, and the next sweep finds what was not taken; a broken one ends the daemon as before."""
    error = StoreUnavailableError("The database is locked.") if passing else StoreError("The statement makes no sense.")
    stopping, nothing = threading.Event(), cast("Any", None)
    pauses = Pauses(stopping)
    config = build({"inbox": {"path": str(tmp_path / "inbox"), "events": False}}, base=tmp_path)
    config.inbox.path.mkdir()
    (config.inbox.path / "scan.png").touch()
    intake = Intake(
        config,
        cast("Any", ShyBooks(error)),
        nothing,
        pauses,
        run_id=1,
        model=nothing,
        queued=lambda: None,
        stopping=stopping,
    )
    monkeypatch.setattr("watcherd.intake.RETRY_SECONDS", 0)
    if not passing:
        with pytest.raises(StoreError, match="makes no sense"):
            intake._turn()
        return
    intake._turn()
    assert {"state": "The database is locked."} == pauses.reasons
