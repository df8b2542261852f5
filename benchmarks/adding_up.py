"""Add up what was dropped, what the database says and what lies on the disk, by nothing but sqlite3 and the files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.acceptance.histories import check_history
from watcherd.file_names import show, unshow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.running import Running

SAMPLE = 1000
"""So many names are looked at closely: hashes of source and results, size and values of the mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A file that came into the inbox. ``name``: its path below it. ``content``: the number of its bytes."""

    name: Path
    content: int


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table; ``allowed``: the most that keeps the promise, None where nothing is promised."""

    what: str
    value: float
    allowed: float | None = None
    examples: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.allowed is None or self.value <= self.allowed


def add_up(running: Running, dropped: Sequence[Dropped], content: Callable[[int], bytes]) -> list[Check]:
    """Every promise about what was dropped, as a number that must be 0. The daemon must have stopped."""
    documents = list(_documents(running.outbox / "results"))
    found = Counter(document["source"] for document in documents if document)
    found += Counter(_noted(running.outbox / "failed"))
    wanted = Counter(_shown(file.name) for file in dropped)
    return [
        *_from_the_database(running, dropped),
        _none("lost: names without result and without note", list((wanted - found).elements())),
        _none("duplicate results: names with more than one", list((found - wanted).elements())),
        _none("half-written: documents that cannot be read", ["" for document in documents if not document]),
        _none("half-written: results that no document lists", _unlisted(running.outbox, documents)),
        _none("left behind: staged, temporary or spooled files", list(_leftovers(running))),
        _none("still in the inbox", [_shown(name) for name in _below(running.inbox)]),
        _none("not in the archive", _not_archived(running, dropped)),
        _none(f"wrong bytes among {min(SAMPLE, len(dropped))} names", _wrong(running, dropped, documents, content)),
    ]


def _none(what: str, wrong: Sequence[str]) -> Check:
    return Check(what, len(wrong), allowed=0, examples=wrong)


def _from_the_database(running: Running, dropped: Sequence[Dropped]) -> list[Check]:
    with closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True)) as connection:

        def one(sql: str) -> Any:
            return connection.execute(sql).fetchone()[0]

        jobs = one("SELECT count(*) FROM job")
        distinct = len({file.content for file in dropped})
        delivered = "SELECT job_id FROM attempt WHERE outcome = 'succeeded' GROUP BY job_id HAVING count(*) > 1"
        twice = connection.execute(delivered).fetchall()
        return [
            Check("scans with bytes of their own", distinct),
            Check("attempts", one("SELECT count(*) FROM attempt")),
            Check("jobs that did not succeed", one("SELECT count(*) FROM job WHERE state <> 'succeeded'"), allowed=0),
            Check("jobs too many or too few", abs(jobs - distinct), allowed=0),
            Check(
                "jobs computed and delivered twice",
                len(twice),
                allowed=0,
            ),
            Check("dropped names without an arrival", _unknown(connection, dropped), allowed=0),
            _none("what the history says against itself", check_history(connection)),
            Check("damage that SQLite finds", int(one("PRAGMA integrity_check") != "ok"), allowed=0),
        ]


def _unknown(connection: sqlite3.Connection, dropped: Sequence[Dropped]) -> int:
    known = {
        Path(os.fsdecode(path)) for (path,) in connection.execute("SELECT path FROM arrival WHERE job_id IS NOT NULL")
    }
    return len({file.name for file in dropped} - known)


def _documents(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Every result's JSON; None for one that is not whole."""
    for name in _below(folder):
        try:
            yield json.loads((folder / name).read_bytes())
        except ValueError:
            yield None


def _noted(folder: Path) -> Iterator[str]:
    for name in _below(folder):
        for line in (folder / name).read_text().splitlines():
            if line.startswith("scan:     "):
                yield line.removeprefix("scan:     ")


def _unlisted(outbox: Path, documents: Sequence[dict[str, Any] | None]) -> list[str]:
    """Masks that no document speaks of, and those that are spoken of and are not there."""
    listed = {output["path"] for document in documents if document for output in document["outputs"]}
    lying = {"masks/" + _shown(name) for name in _below(outbox / "masks")}
    return sorted(listed ^ lying)


def _leftovers(running: Running) -> Iterator[str]:
    for folder in (running.outbox / ".staging", running.state / "spool", running.folder / "outside"):
        yield from (f"{folder.name}/{_shown(name)}" for name in _below(folder))
    for folder in (running.inbox, running.archive):
        yield from (_shown(name) for name in _below(folder) if name.name.startswith(".watcherd-"))


def _not_archived(running: Running, dropped: Sequence[Dropped]) -> list[str]:
    lying = set(_below(running.archive))
    return [_shown(file.name) for file in dropped if file.name not in lying]


def _wrong(
    running: Running,
    dropped: Sequence[Dropped],
    documents: Sequence[dict[str, Any] | None],
    content: Callable[[int], bytes],
) -> list[str]:
    """Names whose source, document or mask does not hold what it must."""
    by_source = {document["source"]: document for document in documents if document}
    sample = random.Random(0).sample(dropped, min(SAMPLE, len(dropped)))
    return [
        f"{_shown(file.name)}: {wrong}"
        for file in sample
        if (wrong := _what_is_wrong(running, file, by_source.get(_shown(file.name)), content(file.content)))
    ]


def _what_is_wrong(running: Running, file: Dropped, document: dict[str, Any] | None, data: bytes) -> str:
    archived = running.archive / file.name
    if not archived.exists() or _digest(archived) != hashlib.sha256(data).hexdigest():
        return "the archive holds other bytes"
    if document is None:
        return "no document"
    if document["sha256"] != hashlib.sha256(data).hexdigest():
        return "the document is about other bytes"
    for output in document["outputs"]:
        path = running.outbox / os.fsdecode(unshow(output["path"]))
        if not path.exists() or _digest(path) != output["sha256"]:
            return f"{output['path']} holds other bytes"
        with Image.open(path) as mask, Image.open(io.BytesIO(data)) as scan:
            if mask.size != scan.size:
                return f"{output['path']} is of another size"
    return ""


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, its path relative to it."""
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        yield from (below / name for name in names)


def _shown(name: Path) -> str:
    return show(os.fsencode(name))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
