"""Kill the real daemon at each crash point, start it again, and add everything up: nothing lost, nothing made twice,
nothing half-written to be seen (docs/guarantees.md).

A chain kills several times in a row over one set of folders: each start recovers from the last kill and dies in the
next, so that recoveries are interrupted as well. The full matrix, each point by itself over 50 files and once more
with a kill in the recovery, is marked ``slow``: ``make soak``.
"""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, broken, png
from watcherd.crash_points import CRASH_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ELSEWHERE = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it

ACROSS = ("dispose.copied", "dispose.published", "dispose.set-aside", "dispose.removed")
"""Reached only where the archive is on another file system than the inbox."""

NAMES = ("stage.written", "stage.synced", "deliver.begun", "deliver.intended", "deliver.renamed", "record.committed")
"""Reached for a job's results and once more for the notes of failures and the copies for duplicates."""

CHAINS = {
    "taken": ("ingest.begun", "ingest.copied", "ingest.renamed", "ingest.synced", "enqueue.begun", "enqueue.committed"),
    "claimed": ("claim.begun", "claim.committed", "decode.begun", "decode.done", "recover.begun", "recover.requeued"),
    "drawn": ("segment.begun", "segment.done", "render.begun", "render.done"),
    "delivered": (
        "stage.written",
        "stage.synced",
        "deliver.begun",
        "deliver.intended",
        "deliver.renamed",
        "deliver.json-renamed",
        "deliver.synced",
        "recover.delivered",
        "record.begun",
    ),
    "disposed": (
        "record.committed",
        "dispose.begun",
        "dispose.moved",
        "dispose.synced",
        "dispose.recorded",
        "spool.removed",
        "recover.swept",
    ),
    "across": ACROSS,
    "names": NAMES,
    "told": ("hook.called",),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the tests' own."""
    if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to here")
    with tempfile.TemporaryDirectory(dir=ELSEWHERE) as folder:
        yield Path(folder)


def feed(service: Service, step: int, good: int) -> None:
    """Scans of this step, a bad one, the same bytes under a second name, and in a folder another of the same name."""
    first = 1000 * step
    for number in range(first, first + good):
        service.drop(f"scan {number}.png", png(number))
    service.drop(f"bad {step}.png", broken(step))
    service.drop(f"again {step}.png", png(first))
    service.drop(f"run {step}/scan {first}.png", png(first + good))


def feed_names(service: Service, step: int) -> None:
    """Nothing that has to be computed: bytes that were seen before, and a bad file."""
    service.drop(f"again {step}.png", png(0))
    service.drop(f"bad {step}.png", broken(step))


def must_die_at(service: Service, point: str) -> None:
    """Start, and see the daemon die at ``point`` with everything in order as far as it has come."""
    service.start("--once", crash_at=point)
    assert service.ended() == -signal.SIGKILL, f"{point} was not reached:\n{service.tail()}"
    assert check_at_any_moment(service) == [], point


def test_every_crash_point_is_in_a_chain() -> None:
    """None is left out of the proof below."""
    assert set(CRASH_POINTS) == {point for chain in CHAINS.values() for point in chain}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_killed_again_and_again_it_loses_nothing(chain: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Killed at each point of a chain, the daemon still ends with every scan done once."""
    inbox = {"archive_path": str(request.getfixturevalue("elsewhere"))} if chain == "across" else {}
    hooks = {"command": ["true"]} if chain == "told" else {}
    service = Service(tmp_path, inbox=inbox, hooks=hooks)
    if chain == "names":
        feed(service, 0, good=1)
        assert service.once() == 0
    for step, point in enumerate(CHAINS[chain], 1):
        if chain == "names":
            feed_names(service, step)
        else:
            feed(service, step, good=3)
        must_die_at(service, point)
    assert service.once() == 0
    assert check_invariants(service) == []


BESIDE: dict[str, Mapping[str, Any]] = {
    "models.second": {"segmenter": "fake"},
    "profiles.both": {"folder": "both", "models": ["default", "second"]},
}
"""A folder whose scans two models compute."""

BETWEEN = (
    "claim.committed:2",
    "stage.synced:2",
    "deliver.begun:2",
    "deliver.intended:2",
    "deliver.renamed:2",
    "deliver.json-renamed",
    "deliver.synced",
    "record.begun",
    "record.committed",
    "record.committed:2",
    "dispose.begun",
    "dispose.moved",
)
"""Where a kill may come between the results of two models for one scan; some at the second time they are passed."""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["per-kind", pytest.param("per-scan", marks=pytest.mark.slow_soak)])
def test_killed_between_the_results_of_two_models_it_loses_none(layout: str, tmp_path: Path) -> None:
    """One result for each name and model, and no source leaves the inbox before both are there."""
    service = Service(tmp_path, outbox={"layout": layout}, **BESIDE)
    for step, point in enumerate(BETWEEN, 1):
        first = 10 * step
        service.drop(f"both/scan {first}.png", png(first))
        service.drop(f"both/again {step}.png", png(first))
        service.drop(f"both/bad {step}.png", broken(step))
        must_die_at(service, point)
    assert service.once() == 0
    assert check_invariants(service) == []
    found = [path for path in (service.outbox / "models" / "second").rglob("*") if path.suffix in (".json", ".txt")]
    assert len(service.dropped) == len(found)


def scenario(point: str, tmp_path: Path, request: pytest.FixtureRequest) -> Service:
    """50 scans in an inbox from which a daemon reaches ``point``."""
    inbox = {"archive_path": str(request.getfixturevalue("elsewhere"))} if point in ACROSS else {}
    hooks = {"command": ["true"]} if point == "hook.called" else {}
    service = Service(tmp_path, inbox=inbox, hooks=hooks)
    feed(service, 1, good=47)
    assert len(service.dropped) == 50
    return service


@pytest.mark.slow_soak
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_killed_once_among_50_files(point: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A kill at any point costs nothing: 50 names dropped, 50 results."""
    service = scenario(point, tmp_path, request)
    must_die_at(service, point)
    assert service.once() == 0
    assert check_invariants(service) == []


@pytest.mark.slow_soak
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_killed_again_in_the_recovery(point: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The same with a second kill while the first is recovered from, at one of the points of a start in turn."""
    service = scenario(point, tmp_path, request)
    must_die_at(service, point)
    recovering = [name for name in CRASH_POINTS if name.startswith("recover.")]
    must_die_at(service, recovering[list(CRASH_POINTS).index(point) % len(recovering)])
    assert service.once() == 0
    assert check_invariants(service) == []
