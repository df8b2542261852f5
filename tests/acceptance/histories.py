"""What a history says of itself, read as evidence: every job went a way of the state table, every result has one owner,
every arrival one fate. Nothing here asks the daemon or its store; only the tables are read, after whatever faults.

Each function returns sentences about what is wrong.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from watcherd.job import FINISHED, TRANSITIONS, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MOVES = {(old.value, new.value) for old, ways in TRANSITIONS.items() for new in ways}
CLAIM = (State.QUEUED.value, State.RUNNING.value)
STAGED = (State.RUNNING.value, State.DELIVERING.value)


def check_history(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with one history. It may be of any moment."""
    return [
        *_every_job_went_a_way_of_the_table(connection),
        *_every_attempt_was_a_claim_of_one_run_at_a_time(connection),
        *_every_result_has_one_owner(connection),
        *_every_arrival_has_one_fate(connection),
        *_every_file_waits_for_all_its_models(connection),
    ]


def check_histories(connections: Mapping[Path, sqlite3.Connection]) -> list[str]:
    """What is wrong with several, each of a service with the outbox that is its key.

    A result that is visible in an outbox is of one of them.
    """
    problems = [f"{outbox}: {problem}" for outbox, one in connections.items() for problem in check_history(one)]
    owners: Counter[tuple[str, bytes]] = Counter()
    for outbox, connection in connections.items():
        rows = _rows(connection, "SELECT DISTINCT path FROM output WHERE state = 'delivered'")
        owners.update((str(outbox.resolve()), bytes(path)) for (path,) in rows)
    shared = [(outbox, path) for (outbox, path), count in owners.items() if count > 1]
    return [*problems, *(f"{outbox}: {path!r} is a result of several histories" for outbox, path in shared)]


def _rows(connection: sqlite3.Connection, sql: str) -> Iterator[Any]:
    yield from connection.execute(sql)


def _every_job_went_a_way_of_the_table(connection: sqlite3.Connection) -> list[str]:
    """From its queueing on, each move from where the last one led to, and to the state that it is in now."""
    states = dict(_pairs(connection, "SELECT id, state FROM job"))
    problems, known = [], set()
    moves = _rows(
        connection, "SELECT job_id, from_state, to_state FROM event WHERE to_state IS NOT NULL ORDER BY job_id, id"
    )
    for job_id, rows in groupby(moves, key=lambda row: row[0]):
        known.add(job_id)
        at = None
        for _, old, new in rows:
            if old != at:
                problems.append(f"job {job_id} moved from {old} to {new}, and was {at or 'not there'}")
            elif (old, new) not in MOVES and (old is not None or new != State.QUEUED):
                problems.append(f"job {job_id} moved from {old} to {new}, which the table does not allow")
            at = new
        if states.get(job_id, at) != at:
            problems.append(f"job {job_id} is {states[job_id]}, and its events end with {at}")
    return [*problems, *(f"job {job_id} has no events" for job_id in sorted(states.keys() - known))]


def _every_attempt_was_a_claim_of_one_run_at_a_time(connection: sqlite3.Connection) -> list[str]:
    """As many attempts as claims, of results as of those that were staged; and none of a run that another followed."""
    problems = []
    joined = dict(
        _pairs(
            connection,
            "SELECT job_id, json_extract(detail, '$.into') FROM event WHERE kind = 'joined' "
            "AND json_extract(detail, '$.into') IS NOT NULL AND job_id NOT IN (SELECT id FROM job)",
        )
    )
    claims, staged, attempts, succeeded = Counter[int](), Counter[int](), Counter[int](), Counter[int]()
    for job_id, old, new in _rows(connection, "SELECT job_id, from_state, to_state FROM event WHERE to_state NOT NULL"):
        while job_id in joined:
            job_id = joined[job_id]  # noqa: PLW2901 - what a joined job did is the other one's
        claims[job_id] += (old, new) == CLAIM
        staged[job_id] += (old, new) == STAGED
    latest = 0
    for job_id, number, run_id, outcome in _rows(
        connection, "SELECT job_id, number, run_id, outcome FROM attempt ORDER BY id"
    ):
        attempts[job_id] += 1
        succeeded[job_id] += outcome == "succeeded"
        if run_id < latest:
            problems.append(f"job {job_id}: attempt {number} is of run {run_id}, when run {latest} had begun")
        latest = max(latest, run_id)
    for what, ones, others in (("claims", claims, attempts), ("stagings", staged, succeeded)):
        problems += [
            f"job {job_id} has {ones[job_id]} {what} and {others[job_id]} attempts to show for them"
            for job_id in sorted(ones.keys() | others.keys())
            if ones[job_id] != others[job_id]
        ]
    return problems


def _every_result_has_one_owner(connection: sqlite3.Connection) -> list[str]:
    """A path is one arrival's, which is of the result's job; a name whose job has succeeded has one JSON at most."""
    twice = _rows(
        connection,
        "SELECT path_text, count(*) FROM output WHERE state <> 'removed' GROUP BY path HAVING count(*) > 1",
    )
    foreign = _rows(
        connection,
        "SELECT output.path_text, output.job_id, arrival.job_id FROM output LEFT JOIN arrival "
        "ON arrival.id = output.arrival_id WHERE output.state <> 'removed' AND output.job_id IS NOT arrival.job_id",
    )
    many = _rows(
        connection,
        "SELECT arrival_id, count(*) FROM output WHERE kind = 'result' AND state <> 'removed' "
        "GROUP BY arrival_id HAVING count(*) > 1",
    )
    lacking = _rows(
        connection,
        "SELECT job.id FROM job WHERE state = 'succeeded' AND NOT EXISTS "
        "(SELECT 1 FROM output WHERE output.job_id = job.id AND kind = 'result' AND output.state = 'delivered')",
    )
    return [
        *(f"{path} is {count} results at once" for path, count in twice),
        *(f"{path} is a result of job {job}, and its arrival is of job {other}" for path, job, other in foreign),
        *(f"arrival {arrival_id} has {count} results" for arrival_id, count in many),
        *(f"job {job_id} has succeeded, and has no result" for (job_id,) in lacking),
    ]


def _every_arrival_has_one_fate(connection: sqlite3.Connection) -> list[str]:
    """Taken, it has a job, and each job one arrival that it was made for; not taken, it has none."""
    problems = []
    first = dict(_pairs(connection, "SELECT id, arrival_id FROM job"))
    own = Counter[int]()
    for arrival_id, fate, job_id, duplicate_of in _rows(
        connection, "SELECT id, fate, job_id, duplicate_of FROM arrival"
    ):
        if fate in ("queued", "duplicate") and job_id not in first:
            problems.append(f"arrival {arrival_id} is {fate}, and its job is not there")
        elif fate in ("ignored", "settling") and job_id is not None:
            problems.append(f"arrival {arrival_id} is {fate}, and has job {job_id}")
        elif fate == "duplicate" and duplicate_of != job_id:
            problems.append(f"arrival {arrival_id} is a duplicate of {duplicate_of}, and has job {job_id}")
        elif fate == "queued":
            own[job_id] += 1
            if first[job_id] != arrival_id:
                problems.append(f"arrival {arrival_id} is queued as job {job_id}, which is that of {first[job_id]}")
    problems += [f"job {job_id} was made for {own[job_id]} arrivals" for job_id in first if own[job_id] != 1]
    present = _rows(
        connection, "SELECT path_text, count(*) FROM arrival WHERE present = 1 GROUP BY path HAVING count(*) > 1"
    )
    open_ended = ", ".join(f"'{state}'" for state in FINISHED)
    waiting = _rows(
        connection,
        "SELECT arrival.id, job.state FROM arrival JOIN job ON job.id = arrival.job_id "  # noqa: S608 - our own words
        f"WHERE arrival.delivery = 'waiting' AND job.state IN ({open_ended})",
    )
    return [
        *problems,
        *(f"{path} is {count} files at once" for path, count in present),
        *(f"arrival {arrival_id} waits for a job that is {state}" for arrival_id, state in waiting),
    ]


def _every_file_waits_for_all_its_models(connection: sqlite3.Connection) -> list[str]:
    """An arrival of a further model is of the same name as the first one's, and has no file; the first one's left the
    inbox only when no other waited, unless somebody asked for that one again."""
    if not _has_models_beside(connection):
        return []
    waiting = "delivery IN ('waiting', 'due', 'intended')"
    astray = _rows(
        connection,
        "SELECT other.id FROM arrival AS other LEFT JOIN arrival AS first ON first.id = other.file_of "
        "WHERE other.file_of IS NOT NULL AND (other.present OR other.disposal IS NOT NULL OR "
        "(first.id IS NOT NULL AND (first.path <> other.path OR first.file_of IS NOT NULL)))",
    )
    miscounted = _rows(
        connection,
        "SELECT id, awaited FROM arrival AS first WHERE awaited <> "  # noqa: S608 - our own words
        f"(SELECT count(*) FROM arrival WHERE file_of = first.id AND {waiting})",
    )
    early = _rows(
        connection,
        "SELECT first.id, other.job_id FROM arrival AS first JOIN arrival AS other ON other.file_of = first.id "  # noqa: S608 - the same
        f"WHERE first.disposal IN ('archived', 'deleted', 'kept') AND other.{waiting} AND NOT EXISTS "
        "(SELECT 1 FROM event WHERE event.job_id = other.job_id AND event.kind = 'asked-again')",
    )
    return [
        *(f"arrival {arrival_id} is of a further model, and has a file, or another's name" for (arrival_id,) in astray),
        *(f"arrival {arrival_id} waits for {awaited} models, which is not so" for arrival_id, awaited in miscounted),
        *(f"arrival {arrival_id} left the inbox before job {job} had ended" for arrival_id, job in early),
    ]


def _has_models_beside(connection: sqlite3.Connection) -> bool:
    """Whether the history knows of files with several models: a kill may have come before its migration."""
    return any(row[1] == "file_of" for row in connection.execute("PRAGMA table_info(arrival)"))


def _pairs(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, Any]]:
    return [(row[0], row[1]) for row in connection.execute(sql)]
