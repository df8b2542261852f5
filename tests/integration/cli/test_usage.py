"""What every command shares: help, mistakes in the command line, and the exit codes of sysexits.h."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer

from watcherd.cli.app import app, run

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


EVERY_COMMAND = dict(commands(typer.main.get_command(app)))
PROMISED = (
    "run", "demo", "status", "jobs", "show", "retry", "cancel", "pause", "resume", "plan", "doctor", "install-service",
    "uninstall-service", "prune",
)  # fmt: skip
PROMISED_GROUPS = {("db", "upgrade"), ("db", "backup"), ("db", "check"), ("config", "check")}


SERVICES = {(name,) for name in ("run", "web", "top", "head", "worker", "bridge")}


def test_every_promised_command_is_there() -> None:
    """Scripts and units call them by these names."""
    assert {(name,) for name in PROMISED} | PROMISED_GROUPS <= EVERY_COMMAND.keys()


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_every_command_and_option_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` has a sentence for the command and one for each option, and exit code 0."""
    assert 0 == run([*words, "--help"])
    said = capsys.readouterr().out
    assert f"watcherd {' '.join(words)}" in said
    command = EVERY_COMMAND[words]
    assert re.match(r"[A-Z].*[.;]", command.help), command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"


@pytest.mark.parametrize("words", [words for words in EVERY_COMMAND if words not in SERVICES], ids=" ".join)
def test_every_command_that_prints_has_json(words: tuple[str, ...]) -> None:
    """All but services and screens."""
    assert any("--json" in parameter.opts for parameter in EVERY_COMMAND[words].params)


def test_help_of_all_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """``watcherd --help``; and ``watcherd``, ``watcherd db`` alone, which is a mistake but a common one."""
    assert 0 == run(["--help"])
    said = capsys.readouterr().out
    for words in EVERY_COMMAND:
        assert words[0] in said
    for alone, inside in (([], "doctor"), (["db"], "upgrade"), (["config"], "check")):
        assert 64 == run(alone)
        answer = capsys.readouterr()
        assert inside in answer.out + answer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["statsu"], "statsu"),
        (["status", "--jsno"], "--jsno"),
        (["show"], "ID|NAME"),
        (["retry", "seven"], "integer"),
        (["db", "explode"], "explode"),
        (["run", "now"], "now"),
        (["jobs", "--limit"], "--limit"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_with_64(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong stands on stderr; stdout stays empty."""
    assert 64 == run(arguments)
    answer = capsys.readouterr()
    assert "" == answer.out
    assert said.lower() in answer.err.lower()
