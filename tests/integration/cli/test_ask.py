"""``watcherd ask``: the README's ten questions from the command line, and from one source."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from benchmarks.questions import of_the_readme
from watcherd.store.questions import QUESTIONS

if TYPE_CHECKING:
    from tests.integration.cli.conftest import CommandLine

SCANS = {"where": ["a.png"], "results": ["a.png"]}
"""What the questions about one scan are asked with."""


def test_the_readme_shows_the_selects_that_the_command_runs() -> None:
    """Word for word, in the same order."""
    assert list(of_the_readme().items()) == [(question.text, question.sql) for question in QUESTIONS]


def test_without_a_question_they_are_listed(watcherd: CommandLine) -> None:
    """With the number and the name that each is called by; as JSON and as CSV too; also where there is no history."""
    watcherd.config.state.database.unlink()
    listed = watcherd("ask", "--json").json
    assert [(number, each.name) for number, each in enumerate(QUESTIONS, 1)] == [
        (row["number"], row["name"]) for row in listed
    ]
    said = watcherd("ask").out
    for question in QUESTIONS:
        assert f"{question.name}\t{question.text}" in said
    assert 11 == len(list(csv.reader(io.StringIO(watcherd("ask", "--csv").out))))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_each_is_answered_by_name_and_by_number_in_every_form(watcherd: CommandLine, question) -> None:
    """With what the select itself gives."""
    scan = SCANS.get(question.name, [])
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection:
        cursor = connection.execute(question.sql.replace("scan-17.jpg", "a.png"))
        columns = [column for column, *_ in cursor.description]
        expected = [dict(zip(columns, row, strict=True)) for row in cursor]
    number = str(QUESTIONS.index(question) + 1)
    assert expected == watcherd("ask", question.name, *scan, "--json").json
    assert expected == watcherd("ask", number, *scan, "--json").json
    assert expected or question.name in ("memory", "stuck")  # a CPU has no card, and nothing waits here
    rows = list(csv.DictReader(io.StringIO(watcherd("ask", question.name, *scan, "--csv").out)))
    assert len(expected) == len(rows)
    assert columns == watcherd("ask", question.name, *scan).out.splitlines()[0].split("\t")
    assert question.sql + "\n" == watcherd("ask", question.name, "--sql").out


def test_a_name_is_a_value_and_no_sql(watcherd: CommandLine) -> None:
    """Names of files hold quotes."""
    assert [] == watcherd("ask", "where", "x' or '1' = '1", "--json").json
    assert "no vessel.png" == watcherd("ask", "where", "no vessel.png", "--json").json[0]["source"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why",), "watcherd ask lists them"),
        (("11",), "1 to 10"),
        (("where",), "watcherd ask where scan-17.jpg"),
        (("today", "a.png"), "no single scan"),
        (("today", "--json", "--csv"), "exclude each other"),
    ],
)
def test_a_wrong_call_says_how_to_ask(watcherd: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    said = watcherd("ask", *arguments)
    assert (64, "") == (said.code, said.out)
    assert words in said.err


def test_it_changes_nothing(watcherd: CommandLine) -> None:
    """It reads."""
    before = watcherd.config.state.database.read_bytes()
    watcherd("ask", "today")
    assert before == watcherd.config.state.database.read_bytes()
