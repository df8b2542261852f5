"""Text that cannot be stored is never stored; what others have stored costs nobody else anything, and is mended."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import (
    NOW,
    claim,
    claim_one,
    enqueue,
    failure,
    later_decision,
    scan,
    staged,
    start_run,
    succeed,
)
from watcherd.job import UNREADABLE, Options
from watcherd.store import Answer, Database, Filter, history, hooks, queue, runs, unreadable

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

HALF = "half \ud800 a pair"
SHOWN = "half \\ud800 a pair"


def test_what_a_failure_says_can_be_read_back(connection: Connection) -> None:
    """A library's words, and a model's, hold anything."""
    run_id = start_run(connection)
    enqueue(connection, run_id, scan("a.png"), scan("b.png"))
    one, other = (job.claim for job in claim(connection, run_id, limit=2))
    said = replace(failure(error=HALF), advice=HALF, answer=HALF)
    queue.retry_later(connection, one, said, later_decision(), now=NOW)
    queue.give_up(connection, other, said, now=NOW)
    records = {record["id"]: record for record in history.jobs(connection)}
    assert {SHOWN} == {record[key] for record in records.values() for key in ("error", "advice")}
    assert SHOWN == records[other.job_id]["answer"]


def test_what_a_result_says_can_be_read_back(connection: Connection) -> None:
    """The answer, the note, and attributes of the scan."""
    run_id = start_run(connection)
    enqueue(connection, run_id, scan("a.png"))
    done = staged(claim_one(connection, run_id))
    answer = Answer(answer=HALF, decode="verified", note=HALF, threshold=0.5, mask_fraction=0.5)
    queue.begin_delivery(connection, [replace(done, answer=answer, attributes={"Modality": HALF})], now=NOW)
    (record,) = history.jobs(connection)
    assert (SHOWN, SHOWN, {"Modality": SHOWN}) == (record["answer"], record["note"], record["dicom"])


def test_what_else_is_written_can_be_read_back(connection: Connection) -> None:
    """Why a replica ended, what a hook's program said, how a command went."""
    run_id = start_run(connection)
    runs.receive_command(connection, "1", "retry", {"jobs": HALF}, now=NOW)
    runs.finish_command(connection, "1", outcome=HALF, now=NOW)
    assert SHOWN == (runs.command(connection, "1") or {})["outcome"]
    hooks.wish(connection, [("succeeded", "url")], now=NOW)
    enqueue(connection, run_id, scan("a.png"))
    succeed(connection, claim_one(connection, run_id))
    (call,) = hooks.due(connection, now=NOW, limit=1)
    hooks.later(connection, call, HALF, not_before=NOW)
    hooks.give_up(connection, call, HALF, now=NOW)
    assert [SHOWN] == [row["error"] for row in hooks.of_job(connection, call.job_id)]


BAD = {
    "a pair cut in half": json.dumps({"prompt": HALF}),
    "a NUL": json.dumps({"prompt": "a\0b"}),
    "no JSON": "{",
    "no options": "[1, 2]",
    "nested": "[" * 3000 + "]" * 3000,
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_a_job_whose_options_cannot_be_read_is_refused_and_others_are_not(path: Path, options: str) -> None:
    """It can be listed and claimed; nobody guesses what it was asked for with."""
    with Database.open(path) as database:
        database.write(lambda c: enqueue(c, start_run(c), scan("a.png"), scan("b.png")))
    spoil(path, "UPDATE job SET options = ? WHERE id = 1", options)
    with Database.open(path) as database:
        with database.reader() as connection:
            assert [1, 2] == sorted(record["id"] for record in history.jobs(connection, Filter()))
            assert [1] == [row.id for row in unreadable.found(connection)]
        first, second = database.write(lambda c: claim(c, 1, limit=2))
        assert first.options.refused
        assert Options() == second.options


def test_text_that_is_none_is_found_and_mended(path: Path) -> None:
    """In whichever column; what can be read of it stays, and what is well is not touched."""
    with Database.open(path) as database:
        database.write(lambda c: enqueue(c, start_run(c), scan("a.png"), scan("Müller.png")))
    for table, columns in unreadable.TEXTS.items():
        if table in ("job", "arrival"):
            for column in columns:
                spoil(path, f"UPDATE {table} SET {column} = cast(? AS TEXT) WHERE id = 1", b"half \xed\xa0\x80 a pair")  # noqa: S608
    with Database.open(path) as database:
        with database.reader() as connection:
            names = {str(row) for row in unreadable.found(connection)}
        wanted = {f"{table} 1 ({column})" for table in ("job", "arrival") for column in unreadable.TEXTS[table]}
        assert wanted == names
        said = database.write(lambda c: unreadable.mend(c, now=NOW))
        assert len(wanted) == len(said)
        assert [] == database.write(lambda c: unreadable.mend(c, now=NOW))
    with closing(sqlite3.connect(path)) as connection:
        (source,), (other,) = connection.execute("SELECT path_text FROM arrival ORDER BY id")
        assert source.startswith("half ")
        assert "Müller.png" == other


def test_options_that_were_mended_say_why_the_job_is_refused(path: Path) -> None:
    """With the profile that it had."""
    with Database.open(path) as database:
        database.write(lambda c: enqueue(c, start_run(c), scan("a.png", options=Options(profile="coronary"))))
    spoil(path, "UPDATE job SET options = ?", BAD["a pair cut in half"])
    with Database.open(path) as database:
        (said,) = database.write(lambda c: unreadable.mend(c, now=NOW))
        assert said.startswith("job 1: what it was asked for cannot be read")
        (job,) = database.write(lambda c: claim(c, 1))
    assert Options(profile="coronary", refused=UNREADABLE) == job.options


def spoil(path: Path, sql: str, value: object) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, (value,))
