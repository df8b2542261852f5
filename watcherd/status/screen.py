"""Drawing: the words of `words` on a terminal, and as plain lines for everything else.

Colour is never the only sign: what is red says so in words too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from watcherd.status import words
from watcherd.status.units import AMBER, STATE_COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from watcherd.status.words import Notice

TONES = {"good": "green", "note": "cyan", "warn": AMBER, "bad": "bold red"}
SIGNS = {"good": "●", "note": "●", "warn": "▲", "bad": "■"}
BAR = 24
"""Columns of a bar, where there is room."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def status_screen(answer: Mapping[str, Any], now: datetime) -> RenderableType:
    """`watcherd status` for a terminal of 80 columns or more."""
    daemon = answer["daemon"]
    parts = [
        _head(answer, now),
        _indented(_pairs(words.facts(answer, now))),
        _titled("replicas", replica_table(daemon)) if words.replicas(daemon) else None,
        _titled("cards", gauge_table(daemon)) if words.gauges(daemon) else None,
        _titled("last failures", _failures(answer, now)) if answer["failures"] else None,
    ]
    return Group(*_spaced([part for part in parts if part is not None]))


def plain_lines(answer: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """`watcherd status` for a file, a pipe or a mail: the same words, no columns to count."""
    for notice in (words.headline(answer, now), *words.notices(answer)):
        yield notice.text
        if notice.todo:
            yield f"  {notice.todo}"
    for replica in words.replicas(answer["daemon"]):
        said = ", ".join(filter(None, [replica.state, replica.doing, replica.memory]))
        of_model = f" of {replica.model}" if replica.model else ""
        yield f"replica {replica.number}{of_model} on {replica.devices}: {said}"
    for gauge in words.gauges(answer["daemon"]):
        yield f"card {gauge.label} {gauge.name}: {gauge.text}"
    facts = words.facts(answer, now)
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"{name:<{width}}  {value}"
    for record in answer["failures"]:
        failure = words.failure(record, now)
        yield f"failed  {failure.title}, {failure.source}: {failure.error}"
        if failure.advice:
            yield f"        {failure.advice}"


def _head(answer: Mapping[str, Any], now: datetime) -> RenderableType:
    return Group(*map(notice_line, (words.headline(answer, now), *words.notices(answer))))


def notice_line(notice: Notice) -> RenderableType:
    """A sign, the words, and below them what to do."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    grid.add_row(Text(SIGNS[notice.tone], TONES[notice.tone]), Text(notice.text, TONES[notice.tone]))
    if notice.todo:
        grid.add_row("", Text(notice.todo, "dim"))
    return grid


def _pairs(facts: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in facts.items():
        grid.add_row(name, value)
    return grid


def replica_table(daemon: Mapping[str, Any] | None) -> Table:
    """One line for each replica."""
    rows = words.replicas(daemon)
    grid = Table.grid(padding=(0, 2))
    for overflow in ("", "", "fold", "", "fold"):
        grid.add_column(overflow="fold" if overflow else "ellipsis", no_wrap=not overflow)
    for row in rows:
        called = f"{row.number} {row.model}".rstrip()
        grid.add_row(called, Text(row.state, TONES[row.tone]), row.devices, row.memory, row.doing)
    return grid


def gauge_table(daemon: Mapping[str, Any] | None) -> Table:
    """One bar for each card. Where room is short, the bars and the names of the cards give way, never the figures."""
    grid = Table.grid(padding=(0, 2))
    for whole in (True, False, True, False):
        grid.add_column(no_wrap=whole)
    for gauge in words.gauges(daemon):
        name = Text(gauge.name, "dim", no_wrap=True, overflow="ellipsis")
        grid.add_row(gauge.label, _Bar(gauge.fraction), gauge.text, name)
    return grid


@dataclass(frozen=True, slots=True)
class _Bar:
    """A bar that is as wide as its place."""

    fraction: float | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield bar(self.fraction, min(BAR, options.max_width))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(BAR, options.max_width))


def bar(fraction: float | None, width: int = BAR) -> Text:
    """A bar of ``width`` columns, to an eighth of a column; dots where nothing is known."""
    if fraction is None:
        return Text("·" * width, "dim")
    eighths = round(min(1.0, max(0.0, fraction)) * width * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (EIGHTHS[rest] if rest else "")
    colour = "red" if fraction > 0.95 else AMBER if fraction > 0.85 else "green"
    return Text.assemble((drawn, colour), ("░" * (width - len(drawn)), "bright_black"))


def _failures(answer: Mapping[str, Any], now: datetime) -> RenderableType:
    lines: list[RenderableType] = []
    for record in answer["failures"]:
        failure = words.failure(record, now)
        lines.append(Text.assemble((failure.title, "red"), "  ", failure.source, overflow="fold"))
        lines.append(_indented(Text(failure.error)))
        if failure.advice:
            lines.append(_indented(Text(failure.advice, "dim")))
    return Group(*lines)


def state_text(state: str) -> Text:
    """A job's state in its colour."""
    return Text(state, STATE_COLOURS.get(state, ""))


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), _indented(body))


def _indented(body: RenderableType) -> RenderableType:
    return Padding(body, (0, 0, 0, 2))


def _spaced(parts: list[RenderableType]) -> list[RenderableType]:
    """With an empty line between two parts."""
    return [piece for part in parts for piece in (part, Text())][:-1]
