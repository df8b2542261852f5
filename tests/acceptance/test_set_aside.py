"""A fault in a loop costs the one thing that it was met with, and everybody can see which and why."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.planted import SAID
from tests.acceptance.service import Service, broken, png
from watcherd.set_aside import LOOPS

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {"names": "bad-names.png", "runs": "bad-runs_frame_000001.png"}
"""What is dropped for a loop, where it is not ``bad-<loop>.png``."""


def file_of(loop: str) -> str:
    return FILES.get(loop, f"bad-{loop}.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What can be seen of a daemon with a fault in each of its loops, while it runs."""

    service: Service
    metrics: str
    status: dict[str, Any]
    lines: str
    doctor: str
    answer: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("planted")
    metrics = folder / "watcherd.prom"
    service = Service(folder, hooks={"command": ["true"]}, metrics={"file": str(metrics), "interval_seconds": 1})
    service.drop(file_of("recover"), png(0))
    service.start(crash_at="deliver.intended")
    assert -9 == service.ended()
    service.prefix = [sys.executable, str(Path(__file__).with_name("planted.py"))]
    for number, loop in enumerate(LOOPS, 1):
        if loop == "recover":
            continue
        service.drop(file_of(loop), broken(number) if loop == "names" else png(number))
    service.drop(f"{file_of('sidecars')}.toml", b"threshold = 0.3\n")
    for number in range(3):
        service.drop(f"good-{number}.png", png(100 + number))
    service.start()
    try:
        service.ready()
        answer = service.command("prioritise", "1").stderr
        service.wait(lambda: set(LOOPS) <= loops(service), "a fault in each loop")
        service.wait(
            lambda: service.rows("SELECT 1 FROM job WHERE source GLOB 'good-*' AND state = 'succeeded'")[2:],
            "all others",
        )
        service.wait(
            lambda: (
                metrics.exists()
                and len(re.findall(r'aside_total\{loop="\w+"\} [1-9]', metrics.read_text())) == len(LOOPS)
            ),
            "metrics",
        )
        yield Seen(
            service=service,
            metrics=metrics.read_text(),
            status=service.json("status"),
            lines=service.command("status").stdout,
            doctor=service.command("doctor").stdout,
            answer=answer,
        )
        assert 0 == service.stop()
    finally:
        service.end()


def loops(service: Service) -> set[str]:
    """The loops that have set something aside."""
    details = service.rows("SELECT detail FROM event WHERE kind = 'set-aside'")
    return {json.loads(detail)["loop"] for (detail,) in details}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_fault_in_a_loop_is_seen_by_everybody(seen: Seen, loop: str) -> None:
    """An event, one traceback, a counter, and a line in `status` and in `doctor`."""
    told = [json.loads(detail) for (detail,) in seen.service.rows("SELECT detail FROM event WHERE kind = 'set-aside'")]
    assert {f"PlantedError: {SAID}"} == {one["reason"] for one in told if one["loop"] == loop}
    traced = [line for line in seen.service.log("set_aside") if line["kind"] == loop]
    assert 1 == len(traced)
    assert SAID in traced[0]["exception"]
    assert re.search(rf'^watcherd_set_aside_total{{loop="{loop}"}} [1-9]', seen.metrics, re.MULTILINE)
    shown = [item for item in seen.status["set_aside"] if item["loop"] == loop]
    assert 1 == len(shown)
    assert SAID in shown[0]["error"]
    assert f"{len(LOOPS)} could not be handled" in seen.lines
    assert f"{len(LOOPS)} could not be handled" in seen.doctor


def test_a_person_is_told_what_became_of_a_command(seen: Seen) -> None:
    """It is not given again."""
    assert SAID in seen.answer


def test_a_person_can_have_it_tried_at_once(seen: Seen) -> None:
    """And it is set aside again while the cause is there."""
    (job,) = [item["job_id"] for item in seen.status["set_aside"] if item["loop"] == "publish"]
    tries = "SELECT count(*) FROM event WHERE kind = 'set-aside' AND job_id = ?"
    [before] = seen.service.rows(tries, job)  # on a busy machine it has been tried again by itself already
    assert f"what was set aside is tried again: {job}" in seen.service.command("retry", str(job)).stdout
    seen.service.wait(lambda: seen.service.rows(tries, job) > [before], "another try")


def test_everybody_elses_scans_have_their_results(seen: Seen) -> None:
    """And nothing was tried in a hurry: between two attempts at a job lies a pause."""
    good = {f"good-{number}.png" for number in range(3)}
    assert good <= {path.name for path in (seen.service.outbox / "masks").iterdir()}
    hurried = (
        "SELECT one.job_id FROM attempt AS one JOIN attempt AS other "
        "ON other.job_id = one.job_id AND other.number = one.number + 1 "
        "WHERE (julianday(other.started_at) - julianday(one.ended_at)) * 86400 < 20"
    )
    assert [] == seen.service.rows(hurried)
