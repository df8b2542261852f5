"""``watcherd ask``: the questions that people ask the history most, without writing SQL."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, open_history, print_json, print_table
from watcherd.errors import UsageError
from watcherd.status.units import for_spreadsheets
from watcherd.store.questions import QUESTIONS, Question, answer


def ask(
    question: Annotated[
        str | None,
        typer.Argument(
            help="Its name or its number; without one they are listed.",
            autocompletion=lambda: [question.name for question in QUESTIONS],
        ),
    ] = None,
    scan: Annotated[str | None, typer.Argument(help="The name of the scan, where the question is about one.")] = None,
    config: ConfigOption = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the select, and do not ask it.")] = False,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask the history one of ten questions, or list them."""
    if as_json + as_csv + sql > 1:
        raise UsageError("--json, --csv and --sql exclude each other.", hint="Give one of them.")
    if question is None:
        _list(sql=sql, as_json=as_json, as_csv=as_csv)
        return
    asked = _named(question)
    if sql:
        typer.echo(asked.sql)
        return
    _check_scan(asked, scan)
    with open_history(config) as connection:
        columns, rows = answer(connection, asked, scan)
    _print(columns, rows, as_json=as_json, as_csv=as_csv)


def _list(*, sql: bool, as_json: bool, as_csv: bool) -> None:
    if sql:
        typer.echo("\n\n".join(f"-- {question.text}\n{question.sql}" for question in QUESTIONS))
        return
    rows: list[dict[str, Any]] = [
        {"number": number, "name": question.name, "question": question.text}
        for number, question in enumerate(QUESTIONS, start=1)
    ]
    _print(["number", "name", "question"], rows, as_json=as_json, as_csv=as_csv)


def _named(question: str) -> Question:
    by_name = {each.name: each for each in QUESTIONS}
    by_number = {str(number): each for number, each in enumerate(QUESTIONS, start=1)}
    found = by_name.get(question) or by_number.get(question)
    if found is None:
        raise UsageError(
            f"{question!r} is none of the questions.",
            hint=f"They are {', '.join(by_name)}, or 1 to {len(QUESTIONS)}; watcherd ask lists them.",
        )
    return found


def _check_scan(question: Question, scan: str | None) -> None:
    if question.asks_for_a_scan and scan is None:
        raise UsageError(
            f"{question.name} is about one scan.", hint=f"Give its name: watcherd ask {question.name} scan-17.jpg"
        )
    if scan is not None and not question.asks_for_a_scan:
        raise UsageError(f"{question.name} is about no single scan.", hint=f"watcherd ask {question.name}")


def _print(columns: Sequence[str], rows: Sequence[dict[str, Any]], *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json(rows)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, columns)
        writer.writeheader()
        writer.writerows({name: for_spreadsheets(value) for name, value in row.items()} for row in rows)
    else:
        numbers = [name for name in columns if any(isinstance(row[name], int | float) for row in rows)]
        print_table(columns, [[row[name] for name in columns] for row in rows], right=numbers)
