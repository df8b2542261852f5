"""Several replicas of the model, killed and stopped under the work: all of it ends right."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from pathlib import Path

SCANS = 200


@pytest.mark.slow
def test_200_scans_through_three_replicas_that_are_killed_and_stopped(tmp_path: Path) -> None:
    """A replica is killed every other second and one is stopped for good; each scan has its result, once."""
    service = Service(
        tmp_path,
        model={"segmenter": "fake"},
        devices={"replicas": 3, "batch_seconds": 8},
        outbox={"outputs": ["mask"]},
    )
    service.environment = {"WATCHERD_FAKE": json.dumps({"seconds": 0.15})}
    try:
        service.start()
        service.wait(lambda: len(replicas(service)) == 3, "three replicas")
        for number in range(SCANS):
            service.drop(f"scan {number}.png", png(number))
        service.wait(lambda: service.states().get("succeeded", 0) >= 10, "the first results")
        stopped = replicas(service)[0]
        os.kill(stopped, signal.SIGSTOP)
        killed = kill_while_it_works(service, spare=stopped)
        service.finished(SCANS)
        assert killed >= 2, "the work was done before anything could be killed"

        assert service.states() == {"succeeded": SCANS}
        assert check_invariants(service) == []
        deaths = {entry["pid"]: entry["reason"] for entry in service.log("replica_died")}
        assert "no sign of life for 8 s" in deaths[stopped]
        assert sum("SIGKILL" in reason for reason in deaths.values()) >= killed
        assert service.rows("SELECT count(*) FROM replica WHERE ended_at IS NOT NULL")[0][0] == len(deaths)
        numbers = service.rows(
            "SELECT count(DISTINCT replica.number) FROM attempt JOIN replica ON replica.id = replica_id "
            "WHERE outcome = 'succeeded'"
        )
        assert numbers == [(3,)], "not every replica worked"
        shown = service.json("status")["daemon"]["replicas"]
        assert len(shown) == 3
        assert sum(replica["restarts"] for replica in shown) == len(deaths)
        assert service.stop() == 0
    finally:
        service.end()


def replicas(service: Service) -> list[int]:
    """The processes of replicas that are ready."""
    return [pid for (pid,) in service.rows("SELECT pid FROM replica WHERE ready_at NOT NULL AND ended_at IS NULL")]


def kill_while_it_works(service: Service, *, spare: int) -> int:
    """Kill a replica every other second until all is nearly done, six at most; how many."""
    killed = 0
    while killed < 6 and service.states()["succeeded"] < SCANS - 20:
        if others := [pid for pid in replicas(service) if pid != spare]:
            os.kill(others[killed % len(others)], signal.SIGKILL)
            killed += 1
        time.sleep(2.0)
    return killed


def test_a_model_that_cannot_be_loaded_ends_the_daemon_with_its_reason(tmp_path: Path) -> None:
    """Exit code 69, the model's own words, and the scans wait in the inbox."""
    service = Service(tmp_path, model={"segmenter": "fake"})
    service.environment = {"WATCHERD_FAKE": json.dumps({"load": "unavailable"})}
    service.drop("scan.png", png(1))
    service.start()
    assert service.ended() == 69
    assert "fake model cannot be loaded" in service.tail()
    service.environment = {}
    assert service.once() == 0
    assert check_invariants(service) == []
