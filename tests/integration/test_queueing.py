"""From settled files to jobs while the database is busy: real files, spool and history; the clock is ours."""

from __future__ import annotations

import errno
import hashlib
import random
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import MODEL, claim, later, start_run, succeed
from tests.integration.store.test_database import held
from tests.runs import a_run, one_lane
from watcherd.config import build
from watcherd.errors import TransientError
from watcherd.inbox.events import Hints
from watcherd.inbox.expected import Expected
from watcherd.inbox.requests import IntakeRequests
from watcherd.inbox.spool import Spool
from watcherd.intake.copies import CLEAN_SECONDS
from watcherd.intake.intake import Intake
from watcherd.intake.take import QUEUED_AT_ONCE
from watcherd.intake.waiting import FEW
from watcherd.new_files_first import NewFilesFirst
from watcherd.service.prune import _prune_spool
from watcherd.store import Database, StoreUnavailableError, Turn, leftovers
from watcherd.store import queue as jobs
from watcherd.store.deliveries import arrivals_to_deliver, skip_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

SETTLE = 1.0


class Looked:
    """Stands for the event that wakes the intake: nobody waits."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set, self.clear, self.is_set = self._event.set, self._event.clear, self._event.is_set

    def wait(self, _seconds: float) -> None: ...


class Taking:
    """An intake whose turns are taken one by one."""

    def __init__(self, folder: Path) -> None:
        values = {
            "inbox": {"path": "inbox", "events": False, "settle_seconds": SETTLE},
            "profiles": {"strict": {"folder": "strict", "threshold": 0.9}},
        }
        config = build(values, base=folder)
        config.inbox.path.mkdir()
        config.outbox.path.mkdir()
        config.state.path.mkdir()
        self.inbox, self.now = config.inbox.path, 100.0
        self.new_files_first = NewFilesFirst()
        self.database = Database.open(config.state.database)
        self.run_id = self.database.write(start_run)
        self.spool = Spool(config.state.spool)
        self.spool.prepare()
        self.requests = IntakeRequests()
        self.requests.wake = Looked()  # type: ignore[assignment]
        run = a_run(config, self.database, id=self.run_id, new_files_first=self.new_files_first)
        self.intake = Intake(
            run, self.spool, one_lane(MODEL), self.requests, Expected(), queued=lambda: None, clock=lambda: self.now
        )
        self.turn()  # the inbox is opened, for which the database has something to do

    def drop(self, *names: str, content: bytes | None = None) -> None:
        for name in names:
            path = self.inbox / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(name.encode() if content is None else content)

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.requests.sweep()
        self.intake._turn()

    def take(self) -> None:
        """Turns until what was dropped is handed to the database."""
        self.turn()
        self.turn(SETTLE)

    def finish(self) -> None:
        """Wait for the database, and let the intake hear of it."""
        self.database.write(lambda _: None)
        for queueing in self.intake._into_queue._batches:
            queueing.begun[0].exception()
        self.turn()

    def sources(self) -> list[str]:
        with self.database.reader() as connection:
            return [row.source for row in connection.exec_driver_sql("SELECT source FROM job ORDER BY id")]

    def copies(self) -> set[str]:
        return {path.name for path in self.spool.root.glob("??/*")}

    def copies_named(self) -> set[str]:
        """The copies that the history knows of."""
        with self.database.reader() as connection:
            rows = connection.exec_driver_sql("SELECT spool_name FROM scan WHERE spool_name IS NOT NULL")
            return {row.spool_name for row in rows}

    def copies_needed(self) -> set[str]:
        """The copies of scans that wait in the queue."""
        with self.database.reader() as connection:
            return set(leftovers.needed_copies(connection))

    def calm_down(self) -> None:
        """Turns until there is nothing to do but what the jobs do."""
        for _ in range(3):
            self.take()
            self.finish()
            self.turn(CLEAN_SECONDS)

    def complete_all(self) -> None:
        """Every job that waits has succeeded, and every other name of its scan is done with."""
        for job in self.database.write(lambda c: claim(c, self.run_id, limit=1000)):
            self.database.write(lambda c, job=job: succeed(c, job.claim, f"{job.claim.job_id}.png"))  # type: ignore[misc]
        self.database.write(lambda c: skip_delivery(c, [one.id for one in arrivals_to_deliver(c, 1000)]))
        self.requests.scans_finished()


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[Taking]:
    taking = Taking(tmp_path)
    with taking.database:
        yield taking


@contextmanager
def released_soon(release: threading.Event) -> Iterator[threading.Event]:
    """The database goes on a moment later, while what is inside waits for it."""
    timer = threading.Timer(0.2, release.set)
    timer.start()
    yield release
    timer.join()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_does_not_wait_until_the_one_before_is_in_the_queue(taking: Taking) -> None:
    release = held(taking.database)
    taking.drop("first.png")
    taking.take()
    taking.drop("second.png")
    taking.take()
    assert {digest(b"first.png"), digest(b"second.png")} == taking.copies()
    assert not taking.intake.idle
    release.set()
    taking.finish()
    assert ["first.png", "second.png"] == taking.sources()
    assert taking.intake.idle


def test_no_more_files_wait_for_the_database_than_a_batch(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow must not fill the memory with what waits for it."""
    monkeypatch.setattr("watcherd.intake.take.BATCH", 2)
    release = held(taking.database)
    taking.drop("1.png", "2.png")
    taking.take()
    taking.drop("3.png")
    taking.turn()
    with released_soon(release) as released:
        taking.turn(SETTLE)
        assert released.is_set()
    taking.finish()
    assert ["1.png", "2.png", "3.png"] == sorted(taking.sources())


def test_a_file_that_changes_while_it_is_on_its_way_comes_twice(taking: Taking) -> None:
    """What was taken of it first goes into the queue first, though with many others, which go last."""
    release = held(taking.database)
    taking.drop("scan.png", *(f"{number}.png" for number in range(FEW)), content=b"old")
    taking.take()
    taking.drop("scan.png", content=b"newer")
    taking.turn()
    with released_soon(release):
        taking.turn(SETTLE)
    taking.finish()
    with taking.database.reader() as connection:
        rows = connection.exec_driver_sql(
            "SELECT arrival.size_bytes FROM arrival WHERE arrival.path = CAST('scan.png' AS BLOB) ORDER BY arrival.id"
        ).fetchall()
    assert [len(b"old"), len(b"newer")] == [row.size_bytes for row in rows]


def test_a_file_that_is_looked_at_again_while_it_is_on_its_way_comes_once(taking: Taking) -> None:
    """An event need not mean that it has changed."""
    release = held(taking.database)
    taking.drop("scan.png")
    taking.take()
    taking.intake._look.look_at([b"scan.png"], hinted=True)
    with released_soon(release):
        taking.turn(SETTLE)
    taking.finish()
    assert ["scan.png"] == taking.sources()
    assert taking.intake.idle


def test_a_file_that_changes_before_it_is_in_the_queue_is_not_forgotten(taking: Taking) -> None:
    """It is waited for, not for the next sweep to find it."""
    release = held(taking.database)
    taking.drop("scan.png", content=b"old")
    taking.take()
    taking.drop("scan.png", content=b"newer")
    taking.intake._look.look_at([b"scan.png"], hinted=True)
    release.set()
    taking.intake._into_queue.finish(wait=True)  # a whole turn would sweep
    assert b"scan.png" in taking.intake._waiting.settler


def test_what_the_jobs_write_does_not_wait_for_a_folder_that_is_being_queued(taking: Taking) -> None:
    """A few new files go first of all, many last, in pieces."""
    order: list[str] = []
    work = taking.intake._into_queue._enqueue

    def told(taken: Any) -> Any:
        queueing = work(taken)
        queueing.begun[0].add_done_callback(lambda _: order.append(f"{len(taken)} files"))
        return queueing

    taking.intake._into_queue._enqueue = told  # type: ignore[method-assign]
    release = held(taking.database)
    taking.drop(*(f"folder/{number}.png" for number in range(QUEUED_AT_ONCE + FEW + 1)))
    taking.take()
    job = taking.database.submit(lambda _: None)
    job.add_done_callback(lambda _: order.append("a job"))
    taking.drop(*(f"{number}.png" for number in range(FEW)))
    taking.take()
    release.set()
    taking.finish()
    assert [f"{FEW} files", "a job", f"{QUEUED_AT_ONCE} files", f"{FEW + 1} files"] == order


@pytest.mark.parametrize(("files", "first"), [(FEW, True), (FEW + 1, False)])
def test_a_few_files_go_before_the_work_on_what_is_queued(
    files: int, first: bool, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the look at them until they are in the queue; a folder of many is in no hurry."""
    seen: dict[str, bool] = {}

    def watched(part: Any, name: str) -> None:
        step = getattr(part, name)

        def watching(*arguments: Any, **named: Any) -> Any:
            seen[name] = taking.new_files_first.is_taken
            return step(*arguments, **named)

        monkeypatch.setattr(part, name, watching)

    watched(taking.intake._look, "look_at")
    watched(taking.intake._take, "_copy")
    watched(taking.intake._into_queue, "_enqueue")
    release = held(taking.database)
    taking.drop(*(f"{number}.png" for number in range(files)))
    taking.take()
    assert {"look_at": first, "_copy": first, "_enqueue": first} == seen
    assert first == taking.new_files_first.is_taken, "they are not in the queue yet"
    release.set()
    taking.finish()
    assert not taking.new_files_first.is_taken


def test_a_file_that_an_event_tells_of_is_looked_at_before_other_work(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settle time begins with the look."""
    looked: list[bool] = []
    look = taking.intake._look
    monkeypatch.setattr(look, "look_at", lambda *_, **__: looked.append(taking.new_files_first.is_taken))
    monkeypatch.setattr(taking.intake._presence.events, "fetch", lambda: Hints(paths=(b"scan.png",)))
    look.notice()
    assert [True] == looked
    assert not taking.new_files_first.is_taken


def test_a_copy_stays_whose_bytes_are_on_their_way_into_the_queue_again(taking: Taking) -> None:
    """The question what may go overtakes the folder that is being queued, and finds the copy needed by nobody."""
    taking.drop("scan.png", content=b"bytes")
    taking.take()
    taking.finish()
    taking.complete_all()
    release = held(taking.database)
    taking.now += CLEAN_SECONDS
    taking.drop("strict/scan.png", *(f"strict/{number}.png" for number in range(FEW)))
    (taking.inbox / "strict/scan.png").write_bytes(b"bytes")  # another threshold: to be computed anew
    taking.requests.take_finished()
    taking.turn()
    taking.requests.scans_finished()
    taking.turn(SETTLE)
    assert taking.intake._copies._forgetting is not None
    release.set()
    taking.finish()
    taking.turn()
    assert "strict/scan.png" in taking.sources()
    assert digest(b"bytes") in taking.copies()


@pytest.mark.parametrize("again", ["scan.png", "strict/scan.png"], ids=["a duplicate", "a new job"])
@pytest.mark.parametrize("others", [0, FEW], ids=["queued before", "queued after"])
def test_a_copy_that_came_again_while_copies_were_given_up_stays_only_as_long_as_it_is_needed(
    again: str, others: int, taking: Taking
) -> None:
    """The question what may go comes to pass after a few files are queued, and before many are."""
    taking.drop("scan.png", content=b"bytes")
    taking.take()
    taking.finish()
    taking.complete_all()
    taking.requests.take_finished()
    release = held(taking.database)
    taking.drop(again, content=b"bytes")
    taking.drop(*(f"{number}.png" for number in range(others)))
    taking.turn()
    taking.now += CLEAN_SECONDS
    taking.requests.scans_finished()
    taking.turn(SETTLE)
    assert taking.intake._copies._forgetting is not None
    release.set()
    taking.calm_down()
    assert taking.copies_named() == taking.copies() >= taking.copies_needed()
    assert (digest(b"bytes") in taking.copies()) == (again == "strict/scan.png")
    taking.complete_all()
    taking.calm_down()
    assert not taking.copies()


def test_a_copy_stays_while_its_bytes_are_on_their_way_though_no_row_names_it(taking: Taking) -> None:
    """It was given up before the folder with the same bytes is queued, and is not removed in between."""
    taking.drop("scan.png", content=b"bytes")
    taking.take()
    taking.finish()
    taking.complete_all()
    taking.requests.take_finished()
    release, release_folder = held(taking.database), threading.Event()
    taking.database.submit(lambda _: release_folder.wait(30), turn=Turn.LATER)
    taking.drop("strict/scan.png", content=b"bytes")
    taking.drop(*(f"{number}.png" for number in range(FEW)))
    taking.turn()
    taking.now += CLEAN_SECONDS
    taking.requests.scans_finished()
    taking.turn(SETTLE)
    forgetting = taking.intake._copies._forgetting
    assert forgetting is not None
    release.set()
    assert [digest(b"bytes")] == forgetting.result(30)
    taking.turn()
    taking.turn()
    assert digest(b"bytes") not in taking.copies_named()
    assert digest(b"bytes") in taking.copies()
    release_folder.set()
    taking.calm_down()
    assert digest(b"bytes") in taking.copies_needed()
    assert taking.copies_named() == taking.copies()


@pytest.mark.parametrize("needed", [False, True])
def test_a_copy_goes_whose_batch_was_set_aside(needed: bool, taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another job needs it; it is copied anew when it is tried again."""
    if needed:
        taking.drop("first.png", content=b"bytes")
        taking.take()
        taking.finish()

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError

    monkeypatch.setattr("watcherd.store.arrivals.enqueue", fails)
    taking.drop("scan.png", content=b"bytes")
    taking.take()
    taking.finish()
    taking.turn(CLEAN_SECONDS)
    assert taking.copies_named() == taking.copies() == taking.copies_needed()
    assert needed == bool(taking.copies())


def test_a_copy_that_comes_again_stays_though_a_person_has_old_ones_removed(taking: Taking) -> None:
    """The command would overtake the folder that is being queued, and find the copy needed by nobody."""
    taking.drop("scan.png", content=b"bytes")
    taking.take()
    taking.finish()
    taking.database.write(lambda c: jobs.cancel(c, [1], now=later()))
    taking.database.write(lambda c: skip_delivery(c, [1]))
    taking.database.write(lambda c: c.exec_driver_sql("UPDATE arrival SET disposal = 'kept'"))
    release = held(taking.database)
    taking.drop("strict/scan.png", content=b"bytes")
    taking.drop(*(f"{number}.png" for number in range(FEW)))
    taking.take()
    removed: list[int] = []
    prune = partial(_prune_spool, taking.database, taking.spool, later(days=1))
    taking.requests._errands.append(lambda: removed.append(prune()))
    with released_soon(release):
        taking.turn()
    taking.calm_down()
    assert [0] == removed
    assert digest(b"bytes") in taking.copies_needed()
    assert digest(b"bytes") in taking.copies()


@pytest.mark.parametrize("seed", range(3))
def test_the_spool_holds_what_the_history_names_whatever_comes_to_pass_first(seed: int, taking: Taking) -> None:
    """The same few bytes come again and again under the same few names, while their jobs end and the disk is slow."""
    dice = random.Random(seed)
    timers = []
    for _ in range(60):
        if dice.random() < 0.5:
            release = held(taking.database)
            timers.append(threading.Timer(dice.random() / 50, release.set))
            timers[-1].start()
        content = bytes([dice.randrange(4)])
        taking.drop(dice.choice(["a.png", "b.png", "strict/a.png"]), content=content)
        if dice.random() < 0.2:
            taking.drop(*(f"{number}.png" for number in range(FEW)), content=content)
        taking.turn(dice.choice([0.1, SETTLE]))
        if dice.random() < 0.5:
            taking.complete_all()
        assert taking.copies_needed() <= taking.copies()
    taking.calm_down()
    assert taking.copies_named() == taking.copies() >= taking.copies_needed()
    taking.complete_all()
    taking.calm_down()
    assert not taking.copies()


def test_a_batch_that_could_not_be_written_is_written_later(taking: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the intake pauses, says so, and tries again; nothing is lost, nothing comes twice."""
    submit, refused = taking.database.submit, [True]

    def full_once(work: Callable[[Any], Any], **turn: Any) -> Any:
        def refuse(_: Any) -> None:
            raise StoreUnavailableError("The disk is full.")

        is_queueing = "_enqueue" in work.__qualname__
        return submit(refuse if is_queueing and refused and refused.pop() else work, **turn)

    monkeypatch.setattr(taking.database, "submit", full_once)
    monkeypatch.setattr("watcherd.pauses.RETRY_SECONDS", 0.0)
    taking.drop("scan.png")
    taking.take()
    taking.finish()
    assert ["scan.png"] == taking.sources()
    assert not refused


@pytest.mark.parametrize("refuses", ["known", "spool", "note"])
def test_files_that_settled_while_something_refused_are_taken_later(
    refuses: str, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the step: the history cannot be read, the spool not be written, the inbox does not answer."""
    monkeypatch.setattr("watcherd.intake.intake.RETRY_SECONDS", 0.0)
    part, step, error = {
        "known": (taking.intake._take, "_without_known", StoreUnavailableError("The database is locked.")),
        "spool": (taking.intake._take, "_copy", TransientError("The spool cannot be written.")),
        "note": (taking.intake._fates, "_note", OSError(errno.ESTALE, "Stale file handle")),
    }[refuses]
    real, errors = getattr(part, step), [error]

    def refusing(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return real(*arguments)

    taking.drop("scan.png", "other.png")
    taking.drop("empty.png", "void.png", content=b"")  # are waited for, with a note each
    taking.turn()
    monkeypatch.setattr(part, step, refusing)
    taking.turn(SETTLE)
    assert not errors
    taking.calm_down()
    assert ["other.png", "scan.png"] == sorted(taking.sources())
    with taking.database.reader() as connection:
        rows = connection.exec_driver_sql("SELECT path_text FROM arrival WHERE fate = 'settling' ORDER BY path_text")
        assert ["empty.png", "void.png"] == [row.path_text for row in rows]
    assert taking.copies_named() == taking.copies()


def test_copies_go_while_nothing_else_is_to_be_done(taking: Taking) -> None:
    """One at least in each turn, and no more once a file is due."""
    taking.drop(*(f"{number}.png" for number in range(5)))
    taking.take()
    taking.finish()
    taking.complete_all()
    taking.turn(CLEAN_SECONDS)
    taking.database.write(lambda _: None)
    taking.intake._has_to_look = lambda: True  # type: ignore[method-assign]
    taking.turn()
    assert 4 == len(taking.copies())
    del taking.intake._has_to_look
    taking.turn()
    assert not taking.copies()
