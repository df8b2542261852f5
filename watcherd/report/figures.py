"""The figures of a report over a period: read from the history, then put together by pure functions.

`gather` reads, `figures` computes; the page of ``watcherd report`` and its ``--json`` show the same dict.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from watcherd.file_names import hidden
from watcherd.store import moment, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watcherd.store import Connection
    from watcherd.store.summary import Period, Row, Sample

STAGES = ("queue", "decode", "inference", "render", "total")
"""``total``: from when it was queued, or queued again, until its results lay in the outbox."""
PERCENTILES = (50, 90, 95, 99)
EVALUATIONS = 30
"""Newest evaluations of the period that are listed."""
LISTED = 10
"""Rows of a list of jobs, and of reasons."""
DOTS = 1500
"""Jobs that a picture shows one by one."""
COLUMNS = 200
"""Columns of a picture, at most: the shortest of `WIDTHS` that needs no more is taken."""
WIDTHS = tuple(timedelta(hours=hours) for hours in (1, 2, 3, 6, 12, 24, 48, 168, 672, 2688, 8064))
IN_ORDER = ("stopped", "finished")
"""Reasons for which a run or a replica ends in good order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the history says of a period, as it was read."""

    period: Period
    ended: dict[str, int]
    sample: Sample
    memory: Sample
    hours: list[Row]
    device_hours: list[Row]
    failures: list[Row]
    slowest: list[Row]
    largest: list[Row]
    duplicates: Row
    runs: list[Row]
    replicas: list[Row]
    evaluations: list[Row]


def full_hour(moment: datetime) -> datetime:
    """The hour that ``moment`` lies in, from its beginning."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def gather(connection: Connection, period: Period) -> Facts:
    """Read everything. A second for 200,000 jobs, some seconds for a million. Raises `StoreError`."""
    ended = summary.ended(connection, period)
    succeeded = ended.get("succeeded", 0)
    return Facts(
        period=period,
        ended=ended,
        sample=summary.sample(connection, period, of=succeeded),
        memory=summary.memory(connection, period, of=succeeded, size=DOTS),
        hours=summary.hours(connection, period),
        device_hours=summary.device_hours(connection, period),
        failures=summary.failures(connection, period),
        slowest=summary.slowest(connection, period, LISTED),
        largest=summary.largest(connection, period, LISTED),
        duplicates=summary.duplicates(connection, period),
        runs=summary.runs(connection, period),
        replicas=summary.replicas(connection, period),
        evaluations=summary.evaluations(connection, period, EVALUATIONS),
    )


def figures(facts: Facts, *, hide_names: bool) -> dict[str, Any]:
    """The report as JSON would have it: times in UTC, durations in ms, memory in MiB; None where nothing is known.

    ``hide_names``: scans are called by their jobs' numbers, and errors by their class alone, as their words may repeat
    what stands in a name.
    """
    period = facts.period
    width = column_width(period)
    seconds = (period.until - period.since).total_seconds()
    jobs = sum(facts.ended.values())
    failed = facts.ended.get("failed", 0) + facts.ended.get("quarantined", 0)
    return {
        "since": _iso(period.since),
        "until": _iso(period.until),
        "jobs": jobs,
        "ended": facts.ended,
        "failed_share": failed / jobs if jobs else None,
        "per_hour": 3600 * jobs / seconds,
        "column_seconds": int(width.total_seconds()),
        "throughput": throughput(facts.hours, period, width),
        "latency": latency(facts.sample.rows),
        "latency_over_time": latency_over_time(facts.sample.rows, period, width),
        "sampled_every": facts.sample.step,
        "cards": cards(facts.device_hours, seconds),
        "cards_over_time": cards_over_time(facts.device_hours, period, width),
        "memory": [{"at": row["finished_at"], **_only(row, "id", "device", "mib")} for row in facts.memory.rows],
        "memory_every": facts.memory.step,
        "host_memory": percentiles([row["host_peak_rss_mib"] for row in facts.sample.rows]),
        "failures": reasons(facts.failures, hide_words=hide_names),
        "slowest": [_job(row, hide_name=hide_names) for row in facts.slowest],
        "largest": [_job(row, hide_name=hide_names) for row in facts.largest],
        "duplicates": facts.duplicates,
        "models": models(facts.sample.rows),
        "runs": [row | {"in_order": _in_order(row)} for row in facts.runs],
        "replicas": [row | {"in_order": _in_order(row)} for row in facts.replicas],
        "restarts": restarts(facts),
        "evaluations": [row | ({"truth": None} if hide_names else {}) for row in facts.evaluations],
    }


def column_width(period: Period) -> timedelta:
    """How long a column of a picture is, so that all of them have room."""
    span = period.until - period.since
    return next((width for width in WIDTHS if span <= COLUMNS * width), WIDTHS[-1])


def throughput(hours: Iterable[Row], period: Period, width: timedelta) -> list[Row]:
    """Jobs by column, those without any too."""
    starts = _starts(period, width)
    columns = [{"at": _iso(start), "succeeded": 0, "failed": 0} for start in starts]
    for row in hours:
        column = columns[_column(_hour(row["hour"]), period, width)]
        column["succeeded"] += row["succeeded"]
        column["failed"] += row["failed"]
    return columns


def percentiles(values: Iterable[float | None]) -> dict[str, float] | None:
    """The nearest ranks, the largest value, and how many values there are; None without any."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    ranks = {f"p{percent}": known[max(0, math.ceil(percent / 100 * len(known)) - 1)] for percent in PERCENTILES}
    return {**ranks, "max": known[-1], "jobs": len(known)}


def latency(rows: Sequence[Row]) -> dict[str, dict[str, float] | None]:
    """The percentiles of each stage."""
    return {stage: percentiles(row[f"{stage}_ms"] for row in rows) for stage in STAGES}


def latency_over_time(rows: Iterable[Row], period: Period, width: timedelta) -> list[Row]:
    """The percentiles of each column; None where nothing succeeded."""
    by_column: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_column[_column(moment(row["finished_at"]), period, width)].append(row)
    return [{"at": _iso(start), **latency(by_column[place])} for place, start in enumerate(_starts(period, width))]


def cards(rows: Iterable[Row], seconds: float) -> list[Row]:
    """What each device did in the whole period; ``busy``: the part of the time in which it computed for jobs."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["device"], row["name"]), []).append(row)
    return [
        {
            "device": device,
            "name": name,
            "attempts": sum(row["attempts"] for row in of_one),
            "busy_ms": sum(row["busy_ms"] for row in of_one),
            "busy": sum(row["busy_ms"] for row in of_one) / 1000 / seconds,
            "peak_mib": _highest(row["mib"] for row in of_one),
        }
        for (device, name), of_one in found.items()
    ]


def cards_over_time(rows: Iterable[Row], period: Period, width: timedelta) -> dict[str, list[Row]]:
    """The peak of memory and the busy part of each device in each column; None where it did nothing."""
    by_place: defaultdict[str, defaultdict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_place[row["device"]][_column(_hour(row["hour"]), period, width)].append(row)
    starts = _starts(period, width)
    return {
        device: [
            {
                "at": _iso(start),
                "peak_mib": _highest(row["mib"] for row in places[place]),
                "busy": sum(row["busy_ms"] for row in places[place])
                / 1000
                / min(width, period.until - start).total_seconds(),
            }
            for place, start in enumerate(starts)
        ]
        for device, places in by_place.items()
    }


def reasons(rows: Iterable[Row], *, hide_words: bool) -> list[Row]:
    """Failures by reason, the most frequent first: errors that differ in their numbers alone are one."""
    found: dict[tuple[str | None, str | None], Row] = {}
    for row in rows:  # the most frequent words come first, and stay
        key = (row["error_class"], None if hide_words else re.sub(r"\d[\d,.]*", "0", row["error"] or ""))
        one = found.setdefault(key, row | {"jobs": 0} | ({"error": None, "advice": None} if hide_words else {}))
        one["jobs"] += row["jobs"]
        if row["last_at"] >= one["last_at"]:
            one |= _only(row, "last_at", "last_id")
    return sorted(found.values(), key=lambda one: -one["jobs"])


def models(rows: Iterable[Row]) -> list[Row]:
    """With which models the jobs were done, and the share of each."""
    names = ("segmenter", "model", "model_revision", "dtype")
    counted = Counter(tuple(row[name] for name in names) for row in rows)
    return [
        {**dict(zip(names, model, strict=True)), "share": count / counted.total()}
        for model, count in counted.most_common()
    ]


def restarts(facts: Facts) -> dict[str, int]:
    """Starts of the daemon and of copies of the model in the period, and those that did not end in good order."""
    since = _iso(facts.period.since)

    def count(rows: Iterable[Row], what: str) -> dict[str, int]:
        rows = list(rows)
        return {
            f"{what}_starts": sum(row["started_at"] >= since for row in rows),
            f"{what}_deaths": sum(_in_order(row) is False for row in rows),
        }

    return count(facts.runs, "daemon") | count(facts.replicas, "replica")


def _in_order(row: Row) -> bool | None:
    """Whether it was stopped as it should be; None: it is still there, or nobody has noticed its end."""
    return None if row["ended_at"] is None else row["end_reason"] in IN_ORDER


def _job(row: Row, *, hide_name: bool) -> Row:
    return row | ({"source": hidden("job", row["id"])} if hide_name else {})


def _starts(period: Period, width: timedelta) -> list[datetime]:
    count = max(1, math.ceil((period.until - period.since) / width))
    return [period.since + place * width for place in range(count)]


def _column(at: datetime, period: Period, width: timedelta) -> int:
    return (at - period.since) // width


def _hour(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00:00+00:00")


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _only(row: Row, *keys: str) -> Row:
    return {key: row[key] for key in keys}
