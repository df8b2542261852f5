"""The exporter over a real database: what is counted, the file for node_exporter, the port on loopback."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.store.helpers import NOW, claim_one, enqueue, failure, scan, start_run, succeed
from tests.unit.test_metrics import families
from watcherd import config
from watcherd.errors import ConfigError
from watcherd.exporter import Exporter, refuse_unusable
from watcherd.job import ErrorClass
from watcherd.store import Database, queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "phase": "running",
    "started_at": NOW.isoformat(),
    "model": {"segmenter": "fake", "revision": "1", "dtype": "float32"},
    "held": False,
    "paused": {"outbox": "the disk is full"},
    "replicas": [{"number": 0, "phase": "idle", "restarts": 2}],
    "cards": [{"uuid": "GPU-1", "name": "Card", "used_mib": 3, "total_mib": None}],
    "inbox": {"online": True, "settling": 4, "last_sweep_ms": 250.0, "swept_at": NOW.isoformat()},
}


@dataclass
class Bench:
    """An exporter over an empty history, at `NOW`."""

    folder: Path
    database: Database
    status: dict[str, Any] = field(default_factory=lambda: dict(STATUS))

    def exporter(self, **section: Any) -> Exporter:
        return Exporter(self.config(**section), self.database, lambda: self.status, clock=NOW.timestamp)

    def config(self, **section: Any) -> config.Config:
        return config.build({"metrics": section}, base=self.folder)

    def end_a_job(self, name: str, *, fails: ErrorClass | None = None) -> None:
        def work(connection: Any) -> None:
            enqueue(connection, 1, scan(name))
            claim = claim_one(connection, 1)
            if fails is None:
                succeed(connection, claim)
            else:
                queue.give_up(connection, claim, failure(fails), now=NOW)

        self.database.write(work)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Database.open(tmp_path / "watcherd.db") as database:
        database.write(start_run)
        yield Bench(tmp_path, database)


def values(content: bytes) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of the labels' own names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families(content).values()
        for sample in family.samples
    }


def ask(url: str) -> Any:
    return urllib.request.urlopen(url, timeout=20)  # noqa: S310 - our own server


def test_what_ended_since_the_start_is_counted_once(bench: Bench) -> None:
    """Not what ended before; however often somebody looks."""
    bench.end_a_job("before.png")
    exporter = bench.exporter()
    bench.end_a_job("a.png")
    bench.end_a_job("b.png", fails=ErrorClass.INPUT)
    exporter.text()
    found = values(exporter.text())
    assert 1 == found["watcherd_jobs_ended_total", "", "succeeded"]
    assert 1 == found["watcherd_jobs_ended_total", "input", "failed"]
    assert 2 == found["watcherd_jobs", "succeeded"]
    assert 1 == found["watcherd_stage_duration_seconds_count", "inference"]
    assert 0.04 == found["watcherd_stage_duration_seconds_sum", "inference"]
    assert 800.5 * 2**20 == found["watcherd_device_memory_allocated_peak_bytes", "cuda:0", "Card"]


def test_what_is_now_is_told_as_it_is(bench: Bench) -> None:
    """In base units; what is not known is not there."""
    found = values(bench.exporter().text())
    assert (1, 0) == (found["watcherd_paused", "outbox"], found["watcherd_paused", "work"])
    assert (1, 0) == (found["watcherd_replicas", "idle"], found["watcherd_replicas", "down"])
    assert 2 == found["watcherd_replica_restarts_total", "0"]
    assert 3 * 2**20 == found["watcherd_device_memory_used_bytes", "GPU-1", "Card"]
    assert not [key for key in found if key[0] == "watcherd_device_memory_size_bytes"]
    assert (1, 4, 0.25) == tuple(
        found[f"watcherd_inbox_{name}",] for name in ("online", "settling_files", "sweep_duration_seconds")
    )
    assert NOW.timestamp() == found["watcherd_refreshed_timestamp_seconds",]
    bench.status |= {"phase": "loading", "held": True, "inbox": None}
    found = values(bench.exporter().text())
    assert (0, 1) == (found["watcherd_ready",], found["watcherd_paused", "work"])
    assert ("watcherd_inbox_online",) not in found


def test_no_name_of_a_file_is_among_the_figures(bench: Bench) -> None:
    exporter = bench.exporter()
    bench.end_a_job("Smith.png", fails=ErrorClass.INPUT)
    assert b"Smith" not in exporter.text()


def test_the_file_is_whole_readable_for_all_and_goes_with_the_service(bench: Bench) -> None:
    """And nothing else is left in its folder; with another name the first one goes."""
    file, other = bench.folder / "out" / "a.prom", bench.folder / "out" / "b.prom"
    file.parent.mkdir()
    exporter = bench.exporter(file=str(file))
    exporter.turn()
    assert 0o644 == file.stat().st_mode & 0o777
    assert 1 == values(file.read_bytes())["watcherd_ready",]
    exporter.reconfigure(bench.config(file=str(other)))
    exporter.turn()
    assert [other] == list(file.parent.iterdir())
    exporter.stop()
    exporter.run()
    assert [] == list(file.parent.iterdir())


def test_a_file_that_cannot_be_written_does_not_stop_the_figures(bench: Bench) -> None:
    """It is written again when it can be."""
    file = bench.folder / "gone" / "a.prom"
    exporter = bench.exporter(file=str(file))
    exporter.turn()
    file.parent.mkdir()
    exporter.turn()
    assert file.exists()


def test_a_folder_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.file = .*no folder") as caught:
        refuse_unusable(bench.config(file="nowhere/a.prom"))
    assert "node_exporter" in caught.value.hint


def test_the_port_answers_on_loopback_alone(bench: Bench) -> None:
    """With the text's own type; other paths are not there; it is closed with the service."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    exporter = bench.exporter(port=port)
    worker = threading.Thread(target=exporter.run, daemon=True)
    exporter.turn()
    worker.start()
    url = f"http://127.0.0.1:{port}"
    with ask(f"{url}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert 1 == values(answer.read())["watcherd_ready",]
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        ask(url)
    caught.value.close()
    server = exporter._server
    assert server is not None
    assert "127.0.0.1" == server.server_address[0]
    exporter.stop()
    worker.join(20)
    assert not worker.is_alive()
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(f"{url}/metrics")
