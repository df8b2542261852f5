"""The list of guards does not rot: each is where it says, and the page tells of each; and how tests are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_guarantees import PAGE, rows
from tools import guards
from tools.guards import Guard, judged

ROOT = Path(__file__).parents[2]
GUARDS = guards.guards()
TITLE = "## Guards that were taken out"


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.promise}: {guard.what}")
def test_its_lines_are_in_the_tree_once_and_a_test_of_its_promise_notices(guard: Guard) -> None:
    """The test is one that the promise's row names."""
    assert guard.is_there(ROOT)
    assert guard.old != guard.new
    named = {
        (file, name) for number, tests in rows() if number == guard.promise for names, file in tests for name in names
    }
    assert set(guard.functions()) <= named


def test_every_promise_has_a_guard() -> None:
    """One whose removal cannot be seen would be a promise that nothing keeps."""
    assert {number for number, _ in rows()} == {guard.promise for guard in GUARDS}


def test_the_page_has_the_table() -> None:
    """Made by ``python -m tools.guards --list``."""
    assert guards.table(GUARDS) == PAGE.partition(TITLE)[2].strip().splitlines()[-len(GUARDS) - 2 :]


def report(*cases: str) -> str:
    return (
        f"<testsuites><testsuite>{''.join(f'<testcase>{case}</testcase>' for case in cases)}</testsuite></testsuites>"
    )


@pytest.mark.parametrize(
    "problem",
    [
        '<failure message="AssertionError: assert 1 == 2">tests/x.py:3: AssertionError</failure>',
        '<failure message="Failed: Timeout (&gt;150.0s) from pytest-timeout.">x</failure>',
        '<failure message="Failed: DID NOT RAISE">x</failure>',
        '<error message="failed on setup with &quot;AssertionError: no&quot;">x</error>',
        '<failure message="sqlite3.IntegrityError: UNIQUE">x</failure>',
    ],
)
def test_a_genuine_failure_is_one(problem: str) -> None:
    """An assertion, also in a fixture, want of time, an error of the program's."""
    ran = judged(report("", problem))
    assert (1, 1, 0) == (ran.passed, len(ran.failed), len(ran.unfit))


@pytest.mark.parametrize(
    "problem",
    [
        '<error message="collection failure">E   ImportError: cannot import name</error>',
        '<failure message="NameError: name &apos;x&apos; is not defined">x</failure>',
        '<failure message="AssertionError: the daemon ended with 70:">... ModuleNotFoundError: No module ...</failure>',
        '<skipped message="needs root">x</skipped>',
    ],
)
def test_a_patch_that_was_written_wrongly_proves_nothing(problem: str) -> None:
    """Nor does a test that was skipped."""
    ran = judged(report(problem))
    assert (0, 0, 1) == (ran.passed, len(ran.failed), len(ran.unfit))


def test_a_guard_is_taken_out_and_put_back(tmp_path: Path) -> None:
    """With another time each time, so that nobody runs compiled code of the version before."""
    guard = Guard(promise=1, what="x", file="a.py", old="if True:\n", new="if False:\n", tests=())
    file = tmp_path / "a.py"
    file.write_text("if True:\n    pass\n")
    times = {file.stat().st_mtime}
    with guards.taken_out(guard, tmp_path):
        assert "if False:\n    pass\n" == file.read_text()
        times.add(file.stat().st_mtime)
    assert "if True:\n    pass\n" == file.read_text()
    times.add(file.stat().st_mtime)
    assert 3 == len({round(time) for time in times})
    file.write_text("nothing of it\n")
    with pytest.raises(LookupError, match="0 times"), guards.taken_out(guard, tmp_path):
        pass


def test_a_patch_that_does_not_compile_is_seen(tmp_path: Path) -> None:
    """And one that names what is not there."""
    file = tmp_path / "a.py"
    for text, wrong in (("x = 1\n", False), ("if x\n", True), ("def f():\n    return nowhere\n", True)):
        file.write_text(text)
        assert wrong == bool(guards.fault_of(file))
