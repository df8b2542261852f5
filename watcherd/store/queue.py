"""The queue: every statement that changes a job, and nothing else.

A job moves by compare-and-set. Claiming it makes an `attempt` whose id never comes back, and that id, with the state
and the run, is the condition of each later move: whoever holds an outdated claim gets a `StaleJobError` and changes
nothing. Ids rather than numbers of attempts, since a planned stop gives a number back. What follows from a move
(events, totals, which moves are allowed) is in ``rules.py``.

Each function takes a connection inside a transaction (`Database.write`) and the time.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from watcherd.errors import StaleJobError
from watcherd.file_names import storable
from watcherd.job import DEFAULT_MODEL, ErrorClass, Options, State
from watcherd.retry import after_daemon_death, pause_after_loss
from watcherd.store import attributes, deliveries, figures, frame_runs, identity, unreadable
from watcherd.store.frame_runs import CLAIMABLE, Hold
from watcherd.store.records import (
    Answer,
    Claim,
    ClaimedJob,
    Failure,
    Measured,
    RunPlace,
    StagedJob,
    milliseconds,
    moment,
    stamp,
)
from watcherd.store.statements import Row, last_id, one_by_one, select_in
from watcherd.store.tables import NOT_SUCCEEDED
from watcherd.values import DEVICE_COLUMNS, Intent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.retry import Decision
    from watcherd.store.identity import InUse

NO_HOLD = Hold()

RENEWALS = 16
"""Times that one claim makes jobs of another model anew, before it takes what it has: a backlog of duplicates of what
is done must not keep the database from everybody else."""

ADD = """
INSERT INTO job (id, scan_id, arrival_id, source, profile, options, options_key, overrides, segmenter, model,
                 model_revision, dtype, state, moved_why, moved_at, created_at, queued_at, threshold, not_before)
VALUES (:job_id, :scan_id, :arrival_id, :source, :profile, :options, :options_key, :overrides, :segmenter, :model,
        :model_revision, :dtype, 'queued', 'ingested', :now, :now, :now, :threshold, :not_before)
"""

NEXT = f"""
SELECT {CLAIMABLE}
FROM job INDEXED BY job_of_model JOIN arrival ON arrival.id = job.arrival_id JOIN scan ON scan.id = job.scan_id
WHERE job.state = 'queued' AND job.model_name = :model_name AND (job.not_before IS NULL OR job.not_before <= :now)
ORDER BY job.priority DESC, job.id LIMIT :limit
"""

NEXT_DUE = """
SELECT min(coalesce(not_before, :now)) FROM job INDEXED BY job_of_model
WHERE state = 'queued' AND model_name = :model_name
"""

POSTPONE = "UPDATE job SET not_before = :until WHERE id = :job_id AND state = 'queued'"

TAKE = """
UPDATE job SET state = 'running', moved_why = 'claimed', reason = NULL, moved_at = :now, run_id = :run_id,
    attempt_id = :attempt_id, attempts = attempts + 1, started_at = :now, queue_ms = :queue_ms, not_before = NULL
WHERE id = :job_id AND state = 'queued'
"""

BEGIN_ATTEMPT = """
INSERT INTO attempt (id, job_id, number, run_id, started_at) VALUES (:attempt_id, :job_id, :number, :run_id, :now)
"""

CLAIMED = "WHERE id = :job_id AND state = 'running' AND run_id = :run_id AND attempt_id = :attempt_id"

RELEASE = f"""
UPDATE job SET state = 'queued', moved_why = 'released', reason = NULL, moved_at = :now, run_id = NULL,
    attempts = attempts - 1
{CLAIMED}
"""

RETRY = f"""
UPDATE job SET state = 'queued', moved_why = 'retry', reason = :reason, moved_at = :now, run_id = NULL,
    error = :error, error_class = :error_class, advice = :advice, not_before = :not_before,
    queued_at = max(:now, :not_before), solo = :solo, crashes_alone = :crashes_alone, attempts = attempts - :uncounted
{CLAIMED}
"""

MEASURED = """decode_ms = :decode_ms, inference_ms = :inference_ms, render_ms = :render_ms, batch_size = :batch_size,
    host_peak_rss_mib = :host_peak_rss_mib"""

GIVE_UP = f"""
UPDATE job SET state = :state, moved_why = :state, reason = :reason, moved_at = :now, finished_at = :now,
    error = :error, error_class = :error_class, advice = :advice, answer = :answer,
    crashes_alone = coalesce(:crashes_alone, crashes_alone), {MEASURED}
{CLAIMED}
"""

STAGE = f"""
UPDATE job SET state = 'delivering', moved_why = 'staged', reason = NULL, moved_at = :now, answer = :answer,
    decode = :decode, note = :note, threshold = coalesce(:threshold, threshold), mask_fraction = :mask_fraction,
    error = NULL, error_class = NULL, advice = NULL, {MEASURED}
{CLAIMED}
"""

SUCCEED = """
UPDATE job SET state = 'succeeded', moved_why = 'delivered', reason = NULL, moved_at = :now, finished_at = :now
WHERE id = :job_id AND state = 'delivering' AND run_id = :run_id AND attempt_id = :attempt_id
"""

END_ATTEMPT = f"""
UPDATE attempt SET ended_at = :now, outcome = :outcome, error_class = :error_class, error = :error,
    replica_id = :replica_id, {MEASURED}
WHERE id = :attempt_id
"""

DEVICE = f"""
INSERT INTO attempt_device (attempt_id, {", ".join(DEVICE_COLUMNS)})
VALUES (:attempt_id, {", ".join(f":{name}" for name in DEVICE_COLUMNS)})
"""

DECODED = """
UPDATE scan SET width = :width, height = :height, frames = :frames, format = :format
WHERE id = (SELECT scan_id FROM job WHERE id = :job_id) AND width IS NOT :width
"""

INTERRUPTED = f"""
SELECT id AS job_id, run_id, attempt_id, arrival_id, interruptions, crashes_alone, solo FROM job
WHERE {NOT_SUCCEEDED} AND state = 'running' AND run_id <> :run_id
"""

INTERRUPT = f"""
UPDATE job SET state = :state, moved_why = 'interrupted', reason = :reason, moved_at = :now, queued_at = :now,
    run_id = NULL, interruptions = interruptions + 1, solo = :solo, finished_at = :finished_at,
    error_class = coalesce(:error_class, error_class), error = coalesce(:error, error)
{CLAIMED}
"""

ASK_AGAIN = """
UPDATE job SET state = 'queued', moved_why = 'asked-again', reason = NULL, moved_at = :now, queued_at = :now,
    finished_at = NULL, run_id = NULL, not_before = :not_before, crashes_alone = 0, interruptions = 0, solo = 0,
    attempts_before = CASE WHEN :by_person THEN attempts ELSE attempts_before END,
    error = NULL, error_class = NULL, advice = NULL, answer = NULL, decode = NULL, note = NULL, mask_fraction = NULL,
    queue_ms = NULL, decode_ms = NULL, inference_ms = NULL, render_ms = NULL, batch_size = NULL,
    host_peak_rss_mib = NULL
WHERE id = :job_id AND state IN ('succeeded', 'failed', 'quarantined', 'cancelled')
"""

CANCEL = """
UPDATE job SET state = 'cancelled', moved_why = 'cancelled', reason = NULL, moved_at = :now, finished_at = :now,
    not_before = NULL
WHERE id = :job_id AND state = 'queued'
"""


def add(connection: Connection, rows: Sequence[Row]) -> None:
    """Put new jobs into the queue; used by `arrivals.enqueue`, which knows that they are new."""
    one_by_one(connection, ADD, rows)


def claim(
    connection: Connection, *, run_id: int, limit: int, now: datetime, in_use: InUse, hold: Hold = NO_HOLD
) -> list[ClaimedJob]:
    """Take up to ``limit`` jobs of one model, those of high priority and long waiting first, and count the attempt.

    Jobs that were queued for another model than the one in use are made anew for it first (`identity.renew`). A job
    that has to run alone is taken alone, when its turn comes; a case of several channels is alone by itself. When the
    turn of a run's first frame comes, all its queued frames are taken, in order and nothing else; a run that ``hold``
    finds incomplete is put off.
    """
    at = stamp(now)
    chosen, places = _next(connection, partial(_upcoming, connection, limit, in_use, run_id, now), hold, now)
    if not chosen:
        return []
    first = last_id(connection, "attempt") + 1
    jobs = [
        _claimed(row, Claim(row.id, run_id, first + number, row.arrival_id), at, places.get(row.id))
        for number, row in enumerate(chosen)
    ]
    values = [{**job.claim._asdict(), "number": job.attempt, "queue_ms": job.queue_ms, "now": at} for job in jobs]
    _move(connection, TAKE, values)
    one_by_one(connection, BEGIN_ATTEMPT, values)
    return jobs


def _upcoming(connection: Connection, limit: int, in_use: InUse, run_id: int, now: datetime) -> Sequence[Any]:
    """What is next in the queue, all of it for the model in use."""
    for _ in range(RENEWALS):
        values = {"now": stamp(now), "limit": limit, "model_name": in_use.name}
        rows = connection.exec_driver_sql(NEXT, values).fetchall()
        foreign = [row for row in rows if identity.is_foreign(row, in_use.identity)]
        if not foreign:
            return rows
        again = identity.renew(connection, foreign, in_use, run_id=run_id, now=now)
        ask_again(connection, again, now=now)
    return []


def _next(
    connection: Connection, upcoming: Callable[[], Sequence[Any]], hold: Hold, now: datetime
) -> tuple[Sequence[Any], Mapping[int, RunPlace]]:
    """What to claim: single scans, one that runs alone, or the frames of one run with their places in it."""
    while True:
        rows = upcoming()
        postponed: set[int] = set()
        scans: list[Any] = []
        for row in rows:
            if row.id in postponed or (scans and (row.solo or _options(row.options).frame)):
                continue
            if row.solo and not (hold.channels > 1 and _options(row.options).frame):
                place = frame_runs.alone(row) if _options(row.options).frame else None
                return [row], {row.id: place} if place else {}
            if not _options(row.options).frame:
                scans.append(row)
                continue
            run = frame_runs.gather(connection, row, hold, now)
            if run.until is None:
                return run.rows, run.places
            postponed.update(run.waiting)
            one_by_one(connection, POSTPONE, [{"job_id": job_id, "until": run.until} for job_id in run.waiting])
        if scans or not postponed:
            return scans, {}


def next_due(connection: Connection, *, now: datetime, name: str = DEFAULT_MODEL) -> datetime | None:
    """When the first of a model's jobs that have to wait may be claimed; to be asked when `claim` has found none."""
    text = connection.exec_driver_sql(NEXT_DUE, {"now": stamp(now), "model_name": name}).scalar()
    return moment(text) if text else None


def release(connection: Connection, claims: Iterable[Claim], *, now: datetime) -> None:
    """Give jobs back that were not worked on, or whose work a planned stop ended: the attempt does not count."""
    rows = [_ended(claim, now, outcome="released") for claim in claims]
    _move(connection, RELEASE, rows)
    one_by_one(connection, END_ATTEMPT, rows)


def retry_later(
    connection: Connection,
    claim: Claim,
    failure: Failure,
    decision: Decision,
    *,
    now: datetime,
    measured: Measured | None = None,
) -> None:
    """Put a job back into the queue after a failed attempt, as `watcherd.retry` has decided."""
    row = _ended(claim, now, outcome="retry", failure=failure, measured=measured)
    row |= {
        "reason": decision.why,
        "not_before": stamp(decision.not_before or now),
        "solo": decision.solo,
        "crashes_alone": decision.crashes_alone,
        "uncounted": not decision.counted,
    }
    _move(connection, RETRY, [row])
    _record_attempt(connection, [(row, measured)])


def give_up(
    connection: Connection,
    claim: Claim,
    failure: Failure,
    decision: Decision | None = None,
    *,
    now: datetime,
    measured: Measured | None = None,
) -> None:
    """End a job as failed, or as quarantined if that was the decision. It is not tried again unless asked for.

    Every name that was dropped is due for a note then: see `deliveries.arrivals_to_deliver`.
    """
    state = decision.state if decision else State.FAILED
    row = _ended(claim, now, outcome=state.value, failure=failure, measured=measured)
    row |= {
        "state": state.value,
        "reason": decision.why if decision else None,
        "answer": storable(failure.answer) if failure.answer else failure.answer,
        "crashes_alone": decision.crashes_alone if decision else None,
    }
    _move(connection, GIVE_UP, [row])
    _record_attempt(connection, [(row, measured)])
    _correct(connection, [(row, measured)], now)
    one_by_one(connection, deliveries.JOB_ENDED, [{"job_id": claim.job_id, "delivered_arrival": None}])


def begin_delivery(connection: Connection, staged: Sequence[StagedJob], *, now: datetime) -> None:
    """Results are computed and staged: write down their names and hashes, and what was measured."""
    rows = [
        (_ended(item.claim, now, outcome="succeeded", measured=item.measured) | _answer(item.answer), item.measured)
        for item in staged
    ]
    _move(connection, STAGE, [row for row, _ in rows])
    _record_attempt(connection, rows)
    _correct(connection, rows, now)
    deliveries.promise(connection, [row for item in staged for row in _promised(item)])
    figures.keep(connection, [(item.claim.job_id, item.measures) for item in staged])
    attributes.keep(connection, [(item.claim.job_id, item.attributes) for item in staged])


def _promised(item: StagedJob) -> list[dict[str, Any]]:
    job_id, _, attempt_id, arrival_id = item.claim
    return deliveries.promised(item.intents, job_id=job_id, arrival_id=arrival_id, attempt_id=attempt_id)


def finish_delivery(connection: Connection, claims: Iterable[Claim], *, now: datetime) -> None:
    """The promised results lie in the outbox: the jobs have succeeded.

    After a crash the claims are those that `delivering_jobs` found.
    """
    at = stamp(now)
    rows = [{**claim._asdict(), "now": at, "delivered_arrival": claim.arrival_id} for claim in claims]
    _move(connection, SUCCEED, rows)
    one_by_one(connection, deliveries.KEEP_PROMISE, rows)
    one_by_one(connection, deliveries.JOB_ENDED, rows)


def delivering_jobs(connection: Connection) -> list[tuple[Claim, list[Intent]]]:
    """Jobs whose delivery was begun and not finished, with what was promised."""
    rows = connection.exec_driver_sql(
        f"SELECT id, run_id, attempt_id, arrival_id FROM job WHERE {NOT_SUCCEEDED} AND state = 'delivering' ORDER BY id"
    ).fetchall()
    return [
        (
            Claim(row.id, row.run_id, row.attempt_id, row.arrival_id),
            [
                output.intent
                for output in deliveries.outputs_of(connection, row.arrival_id)
                if output.state == "intended"
            ],
        )
        for row in rows
    ]


def requeue_interrupted(connection: Connection, *, run_id: int, now: datetime) -> list[int]:
    """At start: what earlier runs left running goes back to the queue at once, the attempt counted; the jobs' ids.

    A job that was running at too many deaths of the daemon runs alone, and in the end is quarantined
    (`retry.after_daemon_death`).
    """
    found = connection.exec_driver_sql(INTERRUPTED, {"run_id": run_id}).fetchall()
    rows = [_interrupted(row, now) for row in found]
    _move(connection, INTERRUPT, rows)
    one_by_one(connection, END_ATTEMPT, rows)
    ended = [row for row in rows if row["finished_at"] is not None]
    one_by_one(connection, deliveries.JOB_ENDED, ended)
    return [row["job_id"] for row in rows]


def _interrupted(row: Any, now: datetime) -> dict[str, Any]:
    decision = after_daemon_death(
        interruptions=row.interruptions + 1, crashes_alone=row.crashes_alone, solo=bool(row.solo), now=now
    )
    claim = Claim(row.job_id, row.run_id, row.attempt_id, row.arrival_id)
    gave_up = decision.state is State.QUARANTINED
    failure = Failure(error_class=ErrorClass.CRASH, error=decision.why) if gave_up else None
    return _ended(claim, now, outcome="quarantined" if gave_up else "interrupted", failure=failure) | {
        "state": decision.state.value,
        "reason": decision.why,
        "solo": decision.solo,
        "finished_at": stamp(now) if gave_up else None,
        "delivered_arrival": None,
    }


def ask_again(connection: Connection, job_ids: Iterable[int], *, now: datetime, by_person: bool = True) -> list[int]:
    """Put ended jobs into the queue again; the ids of those that had ended.

    For a person with all their tries before them. By ourselves, since their results are lost, after a pause that grows
    with the tries that they have had: the cause may still be there.
    """
    return [job_id for job_id in job_ids if _asked(connection, job_id, now, by_person=by_person)]


def _asked(connection: Connection, job_id: int, now: datetime, *, by_person: bool) -> bool:
    row: dict[str, Any] = {"job_id": job_id, "now": stamp(now), "by_person": by_person, "not_before": None}
    if not by_person:
        sql = "SELECT attempts - attempts_before FROM job WHERE id = ?"
        pause = pause_after_loss(connection.exec_driver_sql(sql, (job_id,)).scalar() or 0)
        row["not_before"] = stamp(now + pause) if pause else None
    if connection.exec_driver_sql(ASK_AGAIN, row).rowcount == 0:
        return False
    connection.exec_driver_sql(deliveries.JOB_WAITS, row)
    connection.exec_driver_sql(deliveries.DROP_PROMISES, row)
    figures.forget(connection, [job_id])
    return True


def cancel(connection: Connection, job_ids: Iterable[int], *, now: datetime) -> list[int]:
    """Take waiting jobs back; the ids of those that were waiting. Running ones finish."""
    at = stamp(now)
    moved = [i for i in job_ids if connection.exec_driver_sql(CANCEL, {"job_id": i, "now": at}).rowcount]
    one_by_one(connection, deliveries.JOB_ENDED, [{"job_id": i, "delivered_arrival": None} for i in moved])
    return moved


def prioritise(connection: Connection, job_ids: Iterable[int], priority: int, *, now: datetime) -> list[int]:
    """Give waiting jobs another priority (0 unless changed; higher is sooner); the ids of those that were waiting."""
    moved = []
    for job_id in job_ids:
        sql = "UPDATE job SET priority = ? WHERE id = ? AND state = 'queued'"
        if connection.exec_driver_sql(sql, (priority, job_id)).rowcount:
            moved.append(job_id)
    events = [{"at": stamp(now), "job_id": job_id, "detail": json.dumps({"priority": priority})} for job_id in moved]
    one_by_one(
        connection, "INSERT INTO event (at, job_id, kind, detail) VALUES (:at, :job_id, 'prioritised', :detail)", events
    )
    return moved


def remove(connection: Connection, job_ids: Sequence[int]) -> None:
    """Take ended jobs out of the table; used by `prune`, which takes what belongs to them first."""
    one_by_one(connection, "DELETE FROM job WHERE id = :id AND finished_at IS NOT NULL", [{"id": i} for i in job_ids])


def _move(connection: Connection, sql: str, rows: Sequence[Row]) -> None:
    """Move each job of ``rows`` or none."""
    if one_by_one(connection, sql, rows) != len(rows):
        raise _stale(connection, rows)


def _stale(connection: Connection, rows: Sequence[Row]) -> StaleJobError:
    found = select_in(
        connection, "SELECT id, state, attempt_id FROM job WHERE id IN ({values})", [row["job_id"] for row in rows]
    )
    now = ", ".join(f"job {row.id} is {row.state} (attempt id {row.attempt_id})" for row in found[:5])
    held = ", ".join(str(row["attempt_id"]) for row in rows[:5])
    return StaleJobError(f"A job moved meanwhile: {now or 'it is gone'}; the claim was on attempt id {held}.")


def _claimed(row: Any, claim: Claim, at: str, place: RunPlace | None) -> ClaimedJob:
    return ClaimedJob(
        claim=claim,
        path=row.path,
        source=row.source,
        sha256=row.sha256,
        spool_name=row.spool_name,
        size_bytes=row.size_bytes,
        options=_options(row.options),
        model=identity.identity_of(row),
        attempt=row.attempts + 1,
        tries=row.attempts + 1 - row.attempts_before,
        crashes_alone=row.crashes_alone,
        interruptions=row.interruptions,
        solo=bool(row.solo),
        priority=row.priority,
        queue_ms=milliseconds(row.queued_at, at),
        run=place,
        beside="" if row.file_of is None else _options(row.options).model,
    )


@lru_cache(maxsize=256)
def _options(text: str) -> Options:
    """A queue of 100,000 scans has a handful of different options."""
    return unreadable.options(text)


_NOTHING = Measured()


def _ended(
    claim: Claim, now: datetime, *, outcome: str, failure: Failure | None = None, measured: Measured | None = None
) -> dict[str, Any]:
    values = measured or _NOTHING
    return {
        **claim._asdict(),
        "now": stamp(now),
        "outcome": outcome,
        "error_class": ErrorClass(failure.error_class).value if failure else None,
        "error": storable(failure.error) if failure else None,
        "advice": (storable(failure.advice) or None) if failure else None,
        "replica_id": values.replica_id,
        "decode_ms": values.decode_ms,
        "inference_ms": values.inference_ms,
        "render_ms": values.render_ms,
        "batch_size": values.batch_size,
        "host_peak_rss_mib": values.host_peak_rss_mib,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "answer": storable(answer.answer) if answer.answer else answer.answer,
        "decode": answer.decode,
        "note": storable(answer.note) if answer.note else answer.note,
        "threshold": answer.threshold,
        "mask_fraction": answer.mask_fraction,
    }


def _record_attempt(connection: Connection, rows: Sequence[tuple[dict[str, Any], Measured | None]]) -> None:
    """Write down how attempts ended, what they used, and what decoding found out about the scans."""
    one_by_one(connection, END_ATTEMPT, [row for row, _ in rows])
    known = [(row, measured) for row, measured in rows if measured is not None]
    devices = [(row["attempt_id"], use) for row, measured in known for use in measured.devices]
    one_by_one(connection, DEVICE, [{"attempt_id": attempt_id, **use.columns()} for attempt_id, use in devices])
    sizes = [
        {
            "job_id": row["job_id"],
            "width": measured.width,
            "height": measured.height,
            "frames": measured.frames,
            "format": measured.format,
        }
        for row, measured in known
        if measured.width is not None
    ]
    one_by_one(connection, DECODED, sizes)


def _correct(connection: Connection, rows: Sequence[tuple[Row, Measured | None]], now: datetime) -> None:
    """Let the record say which model and which picture it was, where these are others than the job was claimed for."""
    for row, measured in rows:
        if measured is not None and (measured.computed_by is not None or measured.pictures is not None):
            identity.correct(connection, row["job_id"], measured, run_id=row["run_id"], now=now)
