"""Running plain SQL: a few words for what every module of the store does.

Statements are text, not SQLAlchemy expressions: the queue's rules read as what they are, and a statement costs 25 µs
instead of 95. Many rows go into one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from watcherd.store.connections import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

CHUNK = 1000
"""Values in one IN (...), at most."""

Row = Mapping[str, Any]


def one_by_one(connection: Connection, sql: str, rows: Sequence[Row]) -> int:
    """Run ``sql`` once for each of ``rows``; the number of rows it changed in all.

    Straight through the driver: a job takes ten of these, and SQLAlchemy's part of each would be most of its cost.
    """
    return driver_of(connection).executemany(sql, rows).rowcount if rows else 0


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """``values`` in pieces that fit into one statement."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def select_in(connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    """The rows of ``sql``, whose ``{values}`` stands for a list of any length."""
    rows: list[Any] = []
    for piece in chunks(values):
        marks = ",".join("?" * len(piece))
        rows += connection.exec_driver_sql(sql.format(values=marks), tuple(piece)).fetchall()
    return rows


def last_id(connection: Connection, table: str) -> int:
    """The highest id that ``table`` ever gave; the one writer may number its new rows from here."""
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).scalar()
    return found or 0
