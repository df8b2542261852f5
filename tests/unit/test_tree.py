"""Tests try the tree that they lie in, also in the processes that they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tree import ROOT, python_path

WHERE = "import watcherd; print(watcherd.__path__[0])"


def said(command: list[str | Path], **how: object) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **how).stdout  # type: ignore[call-overload]


def test_a_process_anywhere_finds_this_tree(tmp_path: Path) -> None:
    """With the environment that all tests inherit."""
    assert str(ROOT / "watcherd") == said([sys.executable, "-c", WHERE], cwd=tmp_path).strip()


def test_what_is_loaded_before_a_process_begins_finds_this_tree(tmp_path: Path) -> None:
    """A `sitecustomize` runs before the current folder is searched: it found what is installed."""
    (tmp_path / "sitecustomize.py").write_text(WHERE)
    environment = os.environ | {"PYTHONPATH": python_path(tmp_path)}
    assert str(ROOT / "watcherd") == said([sys.executable, "-c", ""], cwd=tmp_path, env=environment).strip()


@pytest.mark.parametrize("program", ["python", "watcherd"])
@pytest.mark.parametrize("environment", [{}, {"PYTHONPATH": ""}, {"PYTHONPATH": "nowhere"}])
def test_a_process_that_is_not_told_which_tree_is_meant_is_refused(program: str, environment: dict[str, str]) -> None:
    """By an audit hook, so that no test can forget it."""
    command = [sys.executable if program == "python" else Path(sys.executable).with_name("watcherd"), "--version"]
    with pytest.raises(AssertionError, match="would try the package that is installed"):
        said(["nice", *command], env=environment)
