"""Arrivals: what was seen in the inbox, and what became of it.

At any time one row at most is the present file of a path (``present = 1``); earlier files of that path keep their
rows. `known` answers the sweep's question, which of these files have been dealt with, from that index alone. A file
that several models compute has a row for each: the first one's is that of the file, the others are names for results.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from watcherd.file_names import show
from watcherd.job import MAY_PASS, ErrorClass, Fate, Options, State
from watcherd.store import queue, unreadable
from watcherd.store.records import (
    Disposal,
    Enqueued,
    ForModel,
    Identity,
    ModelIdentity,
    NewArrival,
    PathSignature,
    stamp,
)
from watcherd.store.statements import last_id, one_by_one, select_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

PRESENT = """
SELECT id, path, size_bytes, mtime_ns, device, inode, ctime_ns, fate, job_id FROM arrival
WHERE present = 1 AND path IN ({values})
"""

REPLACED = """
UPDATE arrival SET present = 0, disposal = CASE disposal WHEN 'pending' THEN 'changed' ELSE disposal END,
    disposed_at = coalesce(disposed_at, :now)
WHERE id = :id
"""
"""Other bytes lie at the path now. What was taken is in the spool; there is nothing left to dispose of."""

INGEST = """
INSERT INTO arrival (id, run_id, path, path_text, fate, reason, seen_at, ingested_at, size_bytes, mtime_ns, device,
                     inode, ctime_ns, job_id, duplicate_of, delivery, disposal, present, file_of)
VALUES (:id, :run_id, :path, :path_text, :fate, :reason, :seen_at, :now, :size_bytes, :mtime_ns, :device, :inode,
        :ctime_ns, :job_id, :duplicate_of, :delivery, :disposal, :present, :file_of)
"""

NOTICE = """
INSERT INTO arrival (run_id, path, path_text, fate, reason, seen_at, size_bytes, mtime_ns, device, inode, ctime_ns)
VALUES (:run_id, :path, :path_text, :fate, :reason, :now, :size_bytes, :mtime_ns, :device, :inode,
        :ctime_ns)
"""

NOTICE_AGAIN = """
UPDATE arrival SET fate = :fate, reason = :reason, size_bytes = :size_bytes, mtime_ns = :mtime_ns, device = :device,
    inode = :inode, ctime_ns = :ctime_ns
WHERE id = :id
"""

DISPOSED = """
UPDATE arrival SET disposal = :disposal, disposed_at = :now, disposed_path = :path,
    present = :disposal IN ('kept', 'failed')
WHERE id = :id AND disposal = 'pending'
"""


SIDECAR = "gives options to its scan"
"""The reason that stands with a sidecar that was followed; it leaves the inbox with its scan."""

SIDECARS = f"""
SELECT id, path, size_bytes, mtime_ns, device, inode, ctime_ns FROM arrival
WHERE present = 1 AND fate = 'ignored' AND reason = '{SIDECAR}' AND path IN ({{values}})
"""  # noqa: S608 - a constant of this module

SIDECAR_DISPOSED = """
UPDATE arrival SET disposal = :disposal, disposed_at = :now, disposed_path = :path, present = 0 WHERE id = :id
"""


EARLIER = (
    "this version of watcherd reads such files in another way than the one that made an earlier result of this scan "
    "(job {}): the picture may be another"
)
"""What is said of a scan that is done anew for its picture."""

NO_OTHERS: Mapping[str, ModelIdentity] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """A job as far as a new arrival of its scan needs to know it."""

    id: int
    state: State
    error_class: ErrorClass | None


@dataclass(kw_only=True, slots=True)
class _Batch:
    """What an `enqueue` knows and has to write, before it writes it.

    ``seen``: the jobs of each scan that have succeeded, with the picture that their model saw.
    """

    run_id: int
    model: ModelIdentity
    named: Mapping[str, ModelIdentity]
    at: str
    now: datetime
    taken: dict[Identity, Any]
    scans: dict[str, int]
    jobs: dict[tuple[int, str], _Job]
    names: dict[int, set[bytes]]
    seen: dict[int, list[tuple[int, int]]]
    next_arrival: int
    next_scan: int
    next_job: int
    keys: dict[Options, tuple[str, str]] = field(default_factory=dict)
    scan_rows: list[dict[str, Any]] = field(default_factory=list)
    job_rows: list[dict[str, Any]] = field(default_factory=list)
    arrival_rows: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    replaced_rows: list[dict[str, Any]] = field(default_factory=list)
    beside_rows: list[dict[str, Any]] = field(default_factory=list)
    again: list[int] = field(default_factory=list)

    def identity(self, options: Options) -> ModelIdentity:
        """Of the model that is to do this."""
        return self.named.get(options.model, self.model)


def enqueue(
    connection: Connection,
    arrivals: Sequence[NewArrival],
    *,
    model: ModelIdentity,
    named: Mapping[str, ModelIdentity] = NO_OTHERS,
    run_id: int,
    now: datetime,
) -> list[Enqueued]:
    """Make jobs for files that lie in the spool, one for each model that is to compute them; one result for each file,
    in order.

    ``model``: which one they are for; ``named``: of those whose options name another, by its name.

    The same bytes with the same options and model are one job: the later arrival is its duplicate. A job that had
    failed with something that may pass, or had been cancelled, is asked for again. A file that was taken before (the
    same path and signature) changes nothing, so an ingest that was cut short may simply be repeated.
    """
    batch = _prepare(connection, arrivals, model=model, named=named, run_id=run_id, now=now)
    results = [_decide(batch, arrival) for arrival in arrivals]
    one_by_one(
        connection,
        "INSERT INTO scan (id, sha256, size_bytes, spool_name) VALUES (:id, :sha256, :size_bytes, :spool_name) "
        "ON CONFLICT (sha256) DO UPDATE SET spool_name = excluded.spool_name",
        batch.scan_rows,
    )
    queue.add(connection, batch.job_rows)
    one_by_one(connection, INGEST, [*batch.replaced_rows, *batch.arrival_rows.values(), *batch.beside_rows])
    queue.ask_again(connection, batch.again, now=now)
    return results


def _prepare(
    connection: Connection,
    arrivals: Sequence[NewArrival],
    *,
    model: ModelIdentity,
    named: Mapping[str, ModelIdentity],
    run_id: int,
    now: datetime,
) -> _Batch:
    taken = _make_room(connection, {arrival.signature for arrival in arrivals}, now)
    hashes = list({arrival.sha256 for arrival in arrivals})
    scans = {
        row.sha256: row.id
        for row in select_in(connection, "SELECT id, sha256 FROM scan WHERE sha256 IN ({values})", hashes)
    }
    jobs = select_in(
        connection,
        "SELECT id, scan_id, options, options_key, state, error_class FROM job WHERE scan_id IN ({values})",
        list(scans.values()),
    )
    names: dict[int, set[bytes]] = {}
    dropped = "SELECT job_id, path FROM arrival WHERE job_id IN ({values})"
    for row in select_in(connection, dropped, [row.id for row in jobs]):
        names.setdefault(row.job_id, set()).add(row.path)
    seen: dict[int, list[tuple[int, int]]] = {}
    for row in jobs:
        if row.state == State.SUCCEEDED:
            seen.setdefault(row.scan_id, []).append((row.id, unreadable.options(row.options).pictures))
    return _Batch(
        run_id=run_id,
        model=model,
        named=named,
        at=stamp(now),
        now=now,
        taken=taken,
        scans=scans,
        jobs={
            (row.scan_id, row.options_key): _Job(
                id=row.id,
                state=State(row.state),
                error_class=ErrorClass(row.error_class) if row.error_class else None,
            )
            for row in jobs
        },
        names=names,
        seen=seen,
        next_arrival=last_id(connection, "arrival") + 1,
        next_scan=(connection.exec_driver_sql("SELECT max(id) FROM scan").scalar() or 0) + 1,
        next_job=last_id(connection, "job") + 1,
    )


def _make_room(connection: Connection, signatures: set[PathSignature], now: datetime) -> dict[Identity, Any]:
    """Rows of files that are taken already, by signature; other rows of these paths stop being the present file."""
    wanted = {signature.identity() for signature in signatures}
    taken: dict[Identity, Any] = {}
    replaced, unsettled = [], []
    for row in _present(connection, [signature.path for signature in signatures]):
        if row.fate in (Fate.SETTLING, Fate.IGNORED):
            unsettled.append({"id": row.id})
        elif (identity := PathSignature.of(row).identity()) in wanted:
            taken[identity] = row
        else:
            replaced.append({"id": row.id, "now": stamp(now)})
    one_by_one(connection, REPLACED, replaced)
    one_by_one(connection, "DELETE FROM arrival WHERE id = :id", unsettled)
    return taken


def _decide(batch: _Batch, arrival: NewArrival) -> Enqueued:
    if (row := batch.taken.get(arrival.signature.identity())) is not None:
        return Enqueued(arrival_id=row.id, job_id=row.job_id, duplicate=row.fate == Fate.DUPLICATE, known=True)
    scan_id = _scan(batch, arrival)
    first = _for_a_model(batch, arrival, scan_id, ForModel(options=arrival.options, not_before=arrival.not_before))
    if not arrival.beside:
        return first
    others = [_for_a_model(batch, arrival, scan_id, asked, file_of=first.arrival_id) for asked in arrival.beside]
    return replace(first, beside=tuple(others))


def _for_a_model(
    batch: _Batch, arrival: NewArrival, scan_id: int, asked: ForModel, *, file_of: int | None = None
) -> Enqueued:
    """What one model is to do with the file: a job of its own, or a share in one that is there.

    ``file_of``: the arrival that has the file, unless it is this one.
    """
    _, key = _options(batch, asked.options)
    arrival_id = batch.next_arrival
    batch.next_arrival += 1
    note = _note(batch, arrival, asked.options, scan_id)
    job = batch.jobs.get((scan_id, key))
    if job is None:
        job = _new_job(batch, arrival, arrival_id, scan_id, asked)
        _add_arrival(batch, arrival, arrival_id, job, Fate.QUEUED, note, file_of)
        return Enqueued(arrival_id=arrival_id, job_id=job.id)
    again = job.state is State.CANCELLED or (job.state is State.FAILED and job.error_class in MAY_PASS)
    if again:
        batch.again.append(job.id)
        batch.jobs[scan_id, key] = job = _Job(id=job.id, state=State.QUEUED, error_class=None)
    _add_arrival(batch, arrival, arrival_id, job, Fate.DUPLICATE, note, file_of)
    return Enqueued(arrival_id=arrival_id, job_id=job.id, duplicate=True, asked_again=again)


def _scan(batch: _Batch, arrival: NewArrival) -> int:
    scan_id = batch.scans.get(arrival.sha256)
    if scan_id is None:
        scan_id = batch.scans[arrival.sha256] = batch.next_scan
        batch.next_scan += 1
    batch.scan_rows.append(
        {
            "id": scan_id,
            "sha256": arrival.sha256,
            "size_bytes": arrival.signature.size_bytes,
            "spool_name": arrival.spool_name,
        }
    )
    return scan_id


def _options(batch: _Batch, options: Options) -> tuple[str, str]:
    """The options as text and as a key; they are the same for nearly all of a batch."""
    if options not in batch.keys:
        batch.keys[options] = (options.to_json(), options.key(batch.identity(options).key))
    return batch.keys[options]


def _new_job(batch: _Batch, arrival: NewArrival, arrival_id: int, scan_id: int, asked: ForModel) -> _Job:
    text, key = _options(batch, asked.options)
    job = _Job(id=batch.next_job, state=State.QUEUED, error_class=None)
    batch.next_job += 1
    batch.jobs[scan_id, key] = job
    batch.job_rows.append(
        {
            "job_id": job.id,
            "scan_id": scan_id,
            "arrival_id": arrival_id,
            "source": show(arrival.signature.path),
            "profile": asked.options.profile,
            "options": text,
            "options_key": key,
            "overrides": arrival.overrides,
            **batch.identity(asked.options).columns(),
            "threshold": asked.options.threshold,
            "not_before": stamp(asked.not_before) if asked.not_before else None,
            "now": batch.at,
        }
    )
    return job


def _note(batch: _Batch, arrival: NewArrival, options: Options, scan_id: int) -> str:
    """What the record says beside, with a word of earlier results that a model has made of another picture."""
    own = options.pictures
    others = [job_id for job_id, pictures in batch.seen.get(scan_id, ()) if pictures != own]
    return "; ".join(filter(None, (arrival.note, EARLIER.format(max(others)) if own and others else "")))


def _add_arrival(
    batch: _Batch, arrival: NewArrival, arrival_id: int, job: _Job, fate: Fate, note: str, file_of: int | None
) -> None:
    path = arrival.signature.path
    names = batch.names.setdefault(job.id, set())
    row = {
        "id": arrival_id,
        **arrival.signature.columns(),
        "run_id": batch.run_id,
        "path_text": show(path),
        "fate": fate.value,
        "reason": note or None,
        "seen_at": stamp(arrival.seen_at),
        "now": batch.at,
        "job_id": job.id,
        "duplicate_of": job.id if fate is Fate.DUPLICATE else None,
        "delivery": _delivery(job.state, same_name=path in names),
        "disposal": "pending" if file_of is None else None,
        "present": file_of is None,
        "file_of": file_of,
    }
    names.add(path)
    if file_of is not None:
        batch.beside_rows.append(row)
        return
    if (earlier := batch.arrival_rows.get(path)) is not None:  # the file was overwritten within this very batch
        batch.replaced_rows.append(earlier | {"present": 0, "disposal": "changed"})
    batch.arrival_rows[path] = row
    batch.taken[arrival.signature.identity()] = _Taken(id=arrival_id, job_id=job.id, fate=fate)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    """An arrival of this very batch, as `_decide` looks at a row."""

    id: int
    job_id: int
    fate: Fate


def _delivery(state: State, *, same_name: bool) -> str:
    if state in (State.QUEUED, State.RUNNING, State.DELIVERING):
        return "waiting"
    return "none" if same_name else "due"


def _present(connection: Connection, paths: Sequence[bytes]) -> list[Any]:
    return select_in(connection, PRESENT, paths)


def known(connection: Connection, signatures: Sequence[PathSignature]) -> set[PathSignature]:
    """Which of these files in the inbox have been dealt with: taken, or found to be no scans and not touched since."""
    present = {row.path: row for row in _present(connection, [signature.path for signature in signatures])}
    return {found for found in signatures if (row := present.get(found.path)) is not None and _is_known(row, found)}


def _is_known(row: Any, found: PathSignature) -> bool:
    seen = PathSignature.of(row)
    # Some FUSE file systems number a file anew now and then: one whose ctime is the same has not been touched.
    untouched = 0 < seen.ctime_ns == found.ctime_ns
    same = untouched and (seen.size_bytes, seen.mtime_ns) == (found.size_bytes, found.mtime_ns)
    if row.fate == Fate.SETTLING or not (same or seen.identity() == found.identity()):
        return False
    return bool(row.fate != Fate.IGNORED or row.ctime_ns == found.ctime_ns)


def taken(connection: Connection, paths: Sequence[bytes]) -> set[bytes]:
    """At which of these paths lies a file that was taken and has not left the inbox."""
    return {row.path for row in _present(connection, paths) if row.job_id is not None}


def sidecars(connection: Connection, paths: Sequence[bytes]) -> dict[bytes, tuple[int, PathSignature]]:
    """Which of these files in the inbox were followed as sidecars: the arrival's number and the file, by path."""
    return {row.path: (row.id, PathSignature.of(row)) for row in select_in(connection, SIDECARS, paths)}


def settling(connection: Connection, files: Iterable[tuple[PathSignature, str]], *, run_id: int, now: datetime) -> None:
    """These files are not complete yet; each with the reason."""
    _notice(connection, files, Fate.SETTLING, run_id, now)


def ignored(connection: Connection, files: Iterable[tuple[PathSignature, str]], *, run_id: int, now: datetime) -> None:
    """These are no scans; each with the reason."""
    _notice(connection, files, Fate.IGNORED, run_id, now)


def _notice(
    connection: Connection, files: Iterable[tuple[PathSignature, str]], fate: Fate, run_id: int, now: datetime
) -> None:
    reasons = dict(files)
    present = {row.path: row for row in _present(connection, [signature.path for signature in reasons])}
    new, again, replaced = [], [], []
    for signature, reason in reasons.items():
        row = present.get(signature.path)
        values = _noticed(signature, reason, fate, run_id, now)
        if row is None:
            new.append(values)
        elif row.fate in (Fate.SETTLING, Fate.IGNORED):
            again.append(values | {"id": row.id})
        elif PathSignature.of(row).identity() != signature.identity():
            replaced.append({"id": row.id, "now": stamp(now)})
            new.append(values)
    one_by_one(connection, REPLACED, replaced)
    one_by_one(connection, NOTICE, new)
    one_by_one(connection, NOTICE_AGAIN, again)


def _noticed(signature: PathSignature, reason: str, fate: Fate, run_id: int, now: datetime) -> dict[str, Any]:
    return {
        **signature.columns(),
        "run_id": run_id,
        "path_text": show(signature.path),
        "fate": fate.value,
        "reason": reason,
        "now": stamp(now),
    }


def vanished(connection: Connection, paths: Sequence[bytes], *, now: datetime) -> None:
    """Nothing lies at these paths any more, and it was not the daemon that took it away."""
    rows = [{"id": row.id, "fate": row.fate, "now": stamp(now)} for row in _present(connection, paths)]
    one_by_one(
        connection,
        "UPDATE arrival SET fate = 'ignored', reason = 'it went away before it was complete' "
        "WHERE id = :id AND fate = 'settling'",
        rows,
    )
    one_by_one(
        connection,
        "UPDATE arrival SET present = 0, disposed_at = coalesce(disposed_at, :now), "
        "disposal = CASE disposal WHEN 'pending' THEN 'gone' ELSE disposal END WHERE id = :id",
        rows,
    )


def record_disposal(
    connection: Connection, disposed: Iterable[tuple[int, Disposal, bytes | None]], *, now: datetime
) -> None:
    """What was done with arrivals' files: id, how, and the path in the archive.

    Whoever was first is right: an arrival that was disposed of already is left alone.
    """
    rows = [{"id": i, "disposal": how, "path": path, "now": stamp(now)} for i, how, path in disposed]
    one_by_one(connection, DISPOSED, rows)


def record_sidecars(
    connection: Connection, disposed: Iterable[tuple[int, Disposal, bytes | None]], *, now: datetime
) -> None:
    """These sidecars have left the inbox with their scans: number of the arrival, how, and the path in the archive."""
    rows = [{"id": i, "disposal": how, "path": path, "now": stamp(now)} for i, how, path in disposed]
    one_by_one(connection, SIDECAR_DISPOSED, rows)


def present_after(connection: Connection, path: bytes, limit: int) -> list[PathSignature]:
    """Files that are believed to lie in the inbox, in order of path, from behind ``path`` on: to be looked for."""
    rows = connection.exec_driver_sql(
        "SELECT path, size_bytes, mtime_ns, device, inode, ctime_ns FROM arrival WHERE present = 1 AND path > ? "
        "ORDER BY path LIMIT ?",
        (path, limit),
    )
    return [PathSignature.of(row) for row in rows]
