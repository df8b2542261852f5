"""Which model a job is for, and which one made its mask: the one place that decides.

A job is queued for the model that would have run it then. When its turn comes, another one may be loaded: the job is
then made anew for that model, as if its scan were dropped at this moment with the sidecar that it had (`renew`). If the
new one exists already, for the same bytes, the two become one. What the record says in the end is what computed:
`correct` writes down the identity of the replica whose attempt made the result, whatever the job said before. So it is
with the picture that the model saw, which a new version of watcherd may make otherwise (`Options.pictures`).

docs/concepts.md has the cases as a table.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from watcherd.file_names import show
from watcherd.frame_files import name_of_several
from watcherd.job import DEFAULT_MODEL, MAY_PASS, ErrorClass, Options, State
from watcherd.store import unreadable
from watcherd.store.frame_runs import CLAIMABLE
from watcherd.store.records import ModelIdentity, stamp
from watcherd.store.statements import one_by_one, select_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from watcherd.store.records import Measured

UNKNOWN = ModelIdentity(segmenter="unknown", model="", revision="", dtype="")
"""The identity of a result in an old history that nothing proves."""

OPEN = frozenset({State.QUEUED, State.RUNNING, State.DELIVERING})

MOST_FRAMES = 4000
"""Frames of one run that are made anew together, at most."""

OTHER = """
SELECT id, state, error_class FROM job WHERE scan_id = :scan_id AND options_key = :options_key AND id <> :job_id
"""

RENEW = """
UPDATE job SET profile = :profile, options = :options, options_key = :options_key, threshold = :threshold,
    segmenter = :segmenter, model = :model, model_revision = :model_revision, dtype = :dtype
WHERE id = :job_id AND state = 'queued'
"""

CORRECT = """
UPDATE job SET options = :options, options_key = :options_key, segmenter = :segmenter, model = :model,
    model_revision = :model_revision, dtype = :dtype
WHERE id = :job_id
"""

EVENT = "INSERT INTO event (at, job_id, kind, run_id, detail) VALUES (:at, :job_id, :kind, :run_id, :detail)"

RUN_OF = f"""
SELECT {CLAIMABLE}
FROM arrival INDEXED BY arrival_name CROSS JOIN job ON job.id = arrival.job_id AND job.arrival_id = arrival.id
    JOIN scan ON scan.id = job.scan_id
WHERE arrival.path_text >= :first AND arrival.path_text < :last AND job.state = 'queued'
    AND job.model_name = :model_name
ORDER BY arrival.path_text LIMIT {MOST_FRAMES}
"""

ARRIVALS = """
SELECT id, path, EXISTS (SELECT 1 FROM output WHERE output.arrival_id = arrival.id AND output.state <> 'removed')
    AS has_results
FROM arrival WHERE job_id = :job_id ORDER BY id
"""

JOIN_ARRIVAL = """
UPDATE arrival SET job_id = :into, duplicate_of = :into, fate = 'duplicate', delivery = :delivery WHERE id = :id
"""

JOIN = (
    "UPDATE attempt SET job_id = :into WHERE job_id = :job_id",
    "UPDATE output SET job_id = :into WHERE job_id = :job_id",
    "UPDATE hook SET job_id = :into WHERE job_id = :job_id",
    "DELETE FROM measure WHERE job_id = :job_id",
    "DELETE FROM review WHERE job_id = :job_id",
    "DELETE FROM attribute WHERE job_id = :job_id",
    "UPDATE job SET priority = max(priority, :priority) WHERE id = :into AND state = 'queued'",
    "DELETE FROM job WHERE id = :job_id AND state = 'queued'",
)
"""What belongs to a job goes to the one that it is joined with; its events stay, for people who know its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InUse:
    """The model that would run a job now. ``name``: as the configuration calls it; only its jobs are claimed.

    ``options``: what a scan at this path below the inbox is to be done with, by the configuration as it is now and by
    what the scan's sidecars overrode (keys and values; None: not known, so nothing).
    ``pictures``: of a scan with this hash, which version's picture it would be done from; None where its copy is gone.
    ``joined``: called, before the transaction ends, with each job that another one was joined with.
    """

    name: str = DEFAULT_MODEL
    identity: ModelIdentity
    options: Callable[[bytes, Mapping[str, Any] | None], Options]
    joined: Callable[[int], object] = lambda _job_id: None
    pictures: Callable[[str], int | None] = lambda _sha256: None


def identity_of(row: Any) -> ModelIdentity:
    """The identity in a row of ``job`` or ``replica``."""
    return ModelIdentity(segmenter=row.segmenter, model=row.model, revision=row.model_revision, dtype=row.dtype)


def is_foreign(row: Any, model: ModelIdentity) -> bool:
    """Whether a job is for another model."""
    return (row.segmenter, row.model, row.model_revision, row.dtype) != (
        model.segmenter,
        model.model,
        model.revision,
        model.dtype,
    )


def renew(connection: Connection, rows: Iterable[Any], in_use: InUse, *, run_id: int, now: datetime) -> list[int]:
    """Make queued jobs, rows with what `CLAIMABLE` names, anew for the model in use.

    The other frames of a run go with the first: they are claimed together only while their options agree. Returns the
    jobs that others were joined with and that have to be asked for again, see `MAY_PASS`.
    """
    again: list[int] = []
    done: set[int] = set()
    for first in rows:
        options = _options_now(first, in_use)
        for row in (first, *_run_of(connection, first, options, in_use.name)):
            if row.id not in done and is_foreign(row, in_use.identity):
                done.add(row.id)
                again += _renew(connection, row, in_use, run_id=run_id, at=stamp(now))
    return again


def _run_of(connection: Connection, row: Any, options: Options, model_name: str) -> Sequence[Any]:
    """The queued jobs of this model whose files may belong to the same run as this one's."""
    name = name_of_several(row.path)
    if name is None or not (options.frame or unreadable.options(row.options).frame):
        return ()
    first = show(name.before)
    values = {"first": f"{first}0", "last": f"{first}:", "model_name": model_name}
    return connection.exec_driver_sql(RUN_OF, values).fetchall()


def _options_now(row: Any, in_use: InUse) -> Options:
    """What the job's scan would be done with if it were dropped now."""
    old = unreadable.options(row.options)
    pictures = in_use.pictures(row.sha256)
    return _asked_now(row, old, in_use).for_picture(old.pictures if pictures is None else pictures)


def _asked_now(row: Any, old: Options, in_use: InUse) -> Options:
    if old.refused:  # nobody knows what its sidecar was to say
        return old
    overrides = _overrides(row.overrides)
    if overrides is None:  # of a version that did not write down what sidecars override: keep all that was asked
        fresh = in_use.options(row.path, None)
        return replace(old, prompt=old.prompt or fresh.prompt, draft=old.draft or fresh.draft)
    return in_use.options(row.path, overrides)


def _overrides(text: str | None) -> dict[str, Any] | None:
    """What a job's sidecars said; None where that is not known, or cannot be read."""
    try:
        values = json.loads(text) if text else None
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _renew(connection: Connection, row: Any, in_use: InUse, *, run_id: int, at: str) -> list[int]:
    options = _options_now(row, in_use)
    key = options.key(in_use.identity.key)
    other = connection.exec_driver_sql(
        OTHER, {"scan_id": row.scan_id, "options_key": key, "job_id": row.id}
    ).one_or_none()
    if other is not None:
        in_use.joined(other.id)
        return _join(connection, row, other, run_id=run_id, at=at)
    columns = in_use.identity.columns() | {"job_id": row.id, "options": options.to_json(), "options_key": key}
    one_by_one(connection, RENEW, [columns | {"profile": options.profile, "threshold": options.threshold}])
    detail = _change(identity_of(row), in_use.identity) | _changed_options(unreadable.options(row.options), options)
    _note(connection, row.id, "renewed", detail, run_id=run_id, at=at)
    return []


def _join(connection: Connection, row: Any, other: Any, *, run_id: int, at: str) -> list[int]:
    """Two jobs turn out to be one: the names of the first get the results of the other."""
    state = State(other.state)
    found = connection.exec_driver_sql(ARRIVALS, {"job_id": row.id}).fetchall()
    paths = set(connection.exec_driver_sql("SELECT path FROM arrival WHERE job_id = ?", (other.id,)).scalars())
    moved = []
    for arrival in found:
        shown = arrival.path in paths and not arrival.has_results
        moved.append({"id": arrival.id, "into": other.id, "delivery": _delivery(state, same_name=shown)})
        paths.add(arrival.path)
    one_by_one(connection, JOIN_ARRIVAL, moved)
    values = {"into": other.id, "job_id": row.id, "priority": row.priority}
    for statement in JOIN:
        connection.exec_driver_sql(statement, values)
    _note(connection, row.id, "joined", {"into": other.id}, run_id=run_id, at=at)
    _note(connection, other.id, "joined", {"job": row.id, "source": row.source}, run_id=run_id, at=at)
    may_pass = state is State.FAILED and ErrorClass(other.error_class) in MAY_PASS
    return [other.id] if state is State.CANCELLED or may_pass else []


def _delivery(state: State, *, same_name: bool) -> str:
    """Where the result of a name is that now waits for a job in this state."""
    if state in OPEN:
        return "waiting"
    return "none" if same_name else "due"


HANDED_OVER = """
SELECT job.id, job.scan_id, job.source, job.options, job.overrides, job.priority, job.segmenter, job.model,
    job.model_revision, job.dtype, arrival.path
FROM job JOIN arrival ON arrival.id = job.arrival_id WHERE job.id = :job_id AND job.state = 'queued'
"""


def waiting(connection: Connection, job_ids: Sequence[int]) -> set[int]:
    """Which of these jobs are in the queue."""
    return {
        row.id
        for row in select_in(connection, "SELECT id FROM job WHERE state = 'queued' AND id IN ({values})", job_ids)
    }


def hand_over(
    connection: Connection,
    job_ids: Iterable[int],
    options: Callable[[bytes], Options],
    *,
    meant: ModelIdentity,
    now: datetime,
) -> list[int]:
    """Queued jobs are for another model from now on, by a person's wish; those of them that were queued.

    ``options``: what a scan at this path is done with by that model; what its sidecar overrode besides the model stays.
    ``meant``: that model as far as it is known without being loaded. The job gets its true identity when its turn comes
    (`renew`), and with it, if that model has done the same bytes already, the result that is there. Until then its key
    is one that nobody shares.
    """
    return [job_id for job_id in job_ids if _handed_over(connection, job_id, options, meant, stamp(now))]


def _handed_over(
    connection: Connection, job_id: int, options: Callable[[bytes], Options], meant: ModelIdentity, at: str
) -> bool:
    row = connection.exec_driver_sql(HANDED_OVER, {"job_id": job_id}).one_or_none()
    if row is None:
        return False
    old = unreadable.options(row.options)
    overrides = {key: value for key, value in (_overrides(row.overrides) or {}).items() if key != "model"}
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()
    }
    fresh = options(row.path)
    new = replace(fresh, **values, frame=old.frame, pictures=old.pictures, refused=old.refused)
    columns = meant.columns() | {"job_id": job_id, "options": new.to_json()}
    columns |= {"options_key": apart(new.key(meant.key), job_id)}
    one_by_one(connection, RENEW, [columns | {"profile": new.profile, "threshold": new.threshold}])
    connection.exec_driver_sql("UPDATE job SET overrides = ? WHERE id = ?", (json.dumps(overrides), job_id))
    detail = {"model": [old.model, new.model]}
    one_by_one(
        connection,
        "INSERT INTO event (at, job_id, kind, detail) VALUES (:at, :job_id, 'handed-over', :detail)",
        [{"at": at, "job_id": job_id, "detail": json.dumps(detail)}],
    )
    return True


def correct(connection: Connection, job_id: int, measured: Measured, *, run_id: int, now: datetime) -> None:
    """Another model than the job's has computed its result, or from another picture: so the record says.

    The first happens when a replica comes back with other weights between the claim and the result; the second to jobs
    of an older version, for a picture is always made by the version that runs. If another job of these bytes has the
    key already, this one stands by itself, and shares nothing.
    """
    row = connection.exec_driver_sql("SELECT * FROM job WHERE id = ?", (job_id,)).one()
    computed_by = measured.computed_by or identity_of(row)
    old = unreadable.options(row.options)
    options = old if measured.pictures is None else old.for_picture(measured.pictures)
    key = options.key(computed_by.key)
    taken = connection.exec_driver_sql(
        OTHER, {"scan_id": row.scan_id, "options_key": key, "job_id": job_id}
    ).one_or_none()
    text = row.options if options == old else options.to_json()
    own = {"job_id": job_id, "options": text, "options_key": apart(key, job_id) if taken else key}
    one_by_one(connection, CORRECT, [computed_by.columns() | own])
    detail = _change(identity_of(row), computed_by) | _changed_options(old, options)
    _note(connection, job_id, "corrected", detail, run_id=run_id, at=stamp(now))


def apart(key: str, job_id: int) -> str:
    """The key of a job that nobody shares, although its bytes, options and model are those of another."""
    return f"{key}-{job_id}"


def current(connection: Connection, job_id: int) -> int:
    """The job that a number stands for by now: its own, or that of the one that it was joined with."""
    sql = (
        "SELECT json_extract(detail, '$.into') FROM event WHERE job_id = ? AND kind = 'joined' "
        "AND json_extract(detail, '$.into') IS NOT NULL AND NOT EXISTS (SELECT 1 FROM job WHERE job.id = event.job_id)"
    )
    while (into := connection.exec_driver_sql(sql, (job_id,)).scalar()) is not None:
        job_id = int(into)
    return job_id


def _change(old: ModelIdentity, new: ModelIdentity) -> dict[str, Any]:
    return {"from": old.columns(), "to": new.columns()}


def _changed_options(old: Options, new: Options) -> dict[str, Any]:
    """What else is different, by name; empty when nothing is."""
    before, after = json.loads(old.to_json()), json.loads(new.to_json())
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changed = {name: [before.get(name), after.get(name)] for name in names}
    return {"options": changed} if changed else {}


def _note(connection: Connection, job_id: int, kind: str, detail: Mapping[str, Any], *, run_id: int, at: str) -> None:
    values = {"at": at, "job_id": job_id, "kind": kind, "run_id": run_id, "detail": json.dumps(detail)}
    one_by_one(connection, EVENT, [values])
