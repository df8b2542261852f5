"""A person's ten questions, as the README asks them: their answers are right, and a long history does not slow them."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from benchmarks import long_history, questions
from tests.integration.store.test_plans import GROWING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

A_DAY = 500
QUESTIONS = questions.of_the_readme()


def history(folder: Path, *, days: int, waiting: int) -> sqlite3.Connection:
    path = folder / f"{days}-days.db"
    long_history.make(path, A_DAY * days, now=questions.midnight(), days=days, waiting=waiting)
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Eight days: the questions ask for seven at most."""
    with closing(history(tmp_path_factory.mktemp("short"), days=8, waiting=20)) as connection:
        yield connection


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Five times as long, with as much on each day, and a longer queue."""
    with closing(history(tmp_path_factory.mktemp("long"), days=40, waiting=300)) as connection:
        yield connection


def work(connection: sqlite3.Connection, sql: str) -> int:
    """How much SQLite computes for an answer, in tens of its machine's instructions: the same on every computer."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 10)
    connection.execute(sql).fetchall()
    connection.set_progress_handler(None, 0)
    return steps


def test_the_readme_asks_ten_questions() -> None:
    """Those that people have, each with one select."""
    assert 10 == len(QUESTIONS)
    assert {1} == {sql.count(";") for sql in QUESTIONS.values()}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_history_five_times_as_long_makes_no_question_dearer(
    question: str, short: sqlite3.Connection, long: sqlite3.Connection
) -> None:
    """So what is quick with thousands of jobs is quick with a million."""
    sql = QUESTIONS[question]
    assert long.execute(sql).fetchall() != []
    assert work(long, sql) <= 1.2 * work(short, sql) + 20


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_a_whole_table(question: str, long: sqlite3.Connection) -> None:
    """But from the end of an index up to its LIMIT."""
    steps = [row[3] for row in long.execute(f"EXPLAIN QUERY PLAN {QUESTIONS[question]}")]
    whole = [step for step in steps if re.match(rf"SCAN ({GROWING})$", step)]
    assert [] == whole
    walked = [step for step in steps if re.match(rf"SCAN ({GROWING}) ", step)]
    assert "limit" in QUESTIONS[question] or not walked


def test_failures_are_found_without_reading_what_succeeded(short: sqlite3.Connection) -> None:
    """There are fifty times as many of those in the same days, and by itself SQLite would look through them."""
    sql = "select error, count(*) from failures where finished_at > date('now', '-7 days') group by error"
    rows = short.execute(sql).fetchall()[0][1]
    assert work(short, sql) < 10 * rows


def test_how_many_today_is_counted_in_the_index(short: sqlite3.Connection) -> None:
    """A busy day has too many jobs to look at each of them."""
    plan = short.execute(f"EXPLAIN QUERY PLAN {next(iter(QUESTIONS.values()))}").fetchall()
    assert "SEARCH job USING COVERING INDEX job_finished (finished_at>?)" in [step[3] for step in plan]


def test_a_question_that_reads_a_whole_table_would_be_seen(short: sqlite3.Connection, long: sqlite3.Connection) -> None:
    """The guard itself: a column without an index."""
    sql = "select count(*) from jobs where error = 'x';"
    assert work(long, sql) > 3 * work(short, sql)


def answer(connection: sqlite3.Connection, words: str) -> Sequence[Any]:
    [sql] = [sql for question, sql in QUESTIONS.items() if words in question]
    return connection.execute(sql).fetchall()


def test_the_answers_are_right(short: sqlite3.Connection) -> None:
    """Counted again from the tables, or known from how the history was made."""
    jobs = A_DAY * 8
    today = dict(answer(short, "today"))
    assert A_DAY - 20 - 1 <= sum(today.values()) <= A_DAY - 20 + 1
    assert ("succeeded", "ward-17/scan-17.jpg") == answer(short, "Where is scan")[0][:2]
    [(error_class, error, failed)] = answer(short, "failed")
    assert ("input", "The picture is truncated.") == (error_class, error)
    assert 7 * A_DAY / 50 <= failed <= jobs / 50
    assert "queue" == answer(short, "stage")[0][0]
    assert 15000 + jobs - 20 == answer(short, "memory")[0][3]
    busy = dict(short.execute("select device, sum(inference_ms) from vram group by 1"))
    assert max(busy, key=lambda device: busy[device]) == answer(short, "card is busiest")[0][0]
    assert ("again/ward-1/", "ward-1/") == tuple(re.sub(r"scan.*", "", text) for text in answer(short, "twice")[0][:2])
    assert sorted(since for since, *_ in answer(short, "stuck")) == [since for since, *_ in answer(short, "stuck")]
    assert {"queued", "settling"} == {row[0] for row in short.execute("select state from unfinished")}
    assert 23 == short.execute("select count(*) from unfinished").fetchone()[0]
    assert [A_DAY // 24, A_DAY // 24 + 1] == sorted({sum(row[1:]) for row in answer(short, "an hour")[1:]})
    assert ["mask", "overlay", "result"] == [row[0] for row in answer(short, "came out")]


def test_a_name_is_what_stands_after_the_last_slash(tmp_path: Path) -> None:
    """Also where folders are called alike, where there is none, and where nothing stands after it."""
    path = tmp_path / "watcherd.db"
    long_history.make(path, 1, now=questions.midnight(), waiting=0)
    sources = ("a.png", "a/a/a", "ward/a b/ü.png", "x//y", "ends/in/.png", "/")
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO arrival (run_id, path, path_text, fate, seen_at) "
            "VALUES (1, ?, ?, 'ignored', '2026-01-01T00:00:00.000Z')",
            [(source.encode(), source) for source in sources],
        )
        names = dict(connection.execute("select source, name from names where state = 'ignored'").fetchall())
    assert {source: source.rpartition("/")[2] for source in sources} == names


@pytest.mark.slow_soak
@pytest.mark.timeout(3600)
def test_a_million_jobs_are_asked_in_under_200_ms(tmp_path: Path) -> None:
    """Each question, word for word, over a connection of its own; the median of five."""
    path = tmp_path / "watcherd.db"
    long_history.make(path, 1_000_000, now=questions.midnight())
    measured = questions.measure(path)
    assert 10 == len(measured)
    assert {} == {question: ms for question, (ms, _) in measured.items() if ms >= questions.LIMIT_MS}
    assert [] == [question for question, (_, rows) in measured.items() if not rows]
