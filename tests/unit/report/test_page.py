"""The page of a report: whole, alone, and deaf to what hostile names ask of it."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_report import NOON, PERIOD, done, facts, failed, listed
from watcherd.report.figures import figures
from watcherd.report.html import POLICY
from watcherd.report.page import page
from watcherd.report.style import STYLE
from watcherd.store.summary import Sample

HOSTILE = "\"'><script src=//evil>alert(1)</script><img src=x onerror=alert(1)>&amp;.png"

FULL: dict[str, Any] = {
    "ended": {"succeeded": 40, "failed": 2},
    "hours": [{"hour": "2026-01-02T13", "succeeded": 40, "failed": 2}],
    "sample": Sample(step=3, rows=[done("12:10"), done("13:10", model=HOSTILE)]),
    "memory": Sample(
        step=1, rows=[{"id": 7, "finished_at": "2026-01-02T12:30:00.000Z", "device": HOSTILE, "mib": 18_999.0}]
    ),
    "device_hours": [
        {"hour": "2026-01-02T12", "device": HOSTILE, "name": HOSTILE, "attempts": 2, "busy_ms": 900_000, "mib": 800.0}
    ],
    "failures": [failed(HOSTILE, 2)],
    "slowest": [listed(HOSTILE)],
    "largest": [listed(HOSTILE)],
    "duplicates": {"files": 3, "scans": 2},
    "runs": [
        {
            "id": 1,
            "started_at": "2026-01-02T12:00:00.000Z",
            "ended_at": "2026-01-02T13:00:00.000Z",
            "end_reason": HOSTILE,
        }
    ],
    "evaluations": [
        {"id": 1, "at": "2026-01-02T12:30:00.000Z", "model": HOSTILE, "threshold": 0.5, "profile": None}
        | {"truth": HOSTILE, "scans": 28, "failed": 0, "dice": 0.777, "dice_low": 0.769, "dice_high": 0.787}
        | {"cldice": None, "cldice_low": None, "cldice_high": None}
    ],
}
"""Something of everything, with hostile words wherever words may come from outside."""


def made(*, hide_names: bool = False, **parts: Any) -> str:
    answer = figures(facts(**parts), hide_names=hide_names)
    return page(answer, inbox=Path("/srv/inbox"), made_at=PERIOD.until)


class Reader(HTMLParser):
    """What a browser would see: the tags with their attributes, the text, and whether all is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_words_are_shown_and_not_obeyed() -> None:
    """In names, errors, models, devices and reasons."""
    read = Reader(made(**FULL))
    assert HOSTILE in read.text
    assert not read.tags & {"script", "img", "link", "iframe", "object", "a"}
    assert not {name for name in read.attributes if name.startswith("on") or name in ("src", "href")}
    assert [] == read.open


def test_the_page_asks_for_nothing() -> None:
    """No address in it, and its own policy allows none and no script."""
    content = made(**{**FULL, "slowest": [listed()]}).replace("//evil", "")
    assert not re.search(r"(?:https?:)?//|@import|url\(", content)
    assert f'content="{POLICY}"' in content
    assert "default-src 'none'" in POLICY
    assert "script-src" not in POLICY


def test_hidden_names_are_nowhere_on_the_page() -> None:
    rows: dict[str, Any] = {"slowest": [listed()], "largest": [listed()], "failures": [failed("Smith.png is cut", 1)]}
    assert "Smith" in made(**FULL | rows)
    hidden = made(hide_names=True, **FULL | rows)
    assert "Smith" not in hidden
    assert "job 7" in hidden


def test_an_empty_history_says_so() -> None:
    """And what to do; there are no pictures of nothing."""
    read = Reader(made())
    assert "Nothing happened" in read.text
    assert "--since" in read.text
    assert "svg" not in read.tags


def test_a_sample_is_called_one() -> None:
    """And all is not."""
    assert "one in 3 or so" in made(**FULL)
    assert "or so" not in made(**FULL | {"sample": Sample(step=1, rows=[done("12:10")])})


@pytest.mark.parametrize("missing", [*FULL])
def test_a_page_without_one_of_its_parts_is_whole(missing: str) -> None:
    """A CPU has no cards, a good week no failures."""
    assert [] == Reader(made(**{key: value for key, value in FULL.items() if key != missing})).open


def test_what_was_measured_stands_there() -> None:
    """The figures of the tiles and of the tables."""
    text = Reader(made(**FULL)).text
    for words in ("42", "4.8%", "1.0 s", "800 MiB", "2 Jan 2026 12:00", "Failures by reason", "Slowest jobs"):
        assert words in text


def test_a_cpu_is_named_once_and_has_no_picture_of_its_memory() -> None:
    """There is nothing to draw."""
    cpu = {"hour": "2026-01-02T12", "device": "cpu", "name": "cpu", "attempts": 2, "busy_ms": 900_000, "mib": None}
    read = Reader(made(**FULL | {"device_hours": [cpu], "memory": Sample(step=1, rows=[])}))
    assert "cpucpu" not in read.text
    assert "Share of the time busy" in read.text
    assert "Highest memory" not in read.text
    assert "Highest memory" in Reader(made(**FULL)).text


def test_percentiles_have_one_name_in_tables_and_legends() -> None:
    """In words: not everybody knows what p95 is."""
    content = made(**FULL)
    assert ">p95<" not in content
    assert '<th class="n">95 of 100</th>' in content
    assert "</i>95 of 100</li>" in content
    assert "<title>95 of 100</title>" in content


def test_pictures_and_tables_that_are_wider_than_a_phone_move_by_themselves() -> None:
    """Shrunk to a phone's width the labels of a picture could not be read."""
    content = made(**FULL)
    assert content.count('<div class="wide"><svg') == content.count("<svg") > 0
    assert content.count('<div class="wide"><table') == content.count("<table") > 0
    assert re.search(r"svg \{[^}]*min-width: 720px", STYLE)


def test_times_are_those_of_the_persons_zone() -> None:
    """And the page says which."""
    answer = figures(facts(**FULL), hide_names=False)
    zone = (NOON + timedelta(0)).astimezone(None).tzinfo
    there = PERIOD.until.astimezone(zone)
    assert str(there.tzname()) in page(answer, inbox=Path("/srv/inbox"), made_at=there)


def test_light_and_dark_have_the_same_colours_to_give() -> None:
    """A colour that is missing in one would be the other's, and could not be read."""
    in_the_dark = re.compile(r"@media \(prefers-color-scheme: dark\) \{\s*:root \{.*?\}\s*\}", re.DOTALL)
    dark, light = "".join(in_the_dark.findall(STYLE)), in_the_dark.sub("", STYLE)
    names = [re.findall(r"(--\w+):", part) for part in (light, dark)]
    assert sorted(names[0]) == sorted(names[1])
    assert set(re.findall(r"var\((--\w+)\)", STYLE)) == set(names[0])
