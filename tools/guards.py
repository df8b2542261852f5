"""Take out each guard of docs/guarantees.md once, and see the test that its promise names fail.

    python -m tools.guards [--only PROMISE ...] [--jobs 2] [--unproved]
    python -m tools.guards --list

A guard is an entry of guards.toml: lines of the program, and what stands in their place while it is out. It is taken
out of a copy of the tree in a temporary folder. *noticed*: the named test fails, by an assertion, for want of time, or
with an error of the program's. A patch whose lines are not there once, that does not compile, or whose test cannot even
be collected or imported proves nothing: *broken*. So does a test that is skipped, or that fails without any patch: each
one is run over the plain copy first (``--unproved``: is not). The exit code is 1 unless all are noticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("guards.toml")

Verdict = Literal["noticed", "MISSED", "broken"]

TEST_SECONDS = 150
"""Seconds that a test may take; one that hangs without its guard has noticed."""

RUN_SECONDS = 600
"""Seconds that all tests of one guard may take."""

NO_PROOF = re.compile(r"\b(ImportError|ModuleNotFoundError|SyntaxError|IndentationError|NameError|UnboundLocalError)\b")
"""Errors of a patch that was written wrongly; the program never raises them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """A guard of a promise.

    ``what``: what it sees to. ``file``: below the root. ``old``: its lines, which stand there once. ``new``: what
    stands there without it. ``tests``: as pytest names them. ``sync``: whether it is one, which a power cut misses.
    """

    promise: int
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    sync: bool = False

    def is_there(self, root: Path) -> bool:
        """Whether its lines are in the tree, once."""
        path = root / self.file
        return path.is_file() and path.read_text().count(self.old) == 1

    def functions(self) -> list[tuple[str, str]]:
        """The files of its tests, with the functions in them."""
        return [(file, name.partition("[")[0]) for file, _, name in (test.partition("::") for test in self.tests)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of taking a guard out. ``why``: for people, where it was not noticed."""

    guard: Guard
    verdict: Verdict
    seconds: float
    why: str = ""


def guards(path: Path = LIST) -> list[Guard]:
    """All guards, in the order of the promises. Raises KeyError and TypeError for an entry that makes no sense."""
    entries = tomllib.loads(path.read_text())["guard"]
    return sorted((Guard(**entry | {"tests": tuple(entry["tests"])}) for entry in entries), key=lambda g: g.promise)


# ----------------------------------------------------------------------------------------------------------- the copies


def files_of(root: Path) -> list[Path]:
    """What belongs to the tree, relative to it: what git knows or would know; in an unpacked one everything."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [Path(name) for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    plain = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [path for path in plain if not any(part.startswith(".") for part in path.parts)]


def copy_tree(root: Path, to: Path) -> Path:
    """A copy of the tree."""
    for name in files_of(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to / name)
    return to


@contextmanager
def taken_out(guard: Guard, tree: Path) -> Iterator[None]:
    """The tree without this guard. Raises LookupError unless its lines are there once."""
    path = tree / guard.file
    whole = path.read_text()
    if whole.count(guard.old) != 1:
        raise LookupError(f"its lines are {whole.count(guard.old)} times in {guard.file}, not once")
    try:
        _write(path, whole.replace(guard.old, guard.new))
        yield
    finally:
        _write(path, whole)


def _write(path: Path, text: str) -> None:
    """With a time of its own: compiled code is told apart by size and second."""
    before = path.stat().st_mtime
    path.write_text(text)
    os.utime(path, (before + 2, before + 2))


def fault_of(path: Path) -> str:
    """What is wrong with a patched file as Python; empty when nothing is."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "E9,F821,F823", path]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() + found.stderr.strip()


# ------------------------------------------------------------------------------------------------------------ the tests


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What came of running tests. ``failed``: what genuine failures say; ``unfit``: why others prove nothing."""

    passed: int
    failed: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()


def run_tests(tests: Sequence[str], tree: Path, report: Path) -> Ran:
    """Run tests in a tree, each of which may have parameters."""
    report.unlink(missing_ok=True)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={TEST_SECONDS}"]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *tests]
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        return Ran(passed=0, failed=(f"not done after {RUN_SECONDS} s",))
    finally:
        with suppress(ProcessLookupError):  # a test that fails may leave a daemon behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not report.exists():
        return Ran(passed=0, unfit=(said.strip()[-300:],))
    return judged(report.read_text())


def judged(report: str) -> Ran:
    """What a report of pytest's (JUnit XML) says."""
    passed, failed, unfit = 0, [], []
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        problems = [
            (part.tag, f"{part.get('message', '')}\n{part.text or ''}") for part in case if part.tag != "system-out"
        ]
        for kind, text in problems:
            if kind == "skipped":
                unfit.append(f"skipped: {text.strip()[:200]}")
            elif "collection failure" in text or NO_PROOF.search(text):
                unfit.append(_first_line(text))
            elif kind in ("failure", "error"):
                failed.append(_first_line(text))
        passed += not problems
    return Ran(passed=passed, failed=tuple(failed), unfit=tuple(unfit))


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    proof = next((line for line in lines if NO_PROOF.search(line)), None)
    return (proof or (lines[0] if lines else "")).strip()[:200]


class Trial:
    """Takes guards out, several at a time, each time in a copy of the tree that nobody else uses."""

    def __init__(self, folder: Path, *, copies: int, proved: bool) -> None:
        self._proved = proved
        self._plain: dict[tuple[str, ...], Ran] = {}
        self._lock = threading.Lock()
        self._trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(copies):
            self._trees.put(copy_tree(ROOT, folder / f"tree-{number}"))

    def try_out(self, guard: Guard) -> Outcome:
        """Take it out of one of the copies, run its tests, and put it back."""
        tree, began = self._trees.get(), time.monotonic()
        try:
            verdict, why = self._judge(guard, tree)
        finally:
            self._trees.put(tree)
        return Outcome(guard=guard, verdict=verdict, why=why, seconds=time.monotonic() - began)

    def _judge(self, guard: Guard, tree: Path) -> tuple[Verdict, str]:
        report = tree.with_suffix(".xml")
        plain = self._without_patch(guard, tree, report)
        if plain.failed or plain.unfit or (self._proved and not plain.passed):
            return "broken", f"without any patch: {'; '.join((*plain.failed, *plain.unfit)) or 'no test ran'}"
        try:
            with taken_out(guard, tree):
                if fault := fault_of(tree / guard.file):
                    return "broken", fault
                ran = run_tests(guard.tests, tree, report)
        except LookupError as error:
            return "broken", str(error)
        if ran.failed:
            return "noticed", ran.failed[0]
        return ("broken", ran.unfit[0]) if ran.unfit else ("MISSED", f"{ran.passed} tests pass without it")

    def _without_patch(self, guard: Guard, tree: Path, report: Path) -> Ran:
        if not self._proved:
            return Ran(passed=0)
        with self._lock:
            known = self._plain.get(guard.tests)
        if known is None:
            known = run_tests(guard.tests, tree, report)
            with self._lock:
                self._plain[guard.tests] = known
        return known


# ------------------------------------------------------------------------------------------------------------ the table


def line(outcome: Outcome) -> str:
    """One outcome for people."""
    guard = outcome.guard
    text = f"{guard.promise:>3}  {outcome.verdict:<8}{outcome.seconds:>6.0f} s  {guard.what}"
    tests = ", ".join(name for _, name in guard.functions())
    return text if outcome.verdict == "noticed" else f"{text}\n{'':20}{tests}: {outcome.why}"


def table(found: Sequence[Guard]) -> list[str]:
    """The guards as they stand in docs/guarantees.md."""
    rows = ["| | Guard that is taken out | Test that fails |", "|---|---|---|"]
    for guard in found:
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(name for _, name in guard.functions()))
        rows.append(f"| {guard.promise} | {guard.what} | {names} |")
    return rows


def main() -> int:
    """Take out what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", metavar="PROMISE", help="the guards of these promises")
    parser.add_argument("--matching", default="", metavar="WORDS", help="of these, those with such words in them")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--unproved", action="store_true", help="do not see the tests pass without any patch")
    parser.add_argument("--from", dest="patches", type=Path, default=LIST, metavar="FILE", help="another list")
    parser.add_argument("--list", action="store_true", help="print the table of docs/guarantees.md, and do nothing")
    wanted = parser.parse_args()
    chosen = [
        g for g in guards(wanted.patches) if (not wanted.only or g.promise in wanted.only) and wanted.matching in g.what
    ]
    if wanted.list:
        print("\n".join(table(chosen)))
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        trial = Trial(Path(folder), copies=wanted.jobs, proved=not wanted.unproved)
        with ThreadPoolExecutor(wanted.jobs) as several:
            for outcome in several.map(trial.try_out, chosen):
                print(line(outcome), flush=True)
                outcomes.append(outcome)
    noticed = sum(outcome.verdict == "noticed" for outcome in outcomes)
    print(f"{noticed} of {len(outcomes)} guards: the removal is noticed")
    return 0 if outcomes and noticed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
