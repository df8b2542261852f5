"""Shell completion: the shell is told of commands, options and values."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def ask(words: str, shell: str = "bash", **more: str) -> str:
    """What the shell would be told at the end of this command line."""
    environment = {"_WATCHERD_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    answer = subprocess.run(
        [sys.executable, "-m", "watcherd"], capture_output=True, text=True, env=os.environ | environment | more
    )
    return answer.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("watcherd s", {"show", "status", "stop", "submit"}),
        ("watcherd jobs --st", {"--state"}),
        ("watcherd jobs --state q", {"queued", "quarantined"}),
        ("watcherd jobs --sort fin", {"finished"}),
        ("watcherd retry --error-class m", {"memory"}),
        ("watcherd comp", {"compare"}),
        ("watcherd compare default other --pi", {"--pictures"}),
    ],
)
def test_commands_options_and_values_are_completed(words: str, expected: set[str]) -> None:
    """What begins like the last word."""
    assert expected == set(ask(words).split())


@pytest.mark.parametrize(
    ("shell", "registers"),
    [("bash", "complete -o default"), ("zsh", "#compdef watcherd"), ("fish", "complete --command")],
)
def test_the_script_for_each_shell_is_printed_from_any(shell: str, registers: str) -> None:
    """As the documentation says, to be put where the shell looks; `--show-completion` knows but the shell it is in."""
    answer = subprocess.run(
        [sys.executable, "-m", "watcherd"],
        capture_output=True,
        text=True,
        env=os.environ | {"_WATCHERD_COMPLETE": f"source_{shell}"},
    )
    assert "" == answer.stderr
    assert registers in answer.stdout
    assert "watcherd" in answer.stdout


def test_models_are_completed_as_the_configuration_calls_them(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[models.trial]\n[models.retina]\n")
    assert {"trial"} == set(ask("watcherd compare t", WATCHERD_CONFIG=str(config)).split())
    assert {"default", "trial", "retina"} == set(ask("watcherd compare trial ", WATCHERD_CONFIG=str(config)).split())
    config.write_text("[models")
    assert [] == ask("watcherd compare t", WATCHERD_CONFIG=str(config)).split()
