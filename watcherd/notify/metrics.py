"""Figures for Prometheus: which there are, what they mean, and how they are written (docs/monitoring.md).

`METRICS` is the one list: what is not in it cannot be exported, and the docs, the dashboard and the example alerts are
compared with it by a test. Counters and histograms begin at 0 when the daemon starts, which is what Prometheus expects.
No label ever holds a file's name.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from watcherd.job import FINISHED, ErrorClass, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric as Family

STAGES = ("queue", "decode", "inference", "render", "total")
"""``total``: from when it was queued, or queued again, until its results lay in the outbox."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds in seconds: from a scan of a fast model to a backlog of hours."""

Labels = tuple[str, ...]
Sample = tuple[str, Labels, float]
"""A metric's name, the values of its labels in order, and its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a metric is."""

    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: Labels = ()


def _gauge(meaning: str, *labels: str) -> Metric:
    return Metric(kind="gauge", help=meaning, labels=labels)


def _counter(meaning: str, *labels: str) -> Metric:
    return Metric(kind="counter", help=meaning, labels=labels)


METRICS: dict[str, Metric] = {
    "watcherd_build_info": _gauge("Always 1: what runs.", "version", "segmenter", "model_revision", "dtype"),
    "watcherd_start_timestamp_seconds": _gauge("When the service was started."),
    "watcherd_refreshed_timestamp_seconds": _gauge("When these figures were taken."),
    "watcherd_ready": _gauge("1 while the model is loaded and scans are taken."),
    "watcherd_process_resident_memory_bytes": _gauge("Memory of the main process."),
    "watcherd_process_cpu_seconds_total": _counter("Processor time of the main process."),
    "watcherd_database_size_bytes": _gauge("Size of the history's file, its log included."),
    "watcherd_jobs": _gauge("Jobs in the history by state.", "state"),
    "watcherd_arrivals": _gauge("Files seen in the inbox, in the history, by their own fate.", "fate"),
    "watcherd_queue_oldest_age_seconds": _gauge("How long the longest waiting job has waited; 0 when none waits."),
    "watcherd_jobs_ended_total": _counter(
        "Jobs that ended, with the class of the error that ended them.", "state", "error_class"
    ),
    "watcherd_retries_total": _counter("Attempts that failed and will be repeated, by error class.", "error_class"),
    "watcherd_stage_duration_seconds": Metric(
        kind="histogram", help="How long jobs that succeeded took in each stage.", labels=("stage",)
    ),
    "watcherd_replicas": _gauge("Copies of the model by what they do.", "phase"),
    "watcherd_model_ready": _gauge("1 while a copy of this model has been loaded; 0 while none can be.", "model"),
    "watcherd_model_jobs_queued": _gauge("Jobs that wait for this model.", "model"),
    "watcherd_model_jobs_ended_total": _counter("Jobs for this model that ended.", "model", "state"),
    "watcherd_model_computing_seconds_total": _counter("Time in which copies of this model computed.", "model"),
    "watcherd_replica_restarts_total": _counter("How often a copy of the model died and was started anew.", "replica"),
    "watcherd_device_memory_used_bytes": _gauge("Memory of a GPU in use, by all its users.", "device", "name"),
    "watcherd_device_memory_size_bytes": _gauge("Memory of a GPU.", "device", "name"),
    "watcherd_device_memory_allocated_peak_bytes": _gauge(
        "Largest peak of allocated memory of a job since the start.", "device", "name"
    ),
    "watcherd_device_memory_reserved_peak_bytes": _gauge(
        "Largest peak of reserved memory of a job since the start.", "device", "name"
    ),
    "watcherd_device_busy_seconds_total": _counter("Time in which a device computed for jobs.", "device", "name"),
    "watcherd_inbox_online": _gauge("1 while the inbox can be read."),
    "watcherd_inbox_settling_files": _gauge("Files that still change, or are still open."),
    "watcherd_inbox_sweep_duration_seconds": _gauge("How long the last pass over the whole inbox took."),
    "watcherd_inbox_swept_timestamp_seconds": _gauge("When the last pass over the whole inbox ended."),
    "watcherd_paused": _gauge("1 while work waits for this part; work: a person has paused it.", "part"),
    "watcherd_disk_free_bytes": _gauge("Room on the file system of a folder.", "folder"),
    "watcherd_disk_size_bytes": _gauge("Size of the file system of a folder.", "folder"),
    "watcherd_hook_calls_total": _counter("Calls of hooks by how they went.", "target", "outcome"),
    "watcherd_set_aside_total": _counter("Items that could not be handled and were set aside, by loop.", "loop"),
    "watcherd_hook_calls_waiting": _gauge("Calls of hooks that are still to be made, or made again."),
}

_ENDS = [
    (state.value, error_class)
    for state in (State.SUCCEEDED, State.FAILED, State.QUARANTINED, State.CANCELLED)
    for error_class in (("",) if state in (State.SUCCEEDED, State.CANCELLED) else tuple(ErrorClass))
]
"""Every way in which a job can end, so that each counter is there, at 0, before it first counts."""


@dataclass(slots=True)
class Histogram:
    """Counts by bucket (`BUCKETS` and one beyond), and the sum of what was counted."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = next((place for place, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.counts[place] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus wants it: each bucket with all that are below it."""
        total, pairs = 0, []
        for bound, count in zip((*BUCKETS, math.inf), self.counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == math.inf else repr(bound), float(total)))
        return pairs


@dataclass(slots=True)
class Tally:
    """What has been counted since the start."""

    ended: defaultdict[Labels, int] = field(default_factory=lambda: defaultdict(int, dict.fromkeys(_ENDS, 0)))
    retried: defaultdict[str, int] = field(
        default_factory=lambda: defaultdict(int, dict.fromkeys(map(str, ErrorClass), 0))
    )
    of_models: defaultdict[Labels, int] = field(default_factory=lambda: defaultdict(int))
    stages: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    busy_seconds: defaultdict[Labels, float] = field(default_factory=lambda: defaultdict(float))
    allocated_peak: dict[Labels, float] = field(default_factory=dict)
    reserved_peak: dict[Labels, float] = field(default_factory=dict)

    def count_end(
        self, state: str, error_class: str | None, durations_ms: Mapping[str, float | None], model: str | None = None
    ) -> None:
        """A job ended; a stage that it did not come to has no duration. ``model``: its name, None where unknown."""
        if state not in FINISHED:
            raise ValueError(f"a job does not end as {state!r}")
        failed = state in (State.FAILED, State.QUARANTINED)  # others may still bear the class of an earlier attempt
        self.ended[state, error_class if failed and error_class else ""] += 1
        if model is not None:
            self.of_models[model, state] += 1
        if state == State.SUCCEEDED:
            for stage, duration in durations_ms.items():
                if duration is not None:
                    self.stages[stage].add(duration / 1000)

    def count_device(
        self, device: Labels, *, busy_ms: float, allocated_bytes: float | None, reserved_bytes: float | None
    ) -> None:
        """A device (its id and its name) worked for jobs; memory that is not known stays unknown."""
        self.busy_seconds[device] += busy_ms / 1000
        for peaks, seen in ((self.allocated_peak, allocated_bytes), (self.reserved_peak, reserved_bytes)):
            if seen is not None:
                peaks[device] = max(seen, peaks.get(device, 0.0))

    def samples(self) -> Iterable[Sample]:
        """All that was counted, but for the histograms."""
        counted: dict[str, Mapping[Labels, float]] = {
            "watcherd_jobs_ended_total": self.ended,
            "watcherd_model_jobs_ended_total": self.of_models,
            "watcherd_retries_total": {(error_class,): count for error_class, count in self.retried.items()},
            "watcherd_device_busy_seconds_total": self.busy_seconds,
            "watcherd_device_memory_allocated_peak_bytes": self.allocated_peak,
            "watcherd_device_memory_reserved_peak_bytes": self.reserved_peak,
        }
        for name, values in counted.items():
            for labels, value in values.items():
                yield name, labels, value


def text(samples: Iterable[Sample], histograms: Mapping[str, Histogram]) -> bytes:
    """The figures in Prometheus' text format. Raises KeyError for a sample of a metric that is not in `METRICS`."""
    from prometheus_client import CollectorRegistry, generate_latest

    found: dict[str, list[tuple[Labels, float]]] = {name: [] for name in METRICS}
    for name, labels, value in samples:
        found[name].append((labels, value))
    families = [
        _family(name, metric, found[name], histograms)
        for name, metric in METRICS.items()
        if found[name] or metric.kind == "histogram"
    ]

    class Once:
        """What prometheus-client calls a collector."""

        def collect(self) -> Iterable[Family]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry)


def _family(
    name: str, metric: Metric, values: list[tuple[Labels, float]], histograms: Mapping[str, Histogram]
) -> Family:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if metric.kind == "histogram":
        timed = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for label, histogram in histograms.items():
            timed.add_metric((label,), histogram.cumulative(), histogram.sum)
        return timed
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
