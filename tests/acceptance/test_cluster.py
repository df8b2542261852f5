"""A real Ray over pretended machines that are killed, stopped, restarted and added while scans come in."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.machines import Machine, Network
from tests.acceptance.service import Service, png
from watcherd.inference.cluster.nodes import PRETEND

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("ray") is None, reason='needs the extra: pip install "watcherd[cluster]"'),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

PATIENCE = 300.0
STOPPED_SECONDS = 60.0
KEPT = "/dev/shm/kept"  # noqa: S108 - of each machine alone


SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"segmenter": "fake"},
    "devices": {"batch_seconds": 20},
    "outbox": {"outputs": ["mask"]},
    "cluster": {"engine": "ray", "address": "10.78.0.1:6380", "local": False},
}


class Scene:
    """A head with the bridge, the workers, and the service, which has no network: it sees the bridge's socket alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = Network()
        self.machines: dict[str, Machine] = {}
        (folder / "scratch").mkdir()
        self.service = Service(folder, **SECTIONS)
        self.service.environment = {"RUNTIME_DIRECTORY": str(folder / "scratch")}
        self.dropped = 0

    def head(self) -> None:
        words = ["head", "--config", str(self.service.config), "--address", "ADDRESS"]
        head = Machine(self.network, 1, "head", words, {}, self.folder / "head.log")
        self.machines["head"] = head
        until((self.service.state / "cluster.token").exists, "a token")
        command = [sys.executable, "-m", "watcherd", "bridge", "--config", str(self.service.config)]
        self.bridge = head.inside(command, self.folder / "bridge.log")

    def worker(self, number: int, name: str, **environment: str) -> None:
        token = str(self.service.state / "cluster.token")
        words = [
            "worker",
            "--head",
            "10.78.0.1",
            "--address",
            "ADDRESS",
            "--token",
            token,
            "--folder",
            KEPT,
        ]
        fake = {PRETEND: "1x24GiB", "WATCHERD_FAKE": json.dumps({"seconds": 0.4})} | environment
        self.machines[name] = Machine(self.network, number, name, words, fake, self.folder / f"{name}.log")

    def drop(self, count: int) -> None:
        """More scans; they are taken at once, whatever the cluster does."""
        for number in range(self.dropped, self.dropped + count):
            self.service.drop(f"scan {number}.png", png(number))
        self.dropped += count
        self.service.wait(lambda: self.service.count_done() >= self.dropped, "the scans to be taken", PATIENCE)

    def ready(self) -> list[str]:
        """Machines with a replica that is ready."""
        return sorted(
            replica["node"]
            for replica in self.service.live().get("replicas", [])
            if replica["phase"] in ("idle", "busy")
        )

    def succeeded(self) -> int:
        return int(self.service.states().get("succeeded", 0))

    def end(self) -> None:
        self.service.end()
        for machine in self.machines.values():
            machine.end()
        with suppress(AttributeError):
            self.bridge.kill()
            self.bridge.wait()
        self.network.end()


def until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    try:
        yield found
    finally:
        found.end()


def test_300_scans_while_machines_die_stop_come_and_the_head_and_the_daemon_are_killed(scene: Scene) -> None:
    """300 results, each once, every death in the history, and intake never stops."""
    service = scene.service
    scene.head()
    scene.worker(2, "bee")
    scene.worker(3, "cat")
    service.start()
    service.wait(lambda: scene.ready() == ["bee", "cat"], "two machines", PATIENCE)
    scene.drop(100)
    service.wait(lambda: scene.succeeded() >= 10, "the first results", PATIENCE)

    scene.machines["bee"].kill()
    scene.drop(50)
    service.wait(lambda: service.log("replica_died"), "the death of the machine to be noticed", PATIENCE)

    scene.machines["cat"].stop()
    stopped = time.monotonic()
    scene.drop(50)
    scene.worker(4, "dog")
    service.wait(lambda: "dog" in scene.ready(), "the machine that was added", PATIENCE)
    done = scene.succeeded()
    service.wait(lambda: scene.succeeded() > done + 5, "results of the machine that was added", PATIENCE)
    time.sleep(max(0.0, stopped + STOPPED_SECONDS - time.monotonic()))
    scene.machines["cat"].go_on()
    service.wait(lambda: scene.ready() == ["cat", "dog"], "the machine that was stopped to be back", PATIENCE)

    before, loaded = len(service.log("replica_died")), len(service.log("replica_ready"))
    scene.machines["head"].kill_one("gcs_server")
    scene.drop(50)
    service.wait(lambda: len(service.log("replica_died")) > before, "the death of the head to be noticed", PATIENCE)
    service.wait(lambda: len(service.log("replica_ready")) >= loaded + 2, "the workers to join the new head", PATIENCE)

    service.kill()
    service.start()
    service.ready()
    scene.drop(50)
    service.finished(300, seconds=900)

    assert service.states() == {"succeeded": 300}
    assert check_invariants(service) == []
    deaths = service.log("replica_died")
    (ended,) = service.rows("SELECT count(*) FROM replica WHERE ended_at IS NOT NULL AND end_reason <> 'stopped'")[0]
    assert ended >= len(deaths) >= 3
    machines = service.rows(
        "SELECT DISTINCT json_extract(placement, '$.node') FROM attempt JOIN replica ON replica.id = replica_id "
        "WHERE outcome = 'succeeded' ORDER BY 1"
    )
    assert machines == [("bee",), ("cat",), ("dog",)]
    assert not service.rows("SELECT 1 FROM attempt WHERE error_class = 'crash'"), "somebody was blamed"
    assert service.stop() == 0


def test_a_model_is_copied_a_replica_hangs_and_a_machine_is_cut_off(scene: Scene) -> None:
    """The copy is whole; the hang is ended with its stack in the log; the machine comes back by itself."""
    service = scene.service
    model = scene.folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "weights.bin").write_bytes(os.urandom(40_000_000))
    shipped = {
        "model": {"segmenter": "fake", "path": str(model)},
        "cluster": {**SECTIONS["cluster"], "ship_models": True},
    }
    service.configure(**{**SECTIONS, **shipped})
    scene.head()
    scene.worker(2, "bee")
    hangs = {"seconds": 0.4, "fault": "hang", "once": "/dev/shm/hung"}  # noqa: S108 - of the machine alone
    scene.worker(3, "cat", WATCHERD_FAKE=json.dumps(hangs))
    service.start()
    service.wait(lambda: scene.ready() == ["bee", "cat"], "two machines", PATIENCE)
    copied = list(scene.machines["cat"].sees(f"{KEPT}/models").glob("*/model/weights.bin"))
    assert [(model / "weights.bin").read_bytes()] == [path.read_bytes() for path in copied]

    scene.drop(60)
    hung = service.wait(lambda: service.log("replica_died"), "the hang to be ended", PATIENCE)[0]
    assert "no sign of life for 20 s" in hung["reason"]
    assert "fake.py" in hung["stack_dump"]

    scene.machines["bee"].cut()
    scene.drop(20)
    service.wait(lambda: len(service.log("replica_died")) > 1, "the cut to be noticed", PATIENCE)
    loaded = len(service.log("replica_ready"))
    scene.machines["bee"].plug_in()
    scene.drop(20)
    service.wait(lambda: len(service.log("replica_ready")) > loaded, "the machine to be back", PATIENCE)
    scene.drop(20)
    service.finished(120, seconds=600)

    assert service.states() == {"succeeded": 120}
    assert check_invariants(service) == []
    assert service.stop() == 0
