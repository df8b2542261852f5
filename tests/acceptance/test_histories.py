"""Histories as evidence: after clock jumps and kills of two daemons they hold; wrong ones are found to be."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.histories import check_histories, check_history
from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, broken, png
from tests.acceptance.test_wall_clock import set_ahead, shim

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 8
"""Kills and jumps of the clock, in turns, that the two daemons go through."""


@pytest.mark.slow
def test_two_daemons_that_are_killed_while_their_clocks_jump_leave_true_histories(tmp_path: Path) -> None:
    """Each has folders of its own, and both the same scans. What is wrong at a kill, or in the end, is said."""
    chance = random.Random(18)
    services = [Service(tmp_path / name) for name in ("one", "other")]
    clocks = []
    for service in services:
        clocks.append(service.folder / "ahead")
        clocks[-1].write_bytes(struct.pack("=q", 0))
        library = shim(service.folder)
        service.environment = {"LD_PRELOAD": str(library), "WATCHERD_WALL_CLOCK": str(clocks[-1])}
        service.start()
    try:
        for step in range(ROUNDS):
            for number in range(6 * step, 6 * step + 6):
                for service in services:
                    earlier = number > 5 and number % 3 == 0
                    content = broken(number) if number % 5 == 4 else png(chance.randrange(5) if earlier else number)
                    service.drop(f"{step}/{number}.png", content)
            which = step % 2
            services[which].ready()
            time.sleep(chance.random())
            set_ahead(clocks[which], chance.choice((-2, -1, 1, 3)))
            if step % 4 > 1:
                services[which].kill()
                assert [] == check_at_any_moment(services[which])
                services[which].start()
        for service in services:
            service.finished(len(service.dropped))
            assert 0 == service.stop()
            assert [] == check_invariants(service)
        with (
            closing(sqlite3.connect(services[0].database)) as one,
            closing(sqlite3.connect(services[1].database)) as two,
        ):
            assert [] == check_histories({services[0].outbox: one, services[1].outbox: two})
            assert 4 <= sum(history.execute("SELECT count(*) FROM run").fetchone()[0] for history in (one, two))
    finally:
        for service in services:
            service.end()


# ---------------------------------------------------------------------------------------------------- wrong histories


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run over good scans, a bad one, a duplicate, and a second run: it is true."""
    service = Service(tmp_path_factory.mktemp("history"))
    for number in range(3):
        service.drop(f"{number}.png", png(number))
    service.drop("bad.png", broken(1))
    assert service.once() == 0, service.tail()
    service.drop("again.png", png(0))
    service.drop("new.png", png(7))
    assert service.once() == 0, service.tail()
    assert [] == check_invariants(service)
    return service.database


def planted(history: Path, to: Path, *statements: str) -> sqlite3.Connection:
    """A copy of the history with something wrong in it, past all rules of the database."""
    shutil.copy(history, to)
    connection = sqlite3.connect(to)
    connection.execute("PRAGMA foreign_keys = OFF")
    for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    for statement in ("DROP INDEX output_path", "DROP INDEX arrival_present", *statements):
        assert connection.execute(statement).rowcount != 0, f"nothing was planted by {statement}"
    return connection


WRONG = {  # a, b and c: the jobs of three good scans
    "a move that the table does not have": (
        "UPDATE event SET to_state = 'succeeded' WHERE job_id = {a} AND to_state = 'running'",
        "which the table does not allow",
    ),
    "a move from where the job was not": (
        "DELETE FROM event WHERE job_id = {b} AND to_state = 'delivering'",
        "job {b} moved from delivering to succeeded, and was running",
    ),
    "a state that no event led to": (
        "UPDATE job SET state = 'failed', error = 'x' WHERE id = {a}",
        "job {a} is failed, and its events end with succeeded",
    ),
    "a job that was done without being claimed": (
        (
            "INSERT INTO attempt (job_id, number, run_id, started_at) "
            "SELECT job_id, 2, run_id, started_at FROM attempt WHERE job_id = {a}"
        ),
        "job {a} has 1 claims and 2 attempts",
    ),
    "a run that went on when the next one had begun": (
        "UPDATE attempt SET run_id = 9 WHERE job_id = {a}",
        "when run 9 had begun",
    ),
    "a result of two jobs": (
        (
            "UPDATE output SET path = (SELECT path FROM output WHERE job_id = {a} AND kind = 'mask'), path_text = 'x' "
            "WHERE job_id = {b} AND kind = 'mask'"
        ),
        "is 2 results at once",
    ),
    "a result of a job that its name does not have": (
        "UPDATE output SET job_id = {b} WHERE job_id = {a} AND kind = 'mask'",
        "is a result of job {b}, and its arrival is of job {a}",
    ),
    "a success without a result": (
        "UPDATE output SET state = 'removed' WHERE job_id = {b}",
        "job {b} has succeeded, and has no result",
    ),
    "an arrival whose job is gone": (
        "UPDATE arrival SET job_id = 99 WHERE path_text = '1.png'",
        "is queued, and its job is not there",
    ),
    "an arrival with two fates": (
        "UPDATE arrival SET fate = 'ignored' WHERE path_text = '2.png'",
        "is ignored, and has job {c}",
    ),
    "a job that was made for two arrivals": (
        "UPDATE arrival SET fate = 'queued' WHERE path_text = 'again.png'",
        "job {a} was made for 2 arrivals",
    ),
    "a name that is two files": (
        "UPDATE arrival SET present = 1, path_text = 'x', path = x'78' WHERE id < 3",
        "x is 2 files at once",
    ),
    "a name that waits for a job that has ended": (
        "UPDATE arrival SET delivery = 'waiting' WHERE path_text = 'again.png'",
        "waits for a job that is succeeded",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_history_is_found(history: Path, tmp_path: Path, what: str) -> None:
    with closing(sqlite3.connect(history)) as connection:
        jobs = dict(connection.execute("SELECT source, id FROM job"))
    ids = {"a": jobs["0.png"], "b": jobs["1.png"], "c": jobs["2.png"]}
    statement, said = (words.format(**ids) for words in WRONG[what])
    with closing(planted(history, tmp_path / "wrong.db", statement)) as connection:
        assert [problem for problem in check_history(connection) if said in problem]


def test_a_history_in_which_nothing_was_planted_is_true(history: Path, tmp_path: Path) -> None:
    with closing(planted(history, tmp_path / "true.db", "UPDATE job SET priority = 0")) as connection:
        assert [] == check_history(connection)


def test_a_result_that_two_histories_have_is_found(history: Path, tmp_path: Path) -> None:
    """Two services that delivered into one outbox."""
    outboxes = [tmp_path / "outbox", tmp_path / "." / "outbox"]
    open_: Callable[[], sqlite3.Connection] = lambda: sqlite3.connect(history)  # noqa: E731
    with closing(open_()) as one, closing(open_()) as other:
        problems = check_histories({outboxes[0]: one, Path(f"{outboxes[1]}/../outbox"): other})
    assert all("is a result of several histories" in problem for problem in problems)
    assert problems
