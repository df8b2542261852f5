"""The figures of a real history: counted once, handed out as a file and on loopback, never in the way of the work."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.store.helpers import (
    NOW,
    claim_one,
    enqueue,
    failure,
    later,
    later_decision,
    scan,
    start_run,
    succeed,
)
from watcherd import config
from watcherd.errors import ConfigError
from watcherd.job import ErrorClass
from watcherd.notify import exporter
from watcherd.notify.exporter import Exporter, refuse_unusable
from watcherd.store import Database, StoreUnavailableError, backup, progress, queue
from watcherd.store.connections import driver_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

PATIENCE = 20.0
NAME = "Smith_John_1961"

STATUS: dict[str, Any] = {
    "phase": "running",
    "started_at": "2026-01-02T03:00:00+00:00",
    "version": "0.1.0",
    "held": True,
    "paused": {"outbox": f"{NAME}: no space left"},
    "inbox": {"online": True, "settling": 3, "last_sweep_ms": 250.0, "swept_at": "2026-01-02T03:04:00+00:00"},
    "replicas": [
        {"number": 0, "phase": "idle", "restarts": 0},
        {"number": 1, "phase": "down", "restarts": 2},
    ],
    "model": {"segmenter": "vessel", "revision": "3", "dtype": "bfloat16"},
    "cards": [{"uuid": "GPU-1", "name": "Card", "used_mib": 1024, "total_mib": None}],
}
"""As `watcherd.service.daemon` says it of itself."""


@dataclass
class Bench:
    """A history with one run in it, and an exporter's surroundings."""

    folder: Path
    database: Database
    status: dict[str, Any] = field(default_factory=lambda: dict(STATUS))

    def config(self, **section: Any) -> config.Config:
        settings = config.build({"metrics": section}, base=self.folder)
        for folder in (settings.inbox.path, settings.inbox.archive_path, settings.outbox.path):
            folder.mkdir(exist_ok=True)
        return settings

    def exporter(self, **section: Any) -> Exporter:
        return Exporter(
            self.config(**(section or {"file": "watcherd.prom"})),
            self.database,
            lambda: self.status,
            hook_calls=lambda: {("command", "called"): 4},
            clock=lambda: later(seconds=60).timestamp(),
        )

    def do(self, work: Any, name: str = f"{NAME}.png") -> Any:
        """Drop a scan, claim it, and let ``work`` end it."""

        def whole(connection: Connection) -> Any:
            enqueue(connection, 1, scan(name))
            return work(connection, claim_one(connection, 1))

        return self.database.write(whole)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "watcherd.db"
    with Database.open(path) as database:
        database.write(start_run)
    return path


@pytest.fixture
def bench(tmp_path: Path, template: Path) -> Iterator[Bench]:
    (tmp_path / "state").mkdir()
    path = shutil.copy(template, tmp_path / "state" / "watcherd.db")
    with Database.open(path) as database:
        yield Bench(tmp_path, database)


def figures(text: bytes) -> dict[tuple[str, ...], float]:
    """The value of each series, by its name and the values of its labels, which are sorted by their names."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def ended(text: bytes) -> dict[tuple[str, str], float]:
    """How many jobs ended, by error class and state; those that are 0 left out."""
    found = figures(text)
    return {
        (series[1], series[2]): value
        for series, value in found.items()
        if series[0] == "watcherd_jobs_ended_total" and value
    }


# --------------------------------------------------------------------------------------------------------- counting


def test_each_end_is_counted_once(bench: Bench) -> None:
    """However often somebody looks, and with what it took."""
    exported = bench.exporter()
    bench.do(succeed)
    for _ in range(3):
        exported.turn()
        found = figures(exported.text())
    assert {("", "succeeded"): 1} == ended(exported.text())
    assert 1 == found["watcherd_stage_duration_seconds_count", "total"]
    assert 0.04 == pytest.approx(found["watcherd_stage_duration_seconds_sum", "inference"])
    assert 800.5 * 2**20 == found["watcherd_device_memory_allocated_peak_bytes", "cuda:0", "Card"]
    assert 0.04 == pytest.approx(found["watcherd_device_busy_seconds_total", "cuda:1", "Card"])


def test_every_kind_of_end_and_retries_are_told_apart(bench: Bench) -> None:
    """Also an end that no scan went through the pipeline for: cancelled by a person, found at a start."""
    exported = bench.exporter()

    def retried_then_cancelled(connection: Connection, claim: Any) -> None:
        queue.retry_later(connection, claim, failure(ErrorClass.TRANSIENT), later_decision(0), now=NOW)
        queue.cancel(connection, [claim.job_id], now=NOW)

    def given_up(connection: Connection, claim: Any) -> None:
        queue.give_up(connection, claim, failure(ErrorClass.NO_MASK), now=NOW)

    def killed_too_often(connection: Connection, claim: Any) -> None:
        connection.exec_driver_sql("UPDATE job SET interruptions = 9, solo = 1 WHERE id = ?", (claim.job_id,))
        queue.requeue_interrupted(connection, run_id=start_run(connection), now=NOW)

    for number, work in enumerate((succeed, retried_then_cancelled, given_up, killed_too_often)):
        bench.do(work, f"{number}.png")
    assert {
        ("", "succeeded"): 1,
        ("", "cancelled"): 1,
        ("no-mask", "failed"): 1,
        ("crash", "quarantined"): 1,
    } == ended(exported.text())
    assert 1 == figures(exported.text())["watcherd_retries_total", "transient"]


def test_a_job_that_is_done_again_counts_again(bench: Bench) -> None:
    """Before and after somebody looked."""
    exported = bench.exporter()

    def twice(connection: Connection, claim: Any) -> None:
        succeed(connection, claim, "first")
        queue.ask_again(connection, [claim.job_id], now=NOW)
        succeed(connection, claim_one(connection, 1), "second")

    bench.do(twice)
    assert {("", "succeeded"): 2} == ended(exported.text())


def test_a_restart_begins_at_0(bench: Bench) -> None:
    """What Prometheus takes for a reset, and not the whole history as one leap; gauges go on."""
    bench.do(succeed)
    found = figures(bench.exporter().text())
    assert {} == ended(bench.exporter().text())
    assert 1 == found["watcherd_jobs", "succeeded"]


def test_pruned_history_neither_counts_again_nor_stops_the_counting(bench: Bench) -> None:
    """Even when every event is gone and their numbers begin anew."""
    exported = bench.exporter()

    def disposed(connection: Connection, claim: Any) -> None:
        succeed(connection, claim)
        connection.exec_driver_sql("UPDATE arrival SET present = 0, disposal = 'archived', delivery = 'delivered'")

    for number in range(5):
        bench.do(disposed, f"{number}.png")
    assert {("", "succeeded"): 5} == ended(exported.text())
    bench.database.write(lambda c: backup.prune(c, before=later(days=1)))
    assert {("", "succeeded"): 5} == ended(exported.text())
    bench.do(succeed, "new.png")
    assert {("", "succeeded"): 6} == ended(exported.text())


def test_switched_on_later_it_does_not_make_up_for_what_was_before(bench: Bench) -> None:
    """Weeks of events in one go would take a while, and say nothing about now."""
    exported = Exporter(bench.config(), bench.database, lambda: bench.status)
    bench.do(succeed, "before.png")
    exported.turn()
    exported.reconfigure(bench.config(file="watcherd.prom"))
    bench.do(succeed, "after.png")
    exported.turn()
    assert {("", "succeeded"): 1} == ended((bench.folder / "watcherd.prom").read_bytes())


def test_a_look_reads_no_whole_table(bench: Bench) -> None:
    """A million jobs in history slow it down by nothing."""
    bench.do(succeed)
    statements: set[str] = set()

    def read(connection: Connection) -> list[str]:
        driver_of(connection).set_trace_callback(statements.add)
        progress.since(connection, 0)
        driver_of(connection).set_trace_callback(None)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").fetchall() for sql in statements]
        return [row.detail for plan in plans for row in plan]

    steps = bench.database.write(read)
    assert 4 == len(statements)
    assert [] == [step for step in steps if step.startswith("SCAN") and step != "SCAN event"]
    assert [] == [sql for sql in statements if "event.id >" not in sql and "max(id)" not in sql]


# ---------------------------------------------------------------------------------------------------- what is so now


def test_what_the_daemon_says_of_itself_is_there(bench: Bench) -> None:
    """Replicas, cards, inbox, pauses, times, hooks; and nothing for what it does not know."""
    found = figures(bench.exporter().text())
    expected = {
        ("watcherd_build_info", "bfloat16", "3", "vessel", "0.1.0"): 1,
        ("watcherd_ready",): 1,
        ("watcherd_refreshed_timestamp_seconds",): later(seconds=60).timestamp(),
        ("watcherd_start_timestamp_seconds",): NOW.timestamp() - 245.678,
        ("watcherd_replicas", "idle"): 1,
        ("watcherd_replicas", "down"): 1,
        ("watcherd_replicas", "busy"): 0,
        ("watcherd_replica_restarts_total", "1"): 2,
        ("watcherd_device_memory_used_bytes", "GPU-1", "Card"): 2**30,
        ("watcherd_inbox_online",): 1,
        ("watcherd_inbox_settling_files",): 3,
        ("watcherd_inbox_sweep_duration_seconds",): 0.25,
        ("watcherd_paused", "work"): 1,
        ("watcherd_paused", "outbox"): 1,
        ("watcherd_paused", "inbox"): 0,
        ("watcherd_hook_calls_total", "called", "command"): 4,
        ("watcherd_hook_calls_waiting",): 0,
    }
    assert expected == pytest.approx({series: found.get(series) for series in expected})
    assert ("watcherd_device_memory_size_bytes", "GPU-1", "Card") not in found
    for folder in ("state", "inbox", "outbox", "archive"):
        assert 0 < found["watcherd_disk_free_bytes", folder] <= found["watcherd_disk_size_bytes", folder]
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "database_size_bytes"):
        assert found[f"watcherd_{name}",] > 0


def test_what_waits_has_an_age(bench: Bench) -> None:
    """0 when nothing waits."""
    exported = bench.exporter()
    assert 0 == figures(exported.text())["watcherd_queue_oldest_age_seconds",]
    bench.database.write(lambda c: enqueue(c, 1, scan("a.png")))
    found = figures(exported.text())
    assert 60 == found["watcherd_queue_oldest_age_seconds",]
    assert (1, 1) == (found["watcherd_jobs", "queued"], found["watcherd_arrivals", "queued"])


def test_no_file_name_is_ever_among_them(bench: Bench) -> None:
    """Not in a label, whatever the job and the pauses are called."""
    exported = bench.exporter()
    bench.do(succeed)
    assert NAME not in exported.text().decode()


def test_an_offline_inbox_is_not_asked_for_its_room(bench: Bench) -> None:
    """A dead share may never answer."""
    bench.status["inbox"] = dict(STATUS["inbox"], online=False)
    found = figures(bench.exporter().text())
    assert 0 == found["watcherd_inbox_online",]
    assert ("watcherd_disk_free_bytes", "inbox") not in found


def test_while_it_starts_there_are_figures_too(bench: Bench) -> None:
    """Without inbox, model and replicas."""
    bench.status |= {"phase": "loading", "inbox": None, "replicas": [], "model": None, "cards": []}
    found = figures(bench.exporter().text())
    assert 0 == found["watcherd_ready",]
    assert ("watcherd_inbox_online",) not in found


def test_a_history_that_cannot_be_read_hides_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what ended meanwhile is counted afterwards."""
    exported = bench.exporter()
    bench.do(succeed)

    @contextmanager
    def unreadable() -> Iterator[None]:
        raise StoreUnavailableError("the disk is gone")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(bench.database, "reader", unreadable)
        exported.turn()
        found = figures(exported.text())
    assert 1 == found["watcherd_ready",]
    assert ("watcherd_jobs", "queued") not in found
    assert {("", "succeeded"): 1} == ended(exported.text())


# ---------------------------------------------------------------------------------------------------------- the file


def test_the_file_is_replaced_as_a_whole_and_readable_for_all(bench: Bench) -> None:
    """node_exporter is another user; nothing else that it would read lies beside it."""
    exported = bench.exporter()
    file = bench.folder / "watcherd.prom"
    exported.turn()
    before = file.stat()
    old = os.umask(0o077)
    with file.open("rb") as reader:
        try:
            exported.turn()
        finally:
            os.umask(old)
        assert figures(reader.read())["watcherd_ready",] == 1
    assert before.st_ino != file.stat().st_ino
    assert 0o644 == stat.S_IMODE(file.stat().st_mode)
    assert ["watcherd.prom"] == [path.name for path in bench.folder.glob("*.prom*")]
    assert [] == list(bench.folder.glob(".watcherd*"))


def test_the_file_is_taken_away_at_the_end(bench: Bench) -> None:
    """Figures of a service that does not run are no figures."""
    exported = bench.exporter(file="watcherd.prom", interval_seconds=600)
    thread = threading.Thread(target=exported.run)
    thread.start()
    wait_for((bench.folder / "watcherd.prom").exists)
    exported.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not (bench.folder / "watcherd.prom").exists()


def test_another_name_takes_the_old_file_away(bench: Bench) -> None:
    exported = bench.exporter()
    exported.turn()
    exported.reconfigure(bench.config(file="other.prom"))
    exported.turn()
    assert ["other.prom"] == [path.name for path in bench.folder.glob("*.prom")]


def test_a_file_that_cannot_be_written_is_said_once_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the counting goes on."""
    exported = bench.exporter(file="gone/watcherd.prom")
    said = Mock()
    monkeypatch.setattr(exported, "_log", said)
    for _ in range(3):
        exported.turn()
    said.warning.assert_called_once()
    assert ("metrics_unavailable",) == said.warning.call_args.args
    bench.do(succeed)
    (bench.folder / "gone").mkdir()
    exported.turn()
    assert {("", "succeeded"): 1} == ended((bench.folder / "gone" / "watcherd.prom").read_bytes())


def test_without_file_and_port_nothing_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history is not even asked."""
    exported = Exporter(bench.config(), bench.database, lambda: bench.status)
    monkeypatch.setattr(bench.database, "reader", None)
    exported.turn()
    assert [] == list(bench.folder.glob("*.prom"))


def test_a_folder_that_is_not_there_is_refused(bench: Bench) -> None:
    """By ``config check`` and ``reload``."""
    with pytest.raises(ConfigError, match=r"metrics\.file = .*there is no folder") as caught:
        refuse_unusable(bench.config(file="nowhere/watcherd.prom"))
    assert "textfile.directory" in caught.value.hint
    refuse_unusable(bench.config(file="watcherd.prom"))


# ---------------------------------------------------------------------------------------------------------- the port


@pytest.fixture
def port() -> int:
    """One that is free at the moment."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def served(bench: Bench, port: int) -> Iterator[Exporter]:
    exported = bench.exporter(port=port)
    exported.turn()
    yield exported
    exported.reconfigure(bench.config())
    exported.turn()


def get(port: int, path: str = "/metrics") -> Any:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)


def test_the_port_serves_figures_as_they_are_now(bench: Bench, served: Exporter, port: int) -> None:
    """Not those of the last interval."""
    with get(port) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert {} == ended(answer.read())
    bench.do(succeed)
    with get(port) as answer:
        assert {("", "succeeded"): 1} == ended(answer.read())


def test_the_port_is_open_on_loopback_alone(served: Exporter, port: int) -> None:
    """127.0.0.1, and no other address of this machine."""
    assert served._server is not None
    assert ("127.0.0.1", port) == served._server.server_address
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=PATIENCE)


def test_nothing_else_is_served(served: Exporter, port: int) -> None:
    """Neither other paths nor other methods."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(port, "/")
    assert 404 == caught.value.code
    caught.value.close()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=PATIENCE)  # noqa: S310
    assert 501 == caught.value.code
    caught.value.close()


def test_a_folder_that_never_answers_does_not_pile_up_requests(
    served: Exporter, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told that there are no figures, after a while."""
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", 0.05)
    begun = time.monotonic()
    with served._counting, pytest.raises(urllib.error.HTTPError) as caught:
        get(port)
    assert 503 == caught.value.code
    assert time.monotonic() - begun < PATIENCE / 2
    caught.value.close()


def test_a_port_that_is_taken_is_tried_again(bench: Bench, port: int) -> None:
    """It must not keep the service from working."""
    exported = bench.exporter(port=port)
    with closing(socket.create_server(("127.0.0.1", port))):
        exported.turn()
    exported.turn()
    with get(port) as answer:
        assert 1 == figures(answer.read())["watcherd_ready",]
    exported.reconfigure(bench.config())
    exported.turn()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def wait_for(look: Any) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)
