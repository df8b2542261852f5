"""docs/guarantees.md names a test for each promise, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()


def test_each_promise_names_its_tests() -> None:
    """22 rows, each with at least one file of tests that is there."""
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 23))
    for number, _, tests in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert files, f"promise {number} names no test"
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_tests_that_are_named_are_there() -> None:
    """No name of a test in the page is out of date."""
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", PAGE) if f"def {name}(" not in written] == []
