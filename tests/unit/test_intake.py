"""Copies in the spool are removed though scans finish at any moment, and a sweep that fails is made again."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.runs import a_run, one_lane
from watcherd.config import Config, build
from watcherd.errors import StoreError
from watcherd.inbox import mounts
from watcherd.inbox.expected import Expected
from watcherd.inbox.requests import IntakeRequests
from watcherd.inbox.sweep import Chunk
from watcherd.intake.copies import CLEAN_SECONDS
from watcherd.intake.intake import Intake
from watcherd.pauses import Pauses
from watcherd.store import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Books:
    """A database in which a scan finishes at the very moment at which it is asked what may go."""

    def __init__(self) -> None:
        self.answers = [["first"], ["second"]]
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.needed: set[str] = set()

    def submit(self, _work: object, **_turn: object) -> Future[list[str]]:
        self.asked += 1
        answer: Future[list[str]] = Future()
        answer.set_result(self.answers.pop(0) if self.answers else [])
        if self.asked == 1:
            self.meanwhile()
        return answer

    @contextmanager
    def reader(self) -> Iterator[set[str]]:
        yield self.needed


class Copies:
    """A spool that notes what is removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, name: str) -> None:
        self.removed.append(name)


class Cleaning:
    """An intake with nothing but copies to remove, and its clock."""

    def __init__(self) -> None:
        self.books, self.copies, self.now = Books(), Copies(), 0.0
        self.requests, self.coming = IntakeRequests(), set[str]()
        run, spool = a_run(Config(), self.books), cast("Any", self.copies)
        self.intake = Intake(
            run, spool, one_lane(), self.requests, Expected(), queued=lambda: None, clock=lambda: self.now
        )

    def gather(self) -> None:
        self.intake._copies.gather(lambda: self.coming)

    def turn(self) -> None:
        """What a turn of the intake has to do with copies."""
        self.gather()
        self.intake._clean()


@pytest.fixture
def cleaning(monkeypatch: pytest.MonkeyPatch) -> Cleaning:
    def needed(connection: set[str], names: list[str]) -> set[str]:
        return connection & set(names)

    monkeypatch.setattr("watcherd.store.leftovers.spooled", needed)
    return Cleaning()


def test_a_scan_that_finishes_while_copies_are_removed_is_not_forgotten(cleaning: Cleaning) -> None:
    """Its copy goes a moment later, not with the next scan, which may never come."""
    cleaning.books.meanwhile = cleaning.requests.scans_finished
    cleaning.turn()
    cleaning.turn()
    assert cleaning.copies.removed == ["first"]
    cleaning.now += CLEAN_SECONDS
    assert cleaning.intake._pause() == 0
    cleaning.turn()
    cleaning.turn()
    assert cleaning.copies.removed == ["first", "second"]


def test_while_scans_are_finished_copies_are_looked_for_once_a_second(cleaning: Cleaning) -> None:
    """Each look is a transaction, and new files would wait for it."""
    for _ in range(100):
        cleaning.requests.scans_finished()
        cleaning.turn()
        cleaning.now += CLEAN_SECONDS / 50
    assert cleaning.books.asked == 2


def test_an_errand_finds_copies_gone_that_were_to_go(cleaning: Cleaning) -> None:
    """It may put one into the spool anew."""
    cleaning.turn()
    cleaning.requests._errands.append(lambda: cleaning.copies.removed.append("an errand"))
    cleaning.intake._is_online = lambda: False  # type: ignore[method-assign]
    cleaning.requests.wake = cast("Any", Never())
    cleaning.intake._turn()
    assert cleaning.copies.removed == ["first", "an errand"]


@pytest.mark.parametrize("answered", [False, True])
def test_a_copy_stays_whose_bytes_have_come_again(cleaning: Cleaning, answered: bool) -> None:
    """Whether they come before it is known which copies may go, or before these are removed."""
    cleaning.books.answers = [["first", "second"]]
    cleaning.turn()
    if answered:
        cleaning.gather()
    cleaning.coming = {"second"}
    cleaning.intake._copies.keep("second")
    cleaning.turn()
    assert cleaning.copies.removed == ["first"]


@pytest.mark.parametrize("needed", [False, True])
def test_a_copy_whose_bytes_have_come_again_is_judged_when_they_are_in_the_queue(
    cleaning: Cleaning, needed: bool
) -> None:
    """By the row of its scan: it was written after the copy was given up, or before."""
    cleaning.books.answers = [["first", "second"]]
    cleaning.coming = {"second"}
    cleaning.turn()
    cleaning.turn()
    cleaning.coming = set()
    cleaning.books.needed = {"second"} if needed else set()
    cleaning.turn()
    assert cleaning.copies.removed == (["first"] if needed else ["first", "second"])


class Never:
    """An event that nobody waits for."""

    def clear(self) -> None: ...
    def set(self) -> None: ...
    def is_set(self) -> bool:
        return False

    def wait(self, _seconds: float) -> None: ...


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
    run = a_run(config, ShyBooks(error), pauses=pauses, stopping=stopping)
    intake = Intake(run, nothing, one_lane(), IntakeRequests(), Expected(), queued=lambda: None)
    monkeypatch.setattr("watcherd.intake.intake.RETRY_SECONDS", 0)
    if not passing:
        with pytest.raises(StoreError, match="makes no sense"):
            intake._turn()
        return
    intake._turn()
    assert {"state": "The database is locked."} == pauses.reasons


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), StoreUnavailableError("The database is locked.")],
    ids=["inbox", "state"],
)
@pytest.mark.parametrize("within", ["the sweep", "what it has found"])
def test_a_sweep_that_was_cut_short_is_made_again_at_once(
    error: Exception, within: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not pass for one that has found nothing more: its files would wait for the next usual sweep."""
    config = build({"inbox": {"path": str(tmp_path / "inbox"), "events": False}}, base=tmp_path)
    config.inbox.path.mkdir()
    nothing, chunk = cast("Any", None), Chunk(candidates=[], ignored=[], skipped=[])
    run, requests = a_run(config, ShyBooks(StoreError(""))), IntakeRequests()
    intake = Intake(run, nothing, one_lane(), requests, Expected(), queued=lambda: None)
    errors, found = [error], list[Chunk]()

    def swept(*_: object, **__: object) -> Iterator[Chunk]:
        if within == "the sweep" and errors:
            raise errors.pop()
        yield chunk

    def look_through(each: Chunk) -> None:
        if within == "what it has found" and errors:
            raise errors.pop()
        found.append(each)

    monkeypatch.setattr("watcherd.intake.intake.RETRY_SECONDS", 0)
    monkeypatch.setattr("watcherd.intake.look.sweep", swept)
    monkeypatch.setattr(intake._look, "_look_through", look_through)
    monkeypatch.setattr(intake._take, "take_settled", lambda: None)
    monkeypatch.setattr(intake, "_clean", lambda: None)
    requests.wake = cast("Any", Never())
    intake._turn()
    assert ([], [], 0) == (errors, found, intake._look.sweeps.full)
    intake._turn()
    assert ([chunk], 1) == (found, intake._look.sweeps.full)


@pytest.mark.parametrize(("skipped", "seconds"), [([], mounts.LOCAL_SWEEP), ([b"closed"], mounts.NETWORK_SWEEP)])
def test_a_sweep_that_could_not_read_a_folder_is_made_again_soon(
    skipped: list[bytes], seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there were no descriptors left for it: its files do not wait for the next usual sweep."""
    config = build({"inbox": {"path": str(tmp_path / "inbox"), "events": True}}, base=tmp_path)
    config.inbox.path.mkdir()
    nothing, chunk = cast("Any", None), Chunk(candidates=[], ignored=[], skipped=skipped)
    run, requests = a_run(config, ShyBooks(StoreError(""))), IntakeRequests()
    intake = Intake(run, nothing, one_lane(), requests, Expected(), queued=lambda: None, clock=lambda: 100.0)
    monkeypatch.setattr("watcherd.intake.look.sweep", lambda *_, **__: iter([chunk]))
    monkeypatch.setattr(intake._look, "_look_through", lambda _: None)
    monkeypatch.setattr(intake._look, "dispose_again", lambda: None)
    monkeypatch.setattr(intake._take, "take_settled", lambda: None)
    monkeypatch.setattr(intake, "_clean", lambda: None)
    requests.wake = cast("Any", Never())
    try:
        intake._turn()
        assert 100.0 + seconds == intake._look.next_wakeup
    finally:
        intake._presence.events.stop()
