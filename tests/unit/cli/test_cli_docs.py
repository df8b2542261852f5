"""docs/cli.md tells of every command and every exit code, and its pictures are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_docs import EVERY_COMMAND
from watcherd import errors
from watcherd.status.words import PHASES

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
TEXT = PAGE.read_text()


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_command_has_its_place(command: str) -> None:
    """In a row with its exit codes, or in a table of its own."""
    row = re.search(rf"^\| `{command}\b[^`]*` \|.*\|.*\|$", TEXT, re.MULTILINE)
    assert row or re.search(rf"^`{command}` .+?^\| 0 \|", TEXT, re.MULTILINE | re.DOTALL)


def test_every_exit_code_is_explained() -> None:
    """Those that errors have, and that of Ctrl-C."""
    table = TEXT.partition("## Exit codes")[2].partition("## Look")[0]
    known = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert known | {0, 130} == explained


def test_every_first_line_of_status_is_explained() -> None:
    """The words that a person sees."""
    for words in ("PAUSED", "OFFLINE", "NO REPLICA IS READY", "FROZEN", "It was killed", PHASES["loading"]):
        assert re.search(rf"^\| `.*{words}", TEXT, re.MULTILINE), words


def test_its_pictures_are_there_and_ask_nobody() -> None:
    """No fonts from other servers."""
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", TEXT):
        content = (PAGE.parent / picture).read_text()
        assert "<svg" in content
        assert "@font-face" not in content
