"""docs/guarantees.md names a test for each promise, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.test_crash_points import CHAINS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
PROMISES = PAGE.partition("\n## ")[0]


def rows() -> Iterator[tuple[int, list[tuple[list[str], str]]]]:
    """Each promise's number, and the functions that it names in each file of tests."""
    for number, cell in re.findall(r"^\| (\d+) \|.*\|(.*)\|$", PROMISES, re.MULTILINE):
        parts = re.findall(r"((?:`test_\w+`[^`]*)+) in `(tests/[\w/]+\.py)`", cell)
        yield int(number), [(re.findall(r"`(test_\w+)`", names), file) for names, file in parts]


def test_each_promise_names_its_tests() -> None:
    """Each with functions, in order without gaps, and every file that is named with at least one."""
    numbers = [number for number, _ in rows()]
    assert list(range(1, len(numbers) + 1)) == numbers
    assert f"[{len(numbers)} promises](docs/guarantees.md)" in (ROOT / "README.md").read_text()
    assert [] == [number for number, tests in rows() if not tests]
    named = [file for _, tests in rows() for _, file in tests]
    assert sorted(re.findall(r"`(tests/[\w/]+\.py)`", PAGE.partition("| 1 |")[2])) == sorted(named)


def test_tests_that_are_named_are_there() -> None:
    """In the very file that the page says."""
    for number, tests in rows():
        for names, file in tests:
            written = (ROOT / file).read_text()
            assert [] == [name for name in names if f"\ndef {name}(" not in written], f"promise {number}"


def test_chains_that_are_named_are_there() -> None:
    """The words in brackets behind the test of the crash points."""
    named = re.findall(r"`test_killed_again_and_again_it_loses_nothing` \(([^)]+)\)", PAGE)
    assert {word for words in named for word in words.split(", ")} <= CHAINS.keys()
    assert 5 <= len(named)
