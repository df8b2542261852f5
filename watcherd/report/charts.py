"""Pictures as SVG inside a page: bars, lines and dots over time. Text in, text out; nothing is imported for it.

Colours are the page's: every mark has the class of its series (``s0`` to ``s7``), so that one style sheet serves light
and dark. What a mark means is said by its ``title``, which browsers show under the pointer without any script.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WIDTH, HEIGHT = 960, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 26
"""Room for the labels around the plot, in the picture's own units."""
SECOND, MINUTE, HOUR, DAY = 1e3, 6e4, 3.6e6, 8.64e7
DURATIONS = (1.0, 10.0, 100.0, SECOND, 10 * SECOND, MINUTE, 10 * MINUTE, HOUR, 10 * HOUR, 4 * DAY, 40 * DAY, 400 * DAY)
"""Ticks of an axis of milliseconds, nearly evenly apart on it."""
FEWEST_DURATIONS = 3
"""Steps of an axis of durations, at least, so that a steady duration looks steady."""
MOST_TICKS = 9
SERIES = 8
"""Colours that the page has; further series begin again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The time that a picture shows, with the zone of the person who looks at it."""

    start: datetime
    end: datetime

    def x(self, at: datetime) -> float:
        """Where a moment lies; never outside."""
        part = (at - self.start) / (self.end - self.start)
        return LEFT + min(1.0, max(0.0, part)) * (WIDTH - LEFT - RIGHT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The axis of the values: ``top`` and the marked ``ticks``; with ``bottom`` above 0 it is logarithmic."""

    bottom: float
    top: float
    ticks: tuple[float, ...]

    def y(self, value: float) -> float:
        """Where a value lies; never outside."""
        if self.bottom > 0:
            part = math.log(max(value, self.bottom) / self.bottom) / math.log(self.top / self.bottom)
        else:
            part = value / self.top
        return HEIGHT - BOTTOM - min(1.0, max(0.0, part)) * (HEIGHT - TOP - BOTTOM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Values at moments; None leaves a gap."""

    name: str
    points: Sequence[tuple[datetime, float | None]]
    colour: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A column from ``start`` to ``end``: its parts from the ground up, and its words."""

    start: datetime
    end: datetime
    parts: Sequence[float]
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """One value at a moment, and its words."""

    at: datetime
    value: float
    title: str
    colour: int = 0


def linear(highest: float, *, whole: bool = False, unit: float = 1.0) -> Scale:
    """From 0 to a round number of ``unit`` that is not below ``highest``, in three to five steps of 1, 2 or 5."""
    highest = highest / unit if highest > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 5 >= highest)
    if whole:
        step = max(1.0, step)
    count = math.ceil(highest / step - 1e-9)
    return Scale(bottom=0.0, top=count * step * unit, ticks=tuple(place * step * unit for place in range(count + 1)))


def durations(lowest: float, highest: float) -> Scale:
    """Milliseconds on a logarithmic axis around all values, from 1 ms on; its ticks are what people count in."""
    first = max((place for place, tick in enumerate(DURATIONS) if tick <= lowest), default=0)
    last = next((place for place, tick in enumerate(DURATIONS) if tick >= highest), len(DURATIONS) - 1)
    last = max(last, FEWEST_DURATIONS)
    first = min(first, last - FEWEST_DURATIONS)
    ticks = DURATIONS[first : last + 1]
    return Scale(bottom=ticks[0], top=ticks[-1], ticks=ticks)


def bars(span: Span, columns: Sequence[Bar], label: Callable[[float], str], *, name: str) -> str:
    """Stacked columns of counts."""
    scale = linear(max((sum(bar.parts) for bar in columns), default=0), whole=True)
    return _picture(name, [*_frame(span, scale, label), *(mark for bar in columns for mark in _bar(span, scale, bar))])


def _bar(span: Span, scale: Scale, bar: Bar) -> Iterator[str]:
    left, right = span.x(bar.start), span.x(bar.end)
    gap = min(1.5, (right - left) / 6)
    # The whole height answers to the pointer: a column of three failures is too low to be met.
    whole = _box(left, TOP, right - left, HEIGHT - BOTTOM - TOP)
    yield f'<g><title>{escape(bar.title)}</title><rect class="hit" {whole}/>'
    below = 0.0
    for colour, part in enumerate(bar.parts):
        if part > 0:
            top, bottom = scale.y(below + part), scale.y(below)
            yield f'<rect class="s{colour}" {_box(left + gap / 2, top, right - left - gap, bottom - top)}/>'
        below += part
    yield "</g>"


def lines(span: Span, series: Sequence[Series], scale: Scale, label: Callable[[float], str], *, name: str) -> str:
    """A line for each series, broken where nothing is known."""
    return _picture(name, [*_frame(span, scale, label), *(mark for one in series for mark in _line(span, scale, one))])


def _line(span: Span, scale: Scale, series: Series) -> Iterator[str]:
    colour = f"s{series.colour % SERIES}"
    for piece in _pieces(series.points):
        places = [f"{span.x(at):.1f},{scale.y(value):.1f}" for at, value in piece]
        title = f"<title>{escape(series.name)}</title>"
        if len(places) == 1:
            x, _, y = places[0].partition(",")
            yield f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="4">{title}</circle>'
        else:
            yield f'<polyline class="line {colour}" points="{" ".join(places)}">{title}</polyline>'


def _pieces(points: Iterable[tuple[datetime, float | None]]) -> Iterator[list[tuple[datetime, float]]]:
    piece: list[tuple[datetime, float]] = []
    for at, value in points:
        if value is not None:
            piece.append((at, value))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def dots(span: Span, marks: Iterable[Dot], scale: Scale, label: Callable[[float], str], *, name: str) -> str:
    """One dot for each value."""
    drawn = (
        f'<circle class="dot s{dot.colour % SERIES}" cx="{span.x(dot.at):.1f}" cy="{scale.y(dot.value):.1f}" r="2.2">'
        f"<title>{escape(dot.title)}</title></circle>"
        for dot in marks
    )
    return _picture(name, [*_frame(span, scale, label), *drawn])


def time_ticks(span: Span) -> list[tuple[datetime, str]]:
    """Moments at full hours or midnights of the person's clock, nine at most, and what is written below them."""
    length = span.end - span.start
    for hours in (1, 2, 3, 6, 12):
        if length <= MOST_TICKS * timedelta(hours=hours):
            return [(at, _hour_label(at)) for at in _every(span, timedelta(hours=hours))]
    days = next((days for days in (1, 2, 7, 14, 28, 91, 182) if length <= MOST_TICKS * timedelta(days=days)), None)
    step = timedelta(days=days or math.ceil(length.days / MOST_TICKS))
    with_year = span.start.year != span.end.year
    return [(at, f"{at.day} {at:%b %Y}" if with_year else f"{at.day} {at:%b}") for at in _every(span, step)]


def _hour_label(at: datetime) -> str:
    return f"{at.day} {at:%b}" if at.hour == 0 else f"{at:%H:%M}"


def _every(span: Span, step: timedelta) -> Iterator[datetime]:
    """Steps counted from the midnight before the start."""
    at = span.start.replace(hour=0, minute=0, second=0, microsecond=0)
    while at <= span.end:
        if at >= span.start:
            yield at
        at += step


def _frame(span: Span, scale: Scale, label: Callable[[float], str]) -> Iterator[str]:
    """Lines across at the ticks, and the words beside and below."""
    for tick in scale.ticks:
        y = scale.y(tick)
        kind = "axis" if tick == scale.ticks[0] else "grid"
        yield f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="y" x="{LEFT - 8}" y="{y + 4:.1f}">{escape(label(tick))}</text>'
    for at, words in time_ticks(span):
        x = span.x(at)
        if x <= WIDTH - RIGHT - 16:  # half of a label would be cut off at the edge
            yield f'<text class="x" x="{x:.1f}" y="{HEIGHT - 8}">{escape(words)}</text>'
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'x="{x:.1f}" y="{y:.1f}" width="{max(0.5, width):.1f}" height="{max(0.5, height):.1f}"'


def _picture(name: str, marks: Iterable[str]) -> str:
    inside = "\n".join(marks)
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">\n{inside}\n</svg>'
    return f'<div class="wide">{svg}</div>'
