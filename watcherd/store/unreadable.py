"""Rows that cannot be read as what they should be: text that is no UTF-8, options that are no JSON or hold no text.

Every reader of ours bears them (`connections.readable`, `options`); other programs may not. `found` looks for them, and
`mend` puts something readable in their place.
"""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from watcherd.file_names import storable
from watcherd.job import Options
from watcherd.store.connections import driver_of
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Connection

TEXTS = {
    "job": ("source", "profile", "model", "error", "advice", "answer", "note", "reason"),
    "arrival": ("path_text", "reason"),
    "attempt": ("error",),
    "output": ("path_text",),
    "hook": ("error",),
    "replica": ("model", "end_reason"),
}
"""Columns of text that comes from outside, by table."""

NOT_ASCII = "GLOB '*[^' || char(1) || '-' || char(127) || ']*'"
"""What a text must match to be worth a look: nearly none does, and SQLite sees that by itself."""

DOUBTFUL = """
SELECT id, options FROM job
WHERE CASE WHEN json_valid(options) THEN json_type(options) <> 'object' OR options LIKE '%\\u%' ELSE 1 END
"""
"""Jobs whose options are no JSON object, or have a character in them that is no ASCII."""

TELL = "INSERT INTO event (at, job_id, kind, detail) VALUES (?, ?, 'mended', ?)"

LOST = "The history does not say any more what was asked for: the job's options are no JSON."


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A value that cannot be read. ``content``: what is there, as far as it can be."""

    table: str
    id: int
    column: str
    content: str

    def __str__(self) -> str:
        return f"{self.table} {self.id} ({self.column})"


def options(text: str) -> Options:
    """A job's options. Where they cannot be read, those of a job that is refused: nothing is guessed."""
    try:
        return Options.from_json(text).checked()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Options(refused=LOST)


def found(connection: Connection) -> Iterator[Unreadable]:
    """All of them; looks through the whole history."""
    for row in connection.exec_driver_sql(DOUBTFUL).fetchall():
        asked = options(row.options)
        if asked.refused and asked.to_json() != row.options:
            yield Unreadable(table="job", id=row.id, column="options", content=row.options)
    driver_of(connection).create_function("is_text", 1, _is_text, deterministic=True)
    for table, columns in TEXTS.items():
        for column in columns:
            sql = f"SELECT id, {column} AS content FROM {table} WHERE {column} {NOT_ASCII}"
            for row in connection.exec_driver_sql(f"{sql} AND NOT is_text(cast({column} AS BLOB))").fetchall():
                yield Unreadable(table=table, id=row.id, column=column, content=row.content)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def mend(connection: Connection, *, now: datetime) -> list[str]:
    """Write something readable in their place; what was done, in words.

    A text keeps what can be read of it. A job whose options cannot be read is refused from now on: it is not computed
    with others than it was asked for with.
    """
    done = []
    for row in list(found(connection)):
        if row.column == "options":
            _mend_options(connection, row)
            done.append(f"job {row.id}: what it was asked for cannot be read; it is refused when it is tried again")
        else:
            sql = f"UPDATE {row.table} SET {row.column} = ? WHERE id = ?"
            connection.exec_driver_sql(sql, (storable(row.content), row.id))
            done.append(f"{row}: kept what can be read of it")
        if row.table == "job":
            connection.exec_driver_sql(TELL, (stamp(now), row.id, json.dumps({"reason": done[-1]})))
    return done


def _mend_options(connection: Connection, row: Unreadable) -> None:
    profile = connection.exec_driver_sql("SELECT profile FROM job WHERE id = ?", (row.id,)).scalar_one()
    mended = replace(options(row.content), profile=storable(profile))
    connection.exec_driver_sql("UPDATE job SET options = ? WHERE id = ?", (mended.to_json(), row.id))
