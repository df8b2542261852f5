"""The store: one SQLite file that holds the queue and its whole history. Only this package knows SQL.

Writing (the daemon only)::

    with Database.open(path) as database:                      # migrates; one thread owns the one writing connection
        run_id = database.write(lambda c: runs.start_run(c, ..., now=now))
        jobs = database.write(lambda c: queue.claim(c, run_id=run_id, limit=8, now=now))
        future = database.submit(lambda c: ...)                 # the same without waiting; works share a sync

Reading (any process)::

    with reader(path) as connection:                           # or database.reader(); read-only, one moment in time
        history.jobs(connection, Filter(states=[State.FAILED]))

`arrivals`
    enqueue, known, settling, ignored, vanished, record_disposal, present_after
`identity`
    renew, correct, current: which model a job is for, and which made its result
`queue`
    claim, release, retry_later, give_up, begin_delivery, finish_delivery, delivering_jobs,
    requeue_interrupted, ask_again, cancel, prioritise, next_due
`frame_runs`
    gather: which queued jobs are the frames of one run, for `queue.claim`
`deliveries`
    arrivals_to_deliver, begin_redelivery, finish_redelivery, skip_delivery, arrivals_promised, outputs_of,
    outdated_outputs, mark_removed, owners, arrivals_to_dispose
`figures`
    keep, forget, fullest, of_job
`runs`
    start_run, end_run, start_replica, replica_ready, end_replica, receive_command, finish_command, command,
    set_setting, setting
`evaluations`
    add
`reviews`
    judgeable, put, of_jobs, every
`unreadable`
    found, mend, options
`history`
    jobs, job, events, attempts, arrivals, counts, fates, oldest_queued, active, rate, failures, runs, replicas
`aside`
    everything, keep, tell, forget, forget_jobs
`backup`
    backup, restore, check, prune, shrink, rotate, set_aside, facts

A scan's way through it: `enqueue` → `claim` → `begin_delivery` (names and hashes written down) → the outbox renames →
`finish_delivery`. Then, for every other name that waits for a result, and for the notes of failed jobs:
`arrivals_to_deliver` → `begin_redelivery` → rename → `finish_redelivery`. Last, `arrivals_to_dispose` →
`record_disposal`. After a crash: `requeue_interrupted`, `delivering_jobs`, `arrivals_promised`.
"""

from sqlalchemy import Connection

from watcherd.store.connections import CorruptDatabaseError, StoreUnavailableError, UnreadableRowError, reader
from watcherd.store.database import Database, Turn
from watcherd.store.frame_runs import Hold
from watcherd.store.history import Filter, JobRecord
from watcherd.store.identity import InUse
from watcherd.store.records import (
    Answer,
    ArrivalInfo,
    Claim,
    ClaimedJob,
    Enqueued,
    Failure,
    ForModel,
    Measured,
    ModelIdentity,
    NewArrival,
    Output,
    PathSignature,
    RunPlace,
    StagedJob,
    moment,
    stamp,
)

__all__ = [
    "Answer",
    "ArrivalInfo",
    "Claim",
    "ClaimedJob",
    "Connection",
    "CorruptDatabaseError",
    "Database",
    "Enqueued",
    "Failure",
    "Filter",
    "ForModel",
    "Hold",
    "InUse",
    "JobRecord",
    "Measured",
    "ModelIdentity",
    "NewArrival",
    "Output",
    "PathSignature",
    "RunPlace",
    "StagedJob",
    "StoreUnavailableError",
    "Turn",
    "UnreadableRowError",
    "moment",
    "reader",
    "stamp",
]
