"""The questions that people ask the history most, each as one select: those of the README and of ``watcherd ask``.

The README shows them word for word, a test compares; docs/history.md has more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

EXAMPLE = "scan-17.jpg"
"""The name of a scan that stands in the select of a question about one scan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """``name``: one word for it. ``text``: as a person asks; X is a scan's name. ``sql``: the select."""

    name: str
    text: str
    sql: str

    @property
    def asks_for_a_scan(self) -> bool:
        """Whether it is about one scan, whose name has to be given."""
        return f"'{EXAMPLE}'" in self.sql


QUESTIONS = (
    Question(
        name="today",
        text="How many today?",
        sql="select state, count(*) from today group by state;",
    ),
    Question(
        name="where",
        text="Where is scan X?",
        sql="select state, source, why, seen_at, finished_at from names where name = 'scan-17.jpg';",
    ),
    Question(
        name="failures",
        text="What failed, and why?",
        sql="select error_class, error, count(*) from failures where finished_at > date('now', '-7 days')\n"
        "group by error_class, error order by 3 desc;",
    ),
    Question(
        name="stages",
        text="Which stage is slowest?",
        sql="select stage, sum(total_ms) / sum(jobs) as mean_ms from stages where hour > date('now', '-7 days')\n"
        "group by stage order by mean_ms desc;",
    ),
    Question(
        name="memory",
        text="Which jobs took most of a card's memory?",
        sql="select job_id, source, device, vram_peak_allocated_mib from vram "
        "order by vram_peak_allocated_mib desc limit 10;",
    ),
    Question(
        name="cards",
        text="Which card is busiest?",
        sql="select device, name, sum(busy_ms) / 1000 as busy_s from cards where hour > date('now', '-7 days')\n"
        "group by device, name order by busy_s desc;",
    ),
    Question(
        name="duplicates",
        text="What was dropped twice?",
        sql="select source, same_as, seen_at from duplicates order by id desc limit 20;",
    ),
    Question(
        name="stuck",
        text="What is stuck?",
        sql="select since, state, source, why from unfinished order by since limit 20;",
    ),
    Question(
        name="throughput",
        text="How many an hour?",
        sql="select hour, succeeded, failed from throughput order by hour desc limit 24;",
    ),
    Question(
        name="results",
        text="What came out of scan X?",
        sql="select kind, path, bytes from results where name = 'scan-17.jpg';",
    ),
)
"""In the README's order."""


def answer(connection: Connection, question: Question, scan: str | None) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of the answer, and its rows. ``scan``: the name that a question about one scan asks for."""
    sql = question.sql.replace(f"'{EXAMPLE}'", ":scan")
    found = connection.exec_driver_sql(sql, {"scan": scan} if question.asks_for_a_scan else {})
    return list(found.keys()), [dict(row) for row in found.mappings()]
