"""The figures of a report: columns, percentiles, reasons, cards, names that are hidden."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watcherd.report.figures import Facts, column_width, figures, full_hour, percentiles, reasons
from watcherd.store.summary import Period, Sample

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
PERIOD = Period(since=NOON, until=NOON + timedelta(hours=3, minutes=30))


def done(at: str, **parts: Any) -> dict[str, Any]:
    """A row of the sample."""
    row = {
        "finished_at": f"2026-01-02T{at}:00.000Z", "queue_ms": 900, "decode_ms": 10, "inference_ms": 80, "render_ms": 5,
        "total_ms": 1000, "segmenter": "vessel", "model": "vessel", "model_revision": "1", "dtype": "float32",
        "host_peak_rss_mib": 300.0,
    }  # fmt: skip
    return row | parts


def failed(error: str, jobs: int, error_class: str = "input", at: str = "12:00") -> dict[str, Any]:
    return {
        "error_class": error_class, "error": error, "advice": "look at it", "jobs": jobs,
        "last_at": f"2026-01-02T{at}:00.000Z", "last_id": jobs,
    }  # fmt: skip


def listed(source: str = "Smith.png") -> dict[str, Any]:
    return {
        "id": 7, "source": source, "size_bytes": 1, "width": 5, "height": 4, "frames": 1, "total_ms": 9,
        "queue_ms": 1, "decode_ms": 2, "inference_ms": 3, "render_ms": None, "finished_at": "2026-01-02T12:00:00.000Z",
        "device": "GPU-1", "name": "Card", "mib": 900.0, "batch_size": 2,
    }  # fmt: skip


def facts(**parts: Any) -> Facts:
    """A period in which nothing happened, but for ``parts``."""
    nothing: dict[str, Any] = {
        "period": PERIOD, "ended": {}, "sample": Sample(step=1, rows=[]), "memory": Sample(step=1, rows=[]),
        "hours": [], "device_hours": [], "failures": [], "slowest": [], "largest": [],
        "duplicates": {"files": 0, "scans": 0}, "runs": [], "replicas": [], "evaluations": [],
    }  # fmt: skip
    return Facts(**nothing | parts)


def of(**parts: Any) -> dict[str, Any]:
    return figures(facts(**parts), hide_names=False)


def test_an_empty_period_has_figures_that_are_not_made_up() -> None:
    """Zeros where something was counted, None where nothing was measured; all of it is JSON."""
    answer = of()
    assert (0, None, 0.0) == (answer["jobs"], answer["failed_share"], answer["per_hour"])
    assert {None} == set(answer["latency"].values())
    assert answer == json.loads(json.dumps(answer))


def test_a_period_begins_at_a_full_hour() -> None:
    """Totals are kept by the hour: half of one cannot be told from the other."""
    assert NOON == full_hour(NOON + timedelta(minutes=59, seconds=59))
    with pytest.raises(ValueError, match="no full hour"):
        Period(since=NOON + timedelta(seconds=1), until=NOON + timedelta(hours=1))


def test_every_column_is_there_and_holds_its_hours() -> None:
    """Those without jobs too, and the one that has only begun."""
    hours = [
        {"hour": "2026-01-02T12", "succeeded": 5, "failed": 1},
        {"hour": "2026-01-02T15", "succeeded": 2, "failed": 0},
    ]
    columns = of(hours=hours)["throughput"]
    assert [(5, 1), (0, 0), (0, 0), (2, 0)] == [(column["succeeded"], column["failed"]) for column in columns]
    assert "2026-01-02T15:00:00.000Z" == columns[-1]["at"]


@pytest.mark.parametrize(
    ("days", "hours"), [(1, 1), (7, 1), (9, 2), (30, 6), (365, 48), (20_000, 2688), (50_000, 8064)]
)
def test_columns_are_as_long_as_there_is_room_for(days: int, hours: int) -> None:
    """An hour for a week, six for a month."""
    assert timedelta(hours=hours) == column_width(Period(since=NOON - timedelta(days=days), until=NOON))


def test_percentiles_are_nearest_ranks() -> None:
    """Values that were measured, and nothing in between; what is unknown does not count."""
    found = percentiles([None, *range(100, 0, -1)])
    assert {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100, "jobs": 100} == found
    assert {"p50": 7, "p90": 7, "p95": 7, "p99": 7, "max": 7, "jobs": 1} == percentiles([7])
    assert percentiles([None]) is None


def test_durations_are_told_for_each_column() -> None:
    """A column in which nothing succeeded has none."""
    answer = of(sample=Sample(step=1, rows=[done("12:10", total_ms=10), done("14:59", total_ms=30)]))
    totals = [column["total"] and column["total"]["p50"] for column in answer["latency_over_time"]]
    assert [10, None, 30, None] == totals
    assert 10 == answer["latency"]["total"]["p50"]


def test_the_share_that_failed_counts_quarantine_and_not_what_was_taken_back() -> None:
    """Of all that ended."""
    answer = of(ended={"succeeded": 5, "failed": 2, "quarantined": 1, "cancelled": 2})
    assert (10, 0.3) == (answer["jobs"], answer["failed_share"])


def test_errors_that_differ_in_numbers_are_one_reason() -> None:
    """In the most frequent words, with the latest job; the most frequent reason first."""
    rows = [failed("cut after 12 bytes", 3), failed("no picture", 4), failed("cut after 3,211 bytes", 2, at="13:00")]
    found = reasons(sorted(rows, key=lambda row: -row["jobs"]), hide_words=False)
    assert [("cut after 12 bytes", 5, 2), ("no picture", 4, 4)] == [
        (row["error"], row["jobs"], row["last_id"]) for row in found
    ]


def test_hidden_names_are_nowhere_in_the_figures() -> None:
    """Nor what an error says, which may repeat a name; the class and the job's number stay."""
    rows = {"slowest": [listed()], "largest": [listed()], "failures": [failed("Smith.png is cut", 1), failed("x", 1)]}
    shown, hidden = (figures(facts(**rows), hide_names=hide) for hide in (False, True))
    assert "Smith" in json.dumps(shown)
    assert "Smith" not in json.dumps(hidden)
    assert ("job 7", "job 7") == (hidden["slowest"][0]["source"], hidden["largest"][0]["source"])
    assert [("input", None, None, 2)] == [
        (row["error_class"], row["error"], row["advice"], row["jobs"]) for row in hidden["failures"]
    ]


def test_a_card_is_busy_for_the_part_of_the_time_in_which_it_computed() -> None:
    """In the whole period, and in each column; the last one has only begun."""
    rows = [
        {"hour": f"2026-01-02T{hour}", "device": "GPU-1", "name": "Card", "attempts": 2, "busy_ms": 900_000, "mib": mib}
        for hour, mib in ((12, 800.0), (15, None))
    ]
    answer = of(device_hours=rows)
    (card,) = answer["cards"]
    assert (4, 800.0, pytest.approx(1800 / 12600)) == (card["attempts"], card["peak_mib"], card["busy"])
    columns = answer["cards_over_time"]["GPU-1"]
    assert [0.25, 0.0, 0.0, 0.5] == [column["busy"] for column in columns]
    assert [800.0, None, None, None] == [column["peak_mib"] for column in columns]


def test_starts_and_crashes_are_told_apart() -> None:
    """What began before the period was not started in it; what still runs has not crashed."""

    def row(started: str, ended: str | None, reason: str | None) -> dict[str, Any]:
        return {"id": 1, "started_at": started, "ended_at": ended, "end_reason": reason}

    early, late = "2026-01-01T00:00:00.000Z", "2026-01-02T13:00:00.000Z"
    answer = of(
        runs=[
            row(early, late, "crashed"),
            row(late, late, "stopped"),
            row(late, late, "failed"),
            row(late, None, None),
        ],
        replicas=[row(late, late, "it was ended by SIGKILL"), row(late, late, "stopped")],
    )
    assert {"daemon_starts": 3, "daemon_deaths": 2, "replica_starts": 2, "replica_deaths": 1} == answer["restarts"]
