"""What is set aside: alone, with growing pauses, until it works, or until it has ended three starts."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.asides import aside
from watcherd.errors import StaleJobError, StoreError, TransientError
from watcherd.pauses import StoppedError
from watcherd.set_aside import PAUSES, Named, SetAside, concerns_all, in_words
from watcherd.store import Database, StoreUnavailableError, UnreadableRowError
from watcherd.store import aside as rows


class KilledError(BaseException):
    """The process ends here."""


class Asides:
    """Things that are handled by their numbers, over one database and file of marks."""

    def __init__(self, folder: Path) -> None:
        self.database = Database.open(folder / "watcherd.db")
        self.marks = folder / "handling"
        self.now = 0.0
        self.done: list[list[int]] = []
        self.faults: dict[int, Callable[[], BaseException]] = {}
        self.start()

    def start(self) -> None:
        """As the next start of the service."""
        self.set_aside: SetAside = aside(self.database, marks=self.marks, clock=lambda: self.now)
        self.set_aside.begin()

    def handle(self, *numbers: int) -> list[int]:
        """Those that were not dealt with."""
        return self.set_aside.each("publish", numbers, named, self.work)

    def work(self, numbers: Sequence[int]) -> None:
        with self.set_aside.marked("publish", [named(number) for number in numbers]):
            for number in numbers:
                if number in self.faults:
                    raise self.faults[number]()
        self.done.append(list(numbers))

    def kept(self) -> dict[str, rows.Aside]:
        with self.database.reader() as connection:
            return rows.everything(connection)


def named(number: int) -> Named:
    return Named(key=f"job {number}", item=f"job {number}", job_id=number)


@pytest.fixture
def asides(tmp_path: Path) -> Iterator[Asides]:
    made = Asides(tmp_path)
    yield made
    made.database.close()


def test_one_that_fails_costs_the_others_nothing(asides: Asides) -> None:
    """They are done together while all is well, and one by one where it is not."""
    assert [] == asides.handle(1, 2, 3)
    asides.faults[5] = ValueError
    assert [5] == asides.handle(4, 5, 6)
    assert [[1, 2, 3], [4], [6]] == asides.done
    assert {"job 5"} == asides.kept().keys()


def test_it_is_tried_again_after_growing_pauses(asides: Asides) -> None:
    """And forgotten once it works; the history has an event for each time."""
    asides.faults[1] = ValueError
    for times, pause in enumerate((*PAUSES, PAUSES[-1]), 1):
        assert [1] == asides.handle(1)
        assert times == asides.kept()["job 1"].times
        asides.now += pause - 1
        assert not asides.set_aside.due()
        asides.now += 1
        assert asides.set_aside.due()
    del asides.faults[1]
    assert [] == asides.handle(1)
    assert {} == asides.kept()
    with asides.database.reader() as connection:
        events = connection.exec_driver_sql("SELECT job_id, detail FROM event WHERE kind = 'set-aside'").fetchall()
    assert 5 == len(events)
    assert {(1, "ValueError:")} == {(event.job_id, json.loads(event.detail)["reason"]) for event in events}


def test_the_next_start_tries_it_at_once(asides: Asides) -> None:
    """The cause may be gone with the last one."""
    asides.faults[1] = ValueError
    asides.handle(1)
    asides.start()
    del asides.faults[1]
    assert [] == asides.handle(1)
    assert {} == asides.kept()


@pytest.mark.parametrize("error", [KilledError, lambda: StaleJobError("It has moved.")], ids=["death", "broken rule"])
def test_what_has_ended_three_starts_is_left_alone(asides: Asides, error: Callable[[], BaseException]) -> None:
    """The process's own death, or an error in which going on is not safe; until a person asks for it."""
    asides.faults[2] = error
    with pytest.raises((KilledError, StaleJobError)):
        asides.handle(1, 2, 3)  # nobody knows yet which of them it was, unless it is an error
    ended, left = 0, list[int]()
    while ended < 5:
        asides.start()
        try:
            left = asides.handle(1, 2, 3)
        except (KilledError, StaleJobError):
            ended += 1
        else:
            break
    assert [2] == left
    assert ended in (2, 3)
    assert rows.STARTS == asides.kept()["job 2"].ended
    assert "left alone" in asides.kept()["job 2"].error
    asides.start()
    assert [2] == asides.handle(2)
    asides.database.write(lambda c: rows.forget_jobs(c, [2]))
    asides.set_aside.reload()
    del asides.faults[2]
    assert [] == asides.handle(2)
    assert {} == asides.kept()


def test_who_died_in_a_batch_by_chance_is_not_blamed(asides: Asides) -> None:
    """Killed again and again among others, each time by somebody else: no one is left alone."""
    for _ in range(5):
        asides.faults[3] = KilledError
        with pytest.raises(KilledError):
            asides.handle(1, 2, 3)
        asides.faults.clear()
        asides.start()
        assert [] == asides.handle(1, 2, 3)
        assert {} == asides.kept()


def test_a_mark_of_a_very_long_name_is_kept(asides: Asides) -> None:
    """A path of the inbox may have more bytes than a mark."""
    long = Named(key="file " + "x" * 40_000, item="x" * 40_000)
    with pytest.raises(KilledError), asides.set_aside.marked("intake", [long]):
        raise KilledError
    asides.start()
    assert {} == asides.kept()


@pytest.mark.parametrize(
    ("error", "of_all"),
    [
        (ValueError("of one"), False),
        (RecursionError(), False),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), False),
        (UnreadableRowError("malformed JSON"), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (TransientError("The spool cannot be written."), True),
        (StoreUnavailableError("The disk is full."), True),
        (StoreError("The statement makes no sense."), True),
        (StaleJobError("It has moved."), True),
        (StoppedError(), True),
        (KeyboardInterrupt(), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_only_what_concerns_all_goes_through(error: BaseException, of_all: bool) -> None:
    """A full disk, a database that is away, a broken rule of our own; no fault with one item."""
    assert of_all == concerns_all(error)


def test_a_reason_can_always_be_stored_and_shown() -> None:
    """Whatever a library says."""
    reason: Any = in_words(ValueError("half \ud800 a\npair \0"))
    assert "ValueError: half \\ud800 a pair \\x00" == reason
