"""Pictures: what lies where, round scales, and nothing of a text that becomes markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from watcherd.report import charts
from watcherd.report.charts import Bar, Dot, Series, Span

START = datetime(2026, 1, 2, tzinfo=UTC)
SPAN = Span(start=START, end=START + timedelta(hours=10))
GROUND, CEILING = charts.HEIGHT - charts.BOTTOM, charts.TOP
HOSTILE = '</title><script>alert("1")</script>'


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def marks(picture: str, tag: str, kind: str) -> list[ET.Element]:
    """The elements whose class begins so; the picture has to be well-formed for that."""
    return [mark for mark in elements(picture) if mark.tag == tag and mark.get("class", "").startswith(kind)]


def elements(picture: str) -> list[ET.Element]:
    return list(ET.fromstring(picture).iter())  # noqa: S314 - our own words


@pytest.mark.parametrize(("highest", "top"), [(0, 1), (1, 1), (3, 3), (7, 8), (101, 150), (1383, 1500), (1e6, 1e6)])
def test_a_scale_ends_at_a_round_number(highest: float, top: float) -> None:
    """Never below the highest value."""
    scale = charts.linear(highest, whole=True)
    assert top == scale.top
    assert len(scale.ticks) <= 6


def test_a_scale_of_memory_has_round_gibibytes() -> None:
    assert (0, 5120, 10240, 15360, 20480) == charts.linear(18_999, unit=1024).ticks


def test_a_scale_of_durations_counts_as_people_do() -> None:
    """Three steps at least; what is too long for it lies at its edge."""
    assert (100, 1000, 10_000, 60_000) == charts.durations(150, 55_000).ticks
    assert (1, 10, 100, 1000) == charts.durations(0, 0).ticks
    endless = charts.durations(1, 1e15)
    assert CEILING == endless.y(1e15)
    assert GROUND == endless.y(0)


def test_columns_stand_on_one_another() -> None:
    """The first part on the ground, in proportion; a part that is nothing is not drawn."""
    columns = [
        Bar(start=at(0), end=at(5), parts=(3, 1), title="a"),
        Bar(start=at(5), end=at(10), parts=(0, 0), title="b"),
    ]
    picture = charts.bars(SPAN, columns, str, name="n")
    lower, upper = (marks(picture, "rect", kind)[0] for kind in ("s0", "s1"))
    height = GROUND - CEILING
    assert pytest.approx([GROUND - 0.75 * height, 0.75 * height]) == [
        float(lower.get(key, "")) for key in ("y", "height")
    ]
    assert pytest.approx([CEILING, 0.25 * height]) == [float(upper.get(key, "")) for key in ("y", "height")]
    assert 1 == len(marks(picture, "rect", "s0"))
    assert 2 == len(marks(picture, "rect", "hit"))


def test_a_line_is_broken_where_nothing_is_known() -> None:
    """A value that stands alone is a dot."""
    points = [(at(1), 1.0), (at(2), 2.0), (at(3), None), (at(4), 4.0), (at(5), None)]
    picture = charts.lines(SPAN, [Series(name="n", points=points)], charts.linear(4), str, name="n")
    assert [2] == [len(line.get("points", "").split()) for line in marks(picture, "polyline", "line")]
    assert 1 == len(marks(picture, "circle", "dot"))


def test_a_dot_lies_at_its_moment_and_value() -> None:
    """And never outside of the picture."""
    scale = charts.linear(4)
    found = marks(
        charts.dots(SPAN, [Dot(at=at(5), value=2, title=""), Dot(at=at(99), value=9, title="")], scale, str, name="n"),
        "circle",
        "dot",
    )
    middle = charts.LEFT + (charts.WIDTH - charts.LEFT - charts.RIGHT) / 2
    assert [
        [middle, (GROUND + CEILING) / 2],
        [charts.WIDTH - charts.RIGHT, CEILING],
    ] == [[float(dot.get(key, "")) for key in ("cx", "cy")] for dot in found]


def test_no_text_becomes_markup() -> None:
    """Titles and names come from outside: devices, models."""
    pictures = (
        charts.bars(SPAN, [Bar(start=at(0), end=at(1), parts=(1,), title=HOSTILE)], lambda _: HOSTILE, name=HOSTILE),
        charts.lines(SPAN, [Series(name=HOSTILE, points=[(at(1), 1.0)] * 2)], charts.linear(1), str, name=HOSTILE),
        charts.dots(SPAN, [Dot(at=at(1), value=1, title=HOSTILE)], charts.linear(1), str, name=HOSTILE),
    )
    for picture in pictures:
        assert "<script" not in picture
        assert {"div", "svg", "g", "title", "rect", "circle", "line", "polyline", "text"} >= {
            mark.tag for mark in elements(picture)
        }


@pytest.mark.parametrize("hours", [1, 5, 24, 100, 24 * 7, 24 * 90, 24 * 365 * 3, 24 * 365 * 40])
def test_there_are_a_few_ticks_whatever_the_length(hours: int) -> None:
    """Ten at most, all of them within."""
    span = Span(start=at(0.5), end=at(0.5 + hours))
    ticks = charts.time_ticks(span)
    assert len(ticks) <= charts.MOST_TICKS + 1
    assert all(span.start <= moment <= span.end for moment, _ in ticks)


def test_days_begin_at_midnight_of_the_persons_clock() -> None:
    """Also where the clocks were changed in between."""
    start = datetime(2026, 3, 27, 6, tzinfo=ZoneInfo("Europe/Berlin"))
    ticks = charts.time_ticks(Span(start=start, end=start + timedelta(days=5)))
    assert ["28 Mar", "29 Mar", "30 Mar", "31 Mar", "1 Apr"] == [words for _, words in ticks]
    assert {0} == {moment.hour for moment, _ in ticks}
