"""The page of ``watcherd report``: the figures of `watcherd.report.figures.figures` as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from watcherd.report import charts
from watcherd.report.charts import SERIES, Bar, Dot, Scale, Series, Span
from watcherd.report.figures import STAGES
from watcherd.report.html import document, section, table
from watcherd.status.units import duration, gib

if TYPE_CHECKING:
    from pathlib import Path

FIRST_GLANCE = {"p50": "half are below", "p95": "95 of 100", "p99": "99 of 100"}
"""The percentiles that are shown, and what they are called in tables and legends."""

Figures = Mapping[str, Any]


def page(figures: Figures, *, inbox: Path, made_at: datetime) -> str:
    """The whole page. ``made_at``: now, in the zone in which times are shown."""
    span, body = _span(figures, made_at), sections(figures, made_at=made_at)
    header = [
        f"<p>{_moment(span.start)} to {_moment(span.end)}, times in {escape(made_at.tzname() or 'local time')}</p>",
        f'<p class="quiet">{escape(str(inbox))}</p>',
    ]
    return document("watcherd report", body, header, also=f"{_day(span.start)} to {_day(span.end)}")


def sections(figures: Figures, *, made_at: datetime) -> str:
    """What stands on it, for another page that has `watcherd.report.style.PARTS`."""
    span = _span(figures, made_at)
    return "\n".join(_sections(figures, span) if _is_anything(figures) else [_empty(span)])


def _span(figures: Figures, made_at: datetime) -> Span:
    return Span(start=_here(figures["since"], made_at), end=made_at)


def _is_anything(figures: Figures) -> bool:
    return bool(
        figures["jobs"]
        or figures["runs"]
        or figures["evaluations"]
        or any(row["succeeded"] or row["failed"] for row in figures["throughput"])
    )


def _empty(span: Span) -> str:
    return section(
        "Nothing happened",
        f"<p>No job ended and the service did not run since {_moment(span.start)}. "
        "Ask for a longer time with <code>--since</code>, or see <code>watcherd status</code>.</p>",
    )


def _sections(figures: Figures, span: Span) -> Iterator[str]:
    yield _tiles(figures)
    if figures["jobs"]:
        yield _throughput(figures, span)
        yield _durations(figures, span)
        yield _memory(figures, span)
        yield _cards(figures, span)
    yield _failures(figures, span)
    if figures["jobs"]:
        yield _lists(figures)
        yield _models(figures)
    if figures["evaluations"]:
        yield _evaluations(figures, span)
    yield _service(figures, span)


# -------------------------------------------------------------------------------------------------------- at a glance


def _tiles(figures: Figures) -> str:
    total = figures["latency"]["total"] or {}
    peak = max((card["peak_mib"] for card in figures["cards"] if card["peak_mib"] is not None), default=None)
    failed, again = figures["failed_share"], figures["duplicates"]["files"]
    restarts = figures["restarts"]
    deaths = restarts["daemon_deaths"] + restarts["replica_deaths"]
    width = _width(timedelta(seconds=figures["column_seconds"]))
    tiles = [
        ("jobs ended", _count(figures["jobs"]), f"{_count(figures['per_hour'])} an hour"),
        (f"in the busiest {width}", _count(_busiest(figures)), "succeeded or failed"),
        ("failed", "none" if not failed else f"{failed:.1%}", _ended(figures["ended"])),
        ("half are done within", duration(total.get("p50")) or "unknown", "from queued to delivered"),
        ("95 of 100 within", duration(total.get("p95")) or "unknown", "from queued to delivered"),
        ("highest GPU memory", "none used" if peak is None else gib(peak), "allocated at once on one card"),
        ("dropped again", _count(again), "answered without computing"),
        ("crashes", _count(deaths) if deaths else "none", "of the service and the model"),
    ]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd><dd>{escape(more)}</dd></div>" for name, value, more in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _busiest(figures: Figures) -> float:
    return max((float(row["succeeded"] + row["failed"]) for row in figures["throughput"]), default=0.0)


def _ended(ended: Mapping[str, int]) -> str:
    wrong = [f"{_count(count)} {state}" for state, count in ended.items() if state != "succeeded"]
    return ", ".join(wrong) or "all succeeded"


# ------------------------------------------------------------------------------------------------------------ pictures


def _throughput(figures: Figures, span: Span) -> str:
    width = timedelta(seconds=figures["column_seconds"])
    columns = []
    for row in figures["throughput"]:
        start = _here(row["at"], span.end)
        parts = (row["succeeded"], row["failed"])
        title = f"{_moment(start)}: {_count(parts[0])} succeeded, {_count(parts[1])} failed"
        columns.append(Bar(start=start, end=min(start + width, span.end), parts=parts, title=title))
    picture = charts.bars(span, columns, _count, name=f"Jobs by {_width(width)}")
    return section(
        "Throughput", f"<p>Jobs that ended, by {_width(width)}.</p>{_legend(('succeeded', 'failed'))}{picture}"
    )


def _durations(figures: Figures, span: Span) -> str:
    note = _sampled(figures["sampled_every"])
    head = ("stage", *FIRST_GLANCE.values(), "longest")
    rows = [
        (stage, *(duration(found[key]) for key in (*FIRST_GLANCE, "max")))
        for stage in STAGES
        if (found := figures["latency"][stage])
    ]
    pictures = "".join(
        f"<h3>{title}</h3>{_percentile_lines(figures, span, stage)}"
        for stage, title in (("total", "From queued to delivered"), ("queue", "Waiting"), ("inference", "Inference"))
    )
    legend = _legend(FIRST_GLANCE.values())
    return section("Durations", f"<p>Of jobs that succeeded{note}.</p>{table(head, rows)}{legend}{pictures}")


def _percentile_lines(figures: Figures, span: Span, stage: str) -> str:
    columns = figures["latency_over_time"]
    series = [
        Series(
            name=FIRST_GLANCE[key],
            colour=colour,
            points=[(at, row[stage] and row[stage][key]) for at, row in _centred(columns, span)],
        )
        for colour, key in reversed(list(enumerate(FIRST_GLANCE)))
    ]
    values = [value for one in series for _, value in one.points if value is not None]
    if not values:
        return '<p class="quiet">Not known.</p>'
    scale = charts.durations(min(values), max(values))
    return charts.lines(span, series, scale, _tick, name=f"Percentiles of {stage}")


def _memory(figures: Figures, span: Span) -> str:
    host = figures["host_memory"]
    beside = f"<p>On the host: half of them below {gib(host['p50'])}, at most {gib(host['max'])}.</p>" if host else ""
    if not figures["memory"]:
        return section("Memory per job", f'<p class="quiet">No job used the memory of a GPU.</p>{beside}')
    places = _colours(figures)
    marks = [
        Dot(
            at=_here(row["at"], span.end),
            value=row["mib"],
            colour=places.get(row["device"], 0),
            title=f"job {row['id']}: {gib(row['mib'])} on {row['device']}",
        )
        for row in figures["memory"]
    ]
    picture = charts.dots(
        span, marks, _memory_scale([mark.value for mark in marks]), _gib, name="Peak of GPU memory by job"
    )
    note = _sampled(figures["memory_every"])
    words = f"<p>Peak of allocated memory on each card{note}; jobs of one batch share theirs.</p>"
    return section("GPU memory per job", f"{words}{_legend(places)}{picture}{beside}")


def _cards(figures: Figures, span: Span) -> str:
    if not figures["cards"]:
        return ""
    head = ("card", "", "attempts", "busy", "computed for", "highest memory")
    rows = [
        (
            card["device"],
            card["name"] if card["name"] != card["device"] else "",
            _count(card["attempts"]),
            f"{card['busy']:.1%}",
            duration(card["busy_ms"]),
            "" if card["peak_mib"] is None else gib(card["peak_mib"]),
        )
        for card in figures["cards"]
    ]
    pictures = [_legend(_colours(figures))]
    if any(card["peak_mib"] is not None for card in figures["cards"]):
        pictures += ["<h3>Highest memory</h3>", _card_lines(figures, span, "peak_mib", _memory_scale, _gib)]
    pictures += ["<h3>Share of the time busy</h3>", _card_lines(figures, span, "busy", _share_scale, _percent)]
    return section("Cards", table(head, rows, words=2) + "".join(pictures))


def _memory_scale(mib: Sequence[float]) -> Scale:
    highest = max(mib)
    return charts.linear(highest, unit=1024 if highest >= 1024 else 1)


def _share_scale(parts: Sequence[float]) -> Scale:
    return charts.linear(max(parts), unit=0.01)


def _card_lines(
    figures: Figures, span: Span, key: str, scale: Callable[[Sequence[float]], Scale], label: Callable[[float], str]
) -> str:
    places = _colours(figures)
    series = [
        Series(name=device, colour=places[device], points=[(at, row[key]) for at, row in _centred(columns, span)])
        for device, columns in figures["cards_over_time"].items()
    ]
    values = [value for one in series for _, value in one.points if value is not None]
    if not values:
        return '<p class="quiet">Not known.</p>'
    return charts.lines(span, series, scale(values), label, name=f"{key} by card")


def _colours(figures: Figures) -> dict[str, int]:
    """Each card's colour, the same in every picture."""
    return {device: place % SERIES for place, device in enumerate(figures["cards_over_time"])}


def _centred(columns: Sequence[Any], span: Span) -> list[tuple[datetime, Any]]:
    """Each column with the moment in its middle."""
    starts = [*(_here(row["at"], span.end) for row in columns), span.end]
    return [(one + (other - one) / 2, row) for (one, other), row in zip(pairwise(starts), columns, strict=True)]


# ---------------------------------------------------------------------------------------------------------------- lists


def _failures(figures: Figures, span: Span) -> str:
    found = figures["failures"]
    if not found:
        return section("Failures", "<p>None.</p>")
    rows = [
        (
            row["error_class"] or "",
            "hidden, as names are" if row["error"] is None else row["error"],
            _count(row["jobs"]),
            f"{_moment(_here(row['last_at'], span.end))}, job {row['last_id']}",
        )
        for row in found[:15]
    ]
    rest = sum(row["jobs"] for row in found[15:])
    more = f'<p class="quiet">And {_count(rest)} more for other reasons.</p>' if rest else ""
    return section("Failures by reason", table(("class", "error", "jobs", "last"), rows, words=2) + more)


def _lists(figures: Figures) -> str:
    slow = [
        (
            str(row["id"]),
            row["source"],
            _shape(row),
            *(duration(row[f"{stage}_ms"]) for stage in ("decode", "inference", "render", "queue")),
        )
        for row in figures["slowest"]
    ]
    parts = [
        section(
            "Slowest jobs", table(("job", "scan", "size", "decode", "inference", "render", "waited"), slow, words=2)
        )
    ]
    large = [
        (str(row["id"]), row["source"], _shape(row), row["device"], _count(row["batch_size"] or 1), gib(row["mib"]))
        for row in figures["largest"]
    ]
    if large:
        parts.append(
            section("Largest jobs", table(("job", "scan", "size", "card", "batch", "GPU memory"), large, words=2))
        )
    return "\n".join(parts)


def _shape(row: Mapping[str, Any]) -> str:
    if row["width"] is None:
        return ""
    frames = f" x {row['frames']}" if (row["frames"] or 1) > 1 else ""
    return f"{row['width']} x {row['height']}{frames}"


def _models(figures: Figures) -> str:
    rows = [
        (row["segmenter"], row["model"], row["model_revision"], row["dtype"], f"{row['share']:.1%}")
        for row in figures["models"]
    ]
    if not rows:
        return ""
    return section("Models", table(("segmenter", "model", "revision", "dtype", "of the jobs"), rows, words=4))


def _evaluations(figures: Figures, span: Span) -> str:
    """Means over the scans, with the ends of their 95 % intervals."""

    def mean(row: Mapping[str, Any], name: str) -> str:
        value, low, high = (row[f"{name}{which}"] for which in ("", "_low", "_high"))
        bounds = "" if low is None else f" ({low:.3f} to {high:.3f})"
        return "" if value is None else f"{value:.3f}{bounds}"

    rows = [
        (
            _moment(_here(row["at"], span.end)),
            row["model"],
            "" if row["truth"] is None else row["truth"],
            "" if row["threshold"] is None else f"{row['threshold']:g}",
            _count(row["scans"]),
            mean(row, "dice"),
            mean(row, "cldice"),
        )
        for row in figures["evaluations"]
    ]
    head = ("evaluated", "model", "drawn masks", "threshold", "scans", "Dice, 95 %", "clDice, 95 %")
    words = "<p>By <code>watcherd evaluate</code>, the newest first. Compare only what has the same drawn masks.</p>"
    return section("Evaluations", words + table(head, rows, words=3))


def _service(figures: Figures, span: Span) -> str:
    restarts, again = figures["restarts"], figures["duplicates"]
    words = (
        f"<p>The service was started {_times(restarts['daemon_starts'])}, copies of the model "
        f"{_times(restarts['replica_starts'])}. Not ended in good order: runs of the service "
        f"{_count(restarts['daemon_deaths'])}, copies {_count(restarts['replica_deaths'])}. "
        f"Dropped again: {_count(again['files'])}, of {_count(again['scans'])} scans.</p>"
    )
    deaths = [("service", f"run {row['id']}", row) for row in figures["runs"] if row["in_order"] is False]
    deaths += [
        ("copy", f"{row['number']} of run {row['run_id']}", row)
        for row in figures["replicas"]
        if row["in_order"] is False
    ]
    deaths.sort(key=lambda death: death[2]["ended_at"], reverse=True)
    rows = [
        (what, which, _moment(_here(row["ended_at"], span.end)), row["end_reason"] or "")
        for what, which, row in deaths[:15]
    ]
    return section("Service", words + (table(("died", "", "noticed", "why"), rows, words=4) if rows else ""))


# ---------------------------------------------------------------------------------------------------------------- words


def _legend(names: Iterable[str]) -> str:
    keys = "".join(f'<li><i class="s{place % SERIES}"></i>{escape(name)}</li>' for place, name in enumerate(names))
    return f'<ul class="legend">{keys}</ul>'


def _sampled(step: int) -> str:
    return "" if step == 1 else f", one in {step} or so"


def _here(stamp: str, like: datetime) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(like.tzinfo)


def _moment(at: datetime) -> str:
    return f"{at.day} {at:%b %Y %H:%M}"


def _day(at: datetime) -> str:
    return f"{at.day} {at:%b %Y}"


def _width(width: timedelta) -> str:
    hours = round(width.total_seconds() / 3600)
    count, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return unit if count == 1 else f"{count} {unit}s"


def _count(number: float) -> str:
    return f"{number:,.1f}" if 0 < number < 10 and number != int(number) else f"{number:,.0f}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{_count(count)} times"


def _gib(mib: float) -> str:
    """As `gib`, in steps of an axis."""
    return "0" if not mib else f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:g} GiB"


def _percent(part: float) -> str:
    return f"{round(100 * part, 2):g}%"


def _tick(ms: float) -> str:
    """As `duration`, without the zeros: ``10 s``."""
    return duration(ms).replace(".0 ", " ")
