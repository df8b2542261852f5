"""The figures read as Prometheus wants them, and docs, dashboard and alerts speak of figures that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from watcherd import metrics
from watcherd.job import FINISHED, ErrorClass, State
from watcherd.metrics import BUCKETS, METRICS, STAGES, Histogram, Sample, Tally

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
DASHBOARD = ROOT / "docs" / "monitoring" / "watcherd-dashboard.json"
ALERTS = ROOT / "docs" / "monitoring" / "watcherd-alerts.yml"

COUNTED = {name for name, _, _ in Tally().samples()} | {
    "watcherd_device_busy_seconds_total",
    "watcherd_device_memory_allocated_peak_bytes",
    "watcherd_device_memory_reserved_peak_bytes",
}


def tally() -> Tally:
    """Three jobs and one device."""
    made = Tally()
    made.count_end("succeeded", None, {"queue": 20, "decode": 7, "inference": 300, "render": None, "total": 330})
    made.count_end("succeeded", None, {"queue": 10_000_000, "total": 10_000_400})
    made.count_end("failed", "input", {"queue": 20, "total": 30})
    made.count_device(("GPU-1", 'A "card"\\'), busy_ms=300, allocated_bytes=2.0**30, reserved_bytes=None)
    made.count_device(("GPU-1", 'A "card"\\'), busy_ms=200, allocated_bytes=2.0**29, reserved_bytes=None)
    return made


def rest() -> Iterator[Sample]:
    """A value for each metric that is not counted."""
    for name, metric in METRICS.items():
        if name not in COUNTED and metric.kind != "histogram":
            yield name, tuple(f"a {label}" for label in metric.labels), 7.0


def parsed(samples: Iterable[Sample] = (), counted: Tally | None = None) -> dict[str, Any]:
    """What a scraper reads, by the name of the family."""
    counted = counted or tally()
    text = metrics.text([*counted.samples(), *samples], counted.stages).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(families: dict[str, Any], name: str) -> dict[tuple[str, ...], float]:
    """The samples called ``name`` by the values of their labels, which are sorted by their names."""
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name
    }


# ----------------------------------------------------------------------------------------------------------- the format


def test_the_clients_own_parser_reads_every_metric_back() -> None:
    """With kind, help and labels, and nothing besides."""
    counted = tally()
    counted.count_device(("GPU-1", "A card"), busy_ms=0, allocated_bytes=None, reserved_bytes=2.0**31)
    families = parsed(rest(), counted)
    expected = {
        name.removesuffix("_total"): (metric.kind, metric.help, set(metric.labels)) for name, metric in METRICS.items()
    }
    found = {
        name: (family.type, family.documentation, {label for s in family.samples for label in s.labels} - {"le"})
        for name, family in families.items()
    }
    assert expected == found


@pytest.mark.parametrize("name", METRICS)
def test_names_and_helps_are_as_promtool_wants_them(name: str) -> None:
    """A prefix, base units in plural and last, ``_total`` on counters alone, one sentence of help."""
    metric = METRICS[name]
    assert re.fullmatch(r"watcherd(_[a-z]+)+", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    words = set(name.split("_"))
    assert not words & {
        "ms",
        "milliseconds",
        "mib",
        "minutes",
        "percent",
        "gauge",
        "counter",
        "histogram",
        "count",
        "sum",
    }
    bare = name.removesuffix("_total")
    assert words.isdisjoint({"seconds", "bytes"}) or bare.endswith(("_seconds", "_bytes"))
    assert re.fullmatch(r"[A-Z1].+[.]", metric.help)
    assert "\n" not in metric.help
    assert all(re.fullmatch("[a-z_]+", label) and label not in ("le", "quantile", "job") for label in metric.labels)


def test_a_figure_that_is_not_in_the_list_cannot_be_exported() -> None:
    """So that docs and list cannot fall behind."""
    with pytest.raises(KeyError):
        metrics.text([("watcherd_secret", (), 1.0)], {})


def test_what_has_no_value_is_left_out() -> None:
    """Never 0 instead: a GPU that does not say, an inbox that was not looked at."""
    assert "watcherd_device_memory_reserved_peak_bytes" not in parsed()


# -------------------------------------------------------------------------------------------------------- the counting


def test_every_counter_is_there_before_it_first_counts() -> None:
    """A rate over a series that appears with its first failure would miss that failure."""
    families = parsed(counted=Tally())
    ends = values(families, "watcherd_jobs_ended_total")
    assert {state.value for state in FINISHED} == {state for _, state in ends}
    assert {"", *map(str, ErrorClass)} == {error_class for error_class, _ in ends}
    assert {0.0} == set(ends.values()) == set(values(families, "watcherd_retries_total").values())
    assert {(stage,): 0.0 for stage in STAGES} == values(families, "watcherd_stage_duration_seconds_count")


def test_ends_are_counted_by_state_and_class() -> None:
    counted = {key: value for key, value in values(parsed(), "watcherd_jobs_ended_total").items() if value}
    assert {("", "succeeded"): 2.0, ("input", "failed"): 1.0} == counted


def test_a_class_of_an_earlier_attempt_is_none_of_a_success() -> None:
    """It was retried, and cancelled or done since."""
    made = Tally()
    made.count_end("cancelled", "transient", {})
    made.count_end("succeeded", "memory", {})
    counted = {key: value for key, value in made.ended.items() if value}
    assert {("cancelled", ""): 1, ("succeeded", ""): 1} == counted


def test_only_an_end_is_counted_as_one() -> None:
    with pytest.raises(ValueError, match="does not end as"):
        Tally().count_end(State.RUNNING, None, {})


def test_durations_go_into_cumulative_buckets() -> None:
    """In seconds, with those beyond the last bound in +Inf; stages that were not reached, and failures, in none."""
    families = parsed()
    buckets = values(families, "watcherd_stage_duration_seconds_bucket")
    queue = {float(bound): count for (bound, stage), count in buckets.items() if stage == "queue"}
    assert [*BUCKETS, float("inf")] == list(queue)
    assert (0.0, 1.0, 1.0, 2.0) == (queue[0.01], queue[0.025], queue[7200.0], queue[float("inf")])
    counts = values(families, "watcherd_stage_duration_seconds_count")
    assert {"queue": 2, "decode": 1, "inference": 1, "render": 0, "total": 2} == {
        stage: count for (stage,), count in counts.items()
    }
    assert 10_000.02 == pytest.approx(values(families, "watcherd_stage_duration_seconds_sum")["queue",])


def test_a_duration_on_a_bound_belongs_below_it() -> None:
    """``le`` means less or equal."""
    histogram = Histogram()
    histogram.add(BUCKETS[0])
    assert (repr(BUCKETS[0]), 1.0) == histogram.cumulative()[0]


def test_a_devices_peak_is_its_largest_and_its_work_adds_up() -> None:
    """Whatever characters the card's name has."""
    families = parsed()
    card = ("GPU-1", 'A "card"\\')
    assert {card: 2.0**30} == values(families, "watcherd_device_memory_allocated_peak_bytes")
    assert {card: 0.5} == values(families, "watcherd_device_busy_seconds_total")


def test_the_client_is_imported_only_when_figures_are_asked_for() -> None:
    """It would cost every start time and memory."""
    code = "import sys, watcherd.daemon, watcherd.exporter; print('prometheus_client' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False" == found.stdout.strip()


# ------------------------------------------------------------------------------------------- docs, dashboard and alerts


def test_every_metric_is_documented_as_it_is() -> None:
    """One row each, in order, with kind, labels and meaning."""
    rows = re.findall(r"^\| `(watcherd_\w+)` \| (\w+) \| (.*?) ?\| (.+?) \|$", PAGE, re.MULTILINE)
    expected = [
        (name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help.rstrip("."))
        for name, metric in METRICS.items()
    ]
    assert expected == rows


def expressions() -> Iterator[str]:
    """Every expression in the dashboard, in the alerts and on the page."""

    def of(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (text for key in ("expr", "definition") if isinstance(text := value.get(key), str))
            for part in value.values():
                yield from of(part)
        elif isinstance(value, list):
            for part in value:
                yield from of(part)

    yield from of(json.loads(DASHBOARD.read_text()))
    yield from re.findall(r"expr: (?:>\n)?((?:.+\n)(?:          .+\n)*)", ALERTS.read_text())
    for block in re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL):
        yield from (line for line in block.splitlines() if not line.startswith("#"))


EXPRESSIONS = list(expressions())
SERIES = {
    name if metric.kind != "histogram" else f"{name}{end}": (*metric.labels, *(("le",) if end == "_bucket" else ()))
    for name, metric in METRICS.items()
    for end in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
"""Every series that there is, with its labels."""
ADDED = {"job", "instance"}
"""Labels that Prometheus adds."""


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_asks_for_series_that_exist(expression: str) -> None:
    """And for labels that these have, also when it groups by them."""
    names = re.findall(r"\b(watcherd_\w+)", expression)
    assert names
    assert set() == set(names) - SERIES.keys()
    for name, selector in re.findall(r"(watcherd_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert labels <= {*SERIES[name], *ADDED}, expression
    known = {label for name in names for label in SERIES[name]}
    for grouped in re.findall(r"\b(?:by|without) \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", grouped)) <= known | ADDED, expression


def test_the_expressions_are_found() -> None:
    """So that the test above has something to look at."""
    assert 40 < len(EXPRESSIONS)


def test_states_and_classes_in_expressions_exist() -> None:
    """A misspelt state would silently match nothing."""
    words = {
        "state": set(map(str, State)),
        "error_class": set(map(str, ErrorClass)),
        "stage": set(STAGES),
        "phase": {"starting", "idle", "busy", "down", "stopped"},
        "outcome": {"called", "failed", "given-up"},
    }
    for expression in EXPRESSIONS:
        for label, pattern in re.findall(r'\b(\w+)(?:=~|!=|=)"([^"$]*)"', expression):
            assert set(pattern.split("|")) <= words[label], expression


def test_every_metric_is_of_use() -> None:
    """All but those about the figures themselves are on the dashboard or in an alert."""
    asked = set(re.findall(r"watcherd_\w+", "\n".join(EXPRESSIONS)))
    used = {name for name in METRICS if asked & {name, f"{name}_bucket", f"{name}_sum"}}
    assert set() == METRICS.keys() - used


def test_every_alert_is_explained() -> None:
    """On the page, with what to do."""
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert names == re.findall(r"^\| `(Watcherd\w+)` \| .+ \| .+ \|$", PAGE, re.MULTILINE)
    assert len(names) == ALERTS.read_text().count("summary:") == ALERTS.read_text().count("description:")
