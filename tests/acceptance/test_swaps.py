"""Two models, and room for one: each gets its place when it has work, over real replicas, whatever is killed.

The room is made up (`room_for_one`), so that it needs no GPU; nothing here depends on how long anything takes.
"""

from __future__ import annotations

import json
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOM_FOR_ONE = Path(__file__).with_name("room_for_one.py")
LONG = 400.0
"""Seconds that several swaps may take on a busy machine; each waits for the service's next look, and for a load."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(
        tmp_path,
        model={"segmenter": "fake"},
        devices={"use": "cpu", "idle_minutes": 0.01, "minimum_minutes": 0.0},
        **{
            "models.second": {"segmenter": "fake"},
            "profiles.both": {"folder": "both", "models": ["default", "second"]},
            "profiles.second": {"folder": "second", "model": "second"},
        },
    )
    made.prefix = [sys.executable, str(ROOM_FOR_ONE)]
    yield made
    made.end()


def waits_for(service: Service, name: str, why: str) -> None:
    """What people are shown of a model comes to this: it has no place, and why."""

    def shown() -> bool:
        models: list[dict[str, Any]] = service.live().get("models", [])
        found = next((each for each in models if each["name"] == name), {})
        return found.get("state") == "waiting" and why in found["why"]

    service.wait(shown, f"{name} to wait")


def away(service: Service) -> str:
    """The model that has no place while the other one is ready; empty while that is not so."""
    states = {each["name"]: each["state"] for each in service.live().get("models", [])}
    waiting = [name for name, state in states.items() if state == "waiting"]
    return waiting[0] if len(waiting) == 1 and "ready" in states.values() else ""


def stays(service: Service) -> list[tuple[str, str, str | None]]:
    """Which model had a replica, from when until when, in order."""
    return service.rows("SELECT json_extract(placement, '$.model_name'), started_at, ended_at FROM replica ORDER BY id")


def test_each_gets_the_place_when_it_has_work_and_never_both(service: Service) -> None:
    """Scans of both, then one for the model that has just gone: there and back. How often they take turns meanwhile
    is a matter of when the scans come."""
    service.start()
    service.ready()
    waits_for(service, "second", "There is no room for it beside default")
    for number in range(3):
        service.drop(f"both/{number}.png", png(number))
    service.finished(6, LONG)
    assert {"succeeded": 6} == service.states()
    service.wait(lambda: away(service), "one to be there and the other to wait")
    service.drop({"default": "a.png", "second": "second/a.png"}[away(service)], png(7))
    service.finished(7, LONG)
    assert 0 == service.stop()
    assert [] == check_invariants(service)
    there = stays(service)
    names = [name for name, _, _ in there]
    assert len(names) >= 3
    assert all(one != other for one, other in pairwise(names))
    assert all(ended is not None and ended <= begun for (_, _, ended), (_, begun, _) in pairwise(there))
    computed = service.rows(
        "SELECT job.model_name, json_extract(replica.placement, '$.model_name'), count(*) FROM attempt "
        "JOIN job ON job.id = attempt.job_id JOIN replica ON replica.id = attempt.replica_id GROUP BY 1, 2 ORDER BY 1"
    )
    assert [("default", "default"), ("second", "second")] == [row[:2] for row in computed]
    assert [3, 4] == sorted(row[2] for row in computed)


def test_killed_in_the_middle_of_swaps_it_loses_nothing(service: Service) -> None:
    """With a backlog of the one that goes: first when it has ended, then while the other one is being loaded."""
    service.environment = {"WATCHERD_FAKE": json.dumps({"seconds": 0.02})}
    for turn, moment in enumerate(("ended", "begun")):
        for number in range(10):
            service.drop(f"{turn}-{number}.png", png(100 * turn + number))
        for number in range(3):
            service.drop(f"both/{turn}-{number}.png", png(100 * turn + 50 + number))
            service.drop(f"second/{turn}-{number}.png", png(100 * turn + 60 + number))
        service.environment["ROOM_FOR_ONE_KILLED"] = moment
        service.start()
        assert -signal.SIGKILL == service.ended(LONG), service.tail()
        assert [] == check_at_any_moment(service)
    del service.environment["ROOM_FOR_ONE_KILLED"]
    service.start()
    service.finished(len(service.dropped) + 6, LONG)
    assert {"succeeded": len(service.dropped) + 6} == service.states()
    assert 0 == service.stop()
    assert [] == check_invariants(service)
    assert {"default", "second"} == {name for name, _, _ in stays(service)}
