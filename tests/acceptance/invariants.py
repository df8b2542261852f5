"""Add up inbox, spool, database, outbox and archive: what must hold at any moment, and what must hold at rest.

Each function returns sentences about what is wrong, so that a failing test says everything at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tests.acceptance.histories import check_history
from watcherd.file_names import show, unshow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.service import Service


def check_invariants(service: Service) -> list[str]:
    """What is wrong after all work is done. Reads everything anew from the disk."""
    with closing(_open(service)) as connection:
        return [
            *_always(service, connection),
            *_nothing_is_open(connection),
            *_spool_is_tidy(service, connection),
            *_each_name_has_one_result(service, connection),
            *_each_job_was_done_once(service, connection),
            *_sources_are_gone(service, connection),
        ]


def check_at_any_moment(service: Service) -> list[str]:
    """What is wrong at a moment at which the daemon was killed."""
    if not service.database.exists():
        return _nothing_is_lost(service)
    with closing(_open(service)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'output'").fetchone():
            return _nothing_is_lost(service)
        return _always(service, connection)


def _open(service: Service) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{service.database}?mode=ro", uri=True, timeout=30)
    connection.row_factory = sqlite3.Row
    return connection


def _always(service: Service, connection: sqlite3.Connection) -> list[str]:
    check = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return [
        *([] if check == "ok" else [f"the database says {check}"]),
        *_nothing_is_lost(service),
        *_committed_scans_have_their_copy(service, connection),
        *_what_is_visible_is_whole_and_ours(service, connection),
        *_documents_are_true(service),
        *_every_arrival_has_a_fate(connection),
        *check_history(connection),
    ]


def _nothing_is_lost(service: Service) -> list[str]:
    """Every dropped file's bytes are in the inbox, the spool or the archive, unless sources are to be deleted."""
    if '"delete"' in service.config.read_text():
        return []
    kept = {digest for _, digest in _files(service.inbox, service.state / "spool", service.archive)}
    return [f"{show(scan.path)}: its bytes are nowhere" for scan in service.dropped if scan.sha256 not in kept]


def _committed_scans_have_their_copy(service: Service, connection: sqlite3.Connection) -> list[str]:
    problems = []
    for row in connection.execute("SELECT sha256, spool_name FROM scan WHERE spool_name IS NOT NULL"):
        path = service.state / "spool" / row["spool_name"][:2] / row["spool_name"]
        if not path.exists():
            problems.append(f"scan {row['sha256'][:8]}: its copy is not in the spool")
        elif _digest(path) != row["sha256"]:
            problems.append(f"scan {row['sha256'][:8]}: its copy holds other bytes")
    return problems


def _what_is_visible_is_whole_and_ours(service: Service, connection: sqlite3.Connection) -> list[str]:
    """Each visible file of the outbox was promised, and has the promised bytes."""
    promised = {bytes(row["path"]): row["sha256"] for row in _outputs(connection, "intended", "delivered")}
    problems = []
    for path, digest in _files(service.outbox):
        final = os.fsencode(path.relative_to(service.outbox))
        if final.startswith(b".staging/") or final == b".watcherd-owner":
            continue
        if final not in promised:
            problems.append(f"{show(final)}: lies in the outbox, and no row knows of it")
        elif promised[final] != digest:
            problems.append(f"{show(final)}: holds other bytes than were promised")
    return problems


def _documents_are_true(service: Service) -> list[str]:
    """Where a result's JSON is visible, so is every file that it lists, with the hash that it says."""
    problems = []
    for path, document in documents(service):
        for output in document["outputs"]:
            target = _below(service.outbox, unshow(output["path"]))
            if not target.exists() or _digest(target) != output["sha256"]:
                problems.append(f"{path.name}: lists {output['path']}, which is not there or differs")
        folder = _model_of(service, path)
        if folder not in ("", document["model_name"]):
            problems.append(f"{path.name}: is of the model {document['model_name']}, and in the folder of {folder}")
    return problems


def _model_of(service: Service, path: Path) -> str:
    """The model in whose folder a result lies; empty for the usual paths."""
    top, model, *_ = (*path.relative_to(service.outbox).parts, "")
    is_models = top == "models" and (model == "default" or f"[models.{model}]" in service.config.read_text())
    return model if is_models else ""


def _every_arrival_has_a_fate(connection: sqlite3.Connection) -> list[str]:
    """A taken arrival has a job; the totals that `fates` reads agree with the rows."""
    problems = [
        f"arrival {row['id']} is {row['fate']} and has no job"
        for row in connection.execute(
            "SELECT id, fate FROM arrival WHERE fate IN ('queued', 'duplicate') AND job_id IS NULL"
        )
    ]
    counted = {f"arrival.{row['fate']}": row["n"] for row in _grouped(connection, "arrival", "fate")}
    counted |= {f"job.{row['state']}": row["n"] for row in _grouped(connection, "job", "state")}
    totals = {row["name"]: row["count"] for row in connection.execute("SELECT name, count FROM total WHERE count <> 0")}
    totals = {name: count for name, count in totals.items() if name.startswith(("arrival.", "job."))}
    return problems if totals == counted else [*problems, f"the totals say {totals}, the rows {counted}"]


def _grouped(connection: sqlite3.Connection, table: str, column: str) -> list[sqlite3.Row]:
    return connection.execute(f"SELECT {column}, count(*) AS n FROM {table} GROUP BY {column}").fetchall()  # noqa: S608


# ------------------------------------------------------------------------------------------------------------ at rest


def _nothing_is_open(connection: sqlite3.Connection) -> list[str]:
    jobs = connection.execute("SELECT id, state FROM job WHERE state IN ('queued', 'running', 'delivering')")
    waiting = connection.execute("SELECT id FROM arrival WHERE delivery IN ('waiting', 'due', 'intended')")
    promised = connection.execute("SELECT path_text FROM output WHERE state = 'intended'")
    return [
        *(f"job {row['id']} is still {row['state']}" for row in jobs),
        *(f"arrival {row['id']} still waits for its result" for row in waiting),
        *(f"{row['path_text']} is promised and not delivered" for row in promised),
    ]


def _spool_is_tidy(service: Service, connection: sqlite3.Connection) -> list[str]:
    known = {row["spool_name"] for row in connection.execute("SELECT spool_name FROM scan")}
    spool = service.state / "spool"
    leftovers = [path for path, _ in _files(spool) if path.parent.name == "tmp" or path.name not in known]
    staging = service.outbox / ".staging"
    staged = list(staging.iterdir()) if staging.exists() else []
    return [f"{path.relative_to(service.folder)} was left behind" for path in (*leftovers, *staged)]


def _each_name_has_one_result(service: Service, connection: sqlite3.Connection) -> list[str]:
    """For each name, scan and model one JSON where it succeeded, for each name and model that failed one note, and no
    others."""
    wanted: Counter[tuple[str, str, str]] = Counter()
    for scan in set(service.dropped):
        states: dict[str, set[str]] = {}
        places: dict[str, str] = {}
        for row in connection.execute(
            "SELECT job.state, job.model_name, arrival.file_of FROM arrival JOIN job ON job.id = arrival.job_id "
            "JOIN scan ON scan.id = job.scan_id WHERE arrival.path = ? AND scan.sha256 = ?",
            (scan.path, scan.sha256),
        ):
            states.setdefault(row["model_name"], set()).add(row["state"])
            places[row["model_name"]] = "" if row["file_of"] is None else row["model_name"]
        if not states:
            wanted[show(scan.path), "an arrival", ""] += 1
        for model, ended in states.items():
            if "succeeded" in ended:
                wanted[show(scan.path), scan.sha256, model] += 1
            else:
                wanted[show(scan.path), "note", places[model]] = 1
    found = Counter(
        (document["source"], document["sha256"], document["model_name"]) for _, document in documents(service)
    )
    found += Counter((source, "note", model) for source, model in _notes(service))
    return [
        *(f"{source}: has no result ({what[:8]} {model})" for source, what, model in (wanted - found)),
        *(f"{source}: has one result too many ({what[:8]} {model})" for source, what, model in (found - wanted)),
    ]


def _each_job_was_done_once(service: Service, connection: sqlite3.Connection) -> list[str]:
    """One job for the same bytes and options, one successful attempt for a job, and its results as recorded."""
    problems = [
        f"job {row['id']} was done {row['n']} times"
        for row in connection.execute(
            "SELECT job_id AS id, count(*) AS n FROM attempt WHERE outcome = 'succeeded' GROUP BY job_id HAVING n > 1"
        )
    ]
    for row in _outputs(connection, "delivered"):
        path = _below(service.outbox, row["path"])
        if not path.exists():
            problems.append(f"{row['path_text']}: is recorded as delivered, and is not there")
    return problems


def _sources_are_gone(service: Service, connection: sqlite3.Connection) -> list[str]:
    problems = [
        f"arrival {row['id']}: its source is still to be disposed of"
        for row in connection.execute("SELECT id FROM arrival WHERE disposal = 'pending'")
    ]
    for row in connection.execute(
        "SELECT arrival.id, disposed_path, sha256 FROM arrival JOIN job ON job.id = arrival.job_id "
        "JOIN scan ON scan.id = job.scan_id WHERE disposal = 'archived'"
    ):
        path = _below(service.archive, row["disposed_path"])
        if not path.exists() or _digest(path) != row["sha256"]:
            problems.append(f"arrival {row['id']}: {show(row['disposed_path'])} is not in the archive")
    hidden = [path for path, _ in _files(service.inbox, service.archive) if path.name.startswith(".watcherd-")]
    return [*problems, *(f"{path.relative_to(service.folder)} was left behind" for path in hidden)]


# ------------------------------------------------------------------------------------------------------------ reading


def documents(service: Service) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The visible JSON results, each of them whole; with a folder for each scan they are in these."""
    whole = '"per-scan"' in service.config.read_text()
    beside = sorted(service.outbox.glob("models/*/results"))
    for path, _ in _files(*([service.outbox] if whole else [service.outbox / "results", *beside])):
        if not whole or (path.name == "result.json" and ".staging" not in path.parts):
            yield path, json.loads(path.read_text())


def notes(service: Service) -> list[str]:
    """The sources that visible notes are about."""
    return [source for source, _ in _notes(service)]


def _notes(service: Service) -> list[tuple[str, str]]:
    """The same, each with the model in whose folder it lies."""
    return [
        (line.removeprefix("scan:     "), _model_of(service, path))
        for path, _ in _files(service.outbox / "failed", *sorted(service.outbox.glob("models/*/failed")))
        for line in path.read_text().splitlines()
        if line.startswith("scan:     ")
    ]


def _outputs(connection: sqlite3.Connection, *states: str) -> list[sqlite3.Row]:
    wanted = ", ".join(f"'{state}'" for state in states)
    return connection.execute(f"SELECT path, path_text, sha256 FROM output WHERE state IN ({wanted})").fetchall()  # noqa: S608


def _files(*folders: Path) -> Iterator[tuple[Path, str]]:
    """Every regular file below the folders, with its SHA-256."""
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.exists() else ():
            if path.is_file() and not path.is_symlink():
                yield path, _digest(path)


def _below(folder: Path, path: bytes) -> Path:
    return folder / os.fsdecode(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
