"""A crash point kills only where a test has asked for it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import watcherd
from tests.tree import python_path
from watcherd import crash_points
from watcherd.crash_points import CRASH_POINTS, crash_point

PACKAGE = Path(next(iter(watcherd.__path__)))
CODE = """
from watcherd.crash_points import crash_point
for number in range(5):
    crash_point('ingest.copied')
    print(number, flush=True)
"""


def run(armed: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": python_path()} | ({crash_points.VARIABLE: armed} if armed else {})
    return subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True)


def test_nothing_happens_when_none_is_armed():
    assert (run("").returncode, run("").stdout) == (0, "0\n1\n2\n3\n4\n")


@pytest.mark.parametrize(("armed", "printed"), [("ingest.copied", ""), ("ingest.copied:3", "0\n1\n")])
def test_the_process_is_killed_at_the_nth_time(armed, printed):
    died = run(armed)
    assert (-signal.SIGKILL, printed) == (died.returncode, died.stdout)


def test_another_point_does_not_kill():
    assert run("dispose.begun").returncode == 0


@pytest.mark.parametrize("armed", ["ingest.copy", "ingest.copied:x", ":1"])
def test_a_misspelt_arming_is_an_error(armed):
    assert "names no crash point" in run(armed).stderr


def test_a_misspelt_point_is_an_error_even_when_none_is_armed():
    with pytest.raises(ValueError, match="nonsense"):
        crash_point("nonsense")


def test_every_point_in_the_code_is_in_the_list():
    used = {
        name for file in PACKAGE.rglob("*.py") for name in re.findall(r"crash_point\(\"([^\"]+)\"", file.read_text())
    }
    assert set() == used - CRASH_POINTS.keys()
