"""The figures for Prometheus: conventions, the client's own parser, and docs, dashboard and alerts that name them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from watcherd.job import ErrorClass
from watcherd.notify import metrics
from watcherd.notify.metrics import BUCKETS, METRICS, STAGES, Histogram, Tally

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "monitoring.md").read_text()
DASHBOARD = DOCS / "monitoring" / "watcherd-dashboard.json"
ALERTS = DOCS / "monitoring" / "watcherd-alerts.yml"
UNITS = ("seconds", "bytes")
OTHER_UNITS = ("ms", "milliseconds", "minutes", "mib", "gib", "kb", "mb", "percent", "ratio")
PARTS_OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")
HOSTILE = 'RTX "A5000"\\\n{x="1"} 7'


def families(content: bytes) -> dict[str, Any]:
    """As a scraper reads it; counters are called without their ``_total`` by the parser."""
    return {family.name: family for family in text_string_to_metric_families(content.decode())}


def names_in(text: str) -> set[str]:
    """Metrics that a text names, a histogram's parts as the histogram."""
    found = set(re.findall(r"\bwatcherd_[a-z0-9_]+", text))
    histograms = {name for name, metric in METRICS.items() if metric.kind == "histogram"}
    for name in found & {f"{histogram}{part}" for histogram in histograms for part in PARTS_OF_A_HISTOGRAM}:
        found.discard(name)
        found.add(name.rpartition("_")[0])
    return found


# ------------------------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize("name", METRICS)
def test_a_name_follows_the_conventions(name: str) -> None:
    """Lower case, our prefix, base units; counters, and nothing else, end in ``_total``; a unit comes last."""
    metric = METRICS[name]
    assert re.fullmatch(r"watcherd(_[a-z]+)+", name)
    assert (metric.kind == "counter") == name.endswith("_total")
    assert not name.endswith(PARTS_OF_A_HISTOGRAM)
    parts = name.removesuffix("_total").split("_")
    assert not set(parts) & set(OTHER_UNITS)
    assert [part for part in parts if part in UNITS] in ([], parts[-1:])
    assert re.match(r"[A-Z0-9].*[.]$", metric.help)


def test_no_label_can_hold_a_files_name() -> None:
    """Names hold patients' names, and each would be a time series of its own."""
    labels = {label for metric in METRICS.values() for label in metric.labels}
    bounded = {"version", "segmenter", "model_revision", "dtype", "state", "fate", "error_class", "stage", "phase"}
    assert bounded | {"model", "replica", "device", "name", "part", "folder", "target", "outcome", "loop"} == labels


# ---------------------------------------------------------------------------------------------------------- the text


def test_what_is_written_can_be_read_by_prometheus() -> None:
    """Type, meaning, labels and value of each, by the client's own parser."""
    samples = [
        (name, tuple("x" for _ in metric.labels), 3.0) for name, metric in METRICS.items() if metric.kind != "histogram"
    ]
    found = families(metrics.text(samples, Tally().stages))
    assert {name.removesuffix("_total") for name in METRICS} == found.keys()
    for name, metric in METRICS.items():
        family = found[name.removesuffix("_total")]
        assert (metric.kind, metric.help) == (family.type, family.documentation)
        if metric.kind != "histogram":
            assert [(name, dict.fromkeys(metric.labels, "x"), 3.0)] == [sample[:3] for sample in family.samples]


def test_a_label_may_hold_anything() -> None:
    """A card's name comes from its driver: quotes, backslashes and line breaks come back as they were."""
    content = metrics.text([("watcherd_device_busy_seconds_total", ("GPU-1", HOSTILE), 1)], {})
    (sample,) = families(content)["watcherd_device_busy_seconds"].samples
    assert {"device": "GPU-1", "name": HOSTILE} == sample.labels


def test_a_figure_that_is_not_listed_cannot_be_written() -> None:
    with pytest.raises(KeyError, match="watcherd_secret"):
        metrics.text([("watcherd_secret", (), 1)], {})


def test_a_duration_is_counted_in_each_bucket_that_holds_it() -> None:
    """At a bound it belongs to it; beyond the last bound only to ``+Inf``."""
    histogram = Histogram()
    for seconds in (0.005, 0.006, BUCKETS[-1] + 1):
        histogram.add(seconds)
    (family,) = families(metrics.text([], {"queue": histogram})).values()
    values = {sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value for sample in family.samples}
    assert [1, 2, 2, 3, 3] == [values[key] for key in ("0.005", "0.01", "7200.0", "+Inf", "count")]
    assert pytest.approx(BUCKETS[-1] + 1.011) == values["sum"]


# ---------------------------------------------------------------------------------------------------------- counting


def test_counters_are_there_before_they_count() -> None:
    """A rate over a counter that appears with 1 would miss the first."""
    samples = {(name, labels): value for name, labels, value in Tally().samples()}
    for error_class in ErrorClass:
        assert 0 == samples["watcherd_jobs_ended_total", ("failed", error_class.value)]
        assert 0 == samples["watcherd_retries_total", (error_class.value,)]
    assert 0 == samples["watcherd_jobs_ended_total", ("succeeded", "")]
    assert {*STAGES} == Tally().stages.keys()


def test_durations_of_failures_are_not_among_those_of_results() -> None:
    """And what succeeded bears no error class, though an earlier attempt failed."""
    tally = Tally()
    tally.count_end("succeeded", "memory", {"queue": 1500, "decode": None})
    tally.count_end("failed", "input", {"queue": 9000})
    assert (1.5, 0.0) == (tally.stages["queue"].sum, tally.stages["decode"].sum)
    assert (1, 1) == (tally.ended["succeeded", ""], tally.ended["failed", "input"])
    with pytest.raises(ValueError, match="running"):
        tally.count_end("running", None, {})


def test_a_peak_is_the_largest_and_the_unknown_stays_unknown() -> None:
    tally = Tally()
    for allocated in (5.0, 9.0, None, 7.0):
        tally.count_device(("GPU-1", "Card"), busy_ms=500, allocated_bytes=allocated, reserved_bytes=None)
    assert ({("GPU-1", "Card"): 9.0}, {}) == (tally.allocated_peak, tally.reserved_peak)
    assert 2.0 == tally.busy_seconds["GPU-1", "Card"]


# --------------------------------------------------------------------------------------------- docs, dashboard, alerts


def test_every_metric_has_its_row_in_the_docs() -> None:
    """With kind, labels and meaning; and there is no row of one that does not exist."""
    rows = re.findall(r"^\| `(watcherd_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    labels = {name: ", ".join(f"`{label}`" for label in metric.labels) for name, metric in METRICS.items()}
    assert [(name, metric.kind, labels[name], metric.help.removesuffix(".")) for name, metric in METRICS.items()] == [
        (name, kind, found.strip(), meaning) for name, kind, found, meaning in rows
    ]


@pytest.mark.parametrize(
    "file", [DOCS / "monitoring.md", DOCS / "hooks.md", DASHBOARD, ALERTS], ids=lambda file: file.name
)
def test_only_metrics_that_exist_are_named(file: Path) -> None:
    """A graph of nothing looks like a service without load."""
    named = names_in(file.read_text())
    assert named
    assert named <= METRICS.keys()


def test_the_labels_that_are_asked_for_exist() -> None:
    """In the dashboard and the alerts; ``job`` and ``instance`` are Prometheus' own, ``le`` the histogram's."""
    for text in (DASHBOARD.read_text().replace('\\"', '"'), ALERTS.read_text()):
        for name, matchers in re.findall(r"\b(watcherd_[a-z_]+)\{([^}]*)\}", text):
            (metric,) = (METRICS[known] for known in names_in(name))
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert asked <= {*metric.labels, "job", "instance", "le"}, name


def test_the_dashboard_is_one() -> None:
    """JSON with panels that ask; each has a title, and none lies upon another."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert panels
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    for panel in panels:
        assert panel["title"]
        assert all(target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_is_explained() -> None:
    """With what to do; and no alert is explained that is not there."""
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert alerts
    assert alerts == re.findall(r"^\| `(Watcherd\w+)` \|", PAGE, re.MULTILINE)
