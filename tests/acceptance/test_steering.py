"""A person steers it: signals, commands with the daemon up and down, a wrong configuration, a broken database."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.acceptance.invariants import check_at_any_moment, check_invariants, documents, notes
from tests.acceptance.service import Service, broken, marked_png, png
from watcherd.state import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, model={"segmenter": "fake"})
    yield service
    service.end()


# --------------------------------------------------------------------------------------------------------- commands


def test_commands_with_the_daemon_up(service: Service) -> None:
    """Pause, cancel, prioritise, resume, retry and reload, each with its answer."""
    service.start()
    service.ready()
    assert "paused" in service.json("pause")["outcome"]
    for number in range(4):
        service.drop(f"scan {number}.png", png(number))
    service.drop("bad.png", broken(1))
    service.wait(lambda: service.states() == {"queued": 5}, "five scans to be queued")
    assert service.live()["held"] is True

    (taken_back,) = service.rows("SELECT id FROM job WHERE source = 'scan 0.png'")[0]
    assert service.json("cancel", str(taken_back))["outcome"].startswith("1 cancelled")
    (first,) = service.rows("SELECT id FROM job WHERE source = 'scan 3.png'")[0]
    assert service.json("prioritise", str(first))["outcome"].startswith("1 ")

    assert service.json("resume")["outcome"] == "resumed"
    service.finished(5)
    assert service.states() == {"succeeded": 3, "failed": 1, "cancelled": 1}
    assert service.rows("SELECT id FROM job WHERE state = 'succeeded' ORDER BY started_at, priority DESC")[0] == (
        first,
    )
    assert sorted(notes(service)) == ["bad.png", "scan 0.png"]
    assert check_invariants(service) == []

    assert service.json("retry", str(taken_back))["outcome"].startswith("1 queued again")
    service.finished(5)
    service.wait(lambda: service.states() == {"succeeded": 4, "failed": 1}, "the cancelled scan to be done after all")
    service.wait(service.at_rest, "everything to come to rest")
    assert notes(service) == ["bad.png"], "the note of a scan that has a result now was left"
    assert check_invariants(service) == []

    refused = service.command("retry", "999")
    assert refused.returncode == 64
    assert "There is no job 999" in refused.stderr


def test_commands_with_the_daemon_down(service: Service) -> None:
    """Retry and cancel work on the history directly; what only a daemon can do says that there is none."""
    service.drop("good.png", png(1))
    service.drop("bad.png", broken(1))
    assert service.once() == 0
    (failed,) = service.rows("SELECT id FROM job WHERE state = 'failed'")[0]
    assert service.json("retry", "--state", "failed")["outcome"].startswith("1 queued again")
    assert service.states() == {"succeeded": 1, "queued": 1}
    assert service.json("cancel", str(failed))["outcome"].startswith("1 cancelled")
    assert service.states() == {"succeeded": 1, "cancelled": 1}
    assert service.once() == 0
    assert check_invariants(service) == []
    answer = service.command("reload")
    assert answer.returncode == 69
    assert "not running" in answer.stderr


def test_a_pause_holds_until_it_is_ended_whatever_restarts(service: Service) -> None:
    """Said while the daemon is down, found by its starts; one that is to end with its work refuses to begin."""
    assert "paused" in service.json("pause")["outcome"]
    service.drop("scan.png", png(1))
    assert service.once() == 75
    assert "paused by a person" in service.tail()
    for _ in range(2):
        service.start()
        service.ready()
        service.wait(lambda: service.states() == {"queued": 1}, "the scan to be queued")
        assert service.live()["held"] is True
        service.stop()
    assert service.json("resume")["outcome"] == "resumed"
    assert service.once() == 0
    assert service.states() == {"succeeded": 1}


def test_a_scan_is_asked_for_again_after_its_copy_is_gone(service: Service) -> None:
    """Its bytes come from the archive; the new results take the place of the old ones."""
    service.drop("good.png", png(1))
    assert service.once() == 0
    assert not any((service.state / "spool").rglob("[0-9a-f]*64"))
    assert service.json("retry", "1")["outcome"].startswith("1 queued again")
    assert service.once() == 0
    assert [document["source"] for _, document in documents(service)] == ["good.png"]
    assert service.rows("SELECT attempts, state FROM job") == [(2, "succeeded")]
    assert check_at_any_moment(service) == []


# ---------------------------------------------------------------------------------------------------- configuration


def test_sighup_applies_a_good_file_and_keeps_the_old_one_over_a_bad_one(service: Service) -> None:
    """The bad value is named in the log, and scans are still done as before."""
    service.start()
    service.ready()
    service.configure(model={"segmenter": "fake", "threshold": 0.9})
    service.signal(signal.SIGHUP)
    service.wait(lambda: service.log("config_reloaded"), "the new configuration")
    service.configure(model={"segmenter": "fake", "threshold": 7})
    service.signal(signal.SIGHUP)
    rejected = service.wait(lambda: service.log("config_rejected"), "the refusal")
    assert "model.threshold = 7" in rejected[0]["error"]
    service.drop("scan.png", png(1))
    service.finished(1)
    assert [document["threshold"] for _, document in documents(service)] == [0.9]
    answer = service.command("reload")
    assert answer.returncode == 78
    assert "model.threshold = 7" in answer.stderr
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("model", "threshold", 3, "less than or equal to 1"),
        ("model", "dtype", "float8", "bfloat16"),
        ("inbox", "on_succes", "", "on_success"),
        ("outbox", "path", "inbox", "apart"),
        ("model", "segmenter", "no-such-model", "vesselness"),
    ],
)
def test_a_wrong_configuration_ends_with_78_and_says_what_is_allowed(
    service: Service, section: str, key: str, value: object, allowed: str
) -> None:
    """The message names the key and the value."""
    service.configure(**{section: {key: value}})
    service.start()
    assert service.ended() == 78
    for word in (f"{section}.{key}", str(value), allowed):
        assert word in service.tail(), word


# ------------------------------------------------------------------------------------------------------ one at a time


def test_a_second_daemon_ends_with_75_and_names_the_first(service: Service) -> None:
    """And the first goes on."""
    service.start()
    service.ready()
    second = service.command("run")
    assert second.returncode == 75
    assert f"pid {service.pid}" in second.stderr
    assert service.live()["phase"] == "running"
    assert service.stop() == 0


def test_whoever_asks_who_the_owner_is_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    """`status` holds the lock for a moment; a daemon that starts in this very moment waits for it."""
    path = tmp_path / "watcherd.lock"
    with path.open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        with lock.sole_owner(path):
            assert lock.owner(path) == os.getpid()


# --------------------------------------------------------------------------------------------------------- signals


def test_one_sigterm_waits_for_the_batch_and_a_second_one_hurries(service: Service) -> None:
    """A scan that would never end is given up at once; the attempt does not count, and the next start does it."""
    begin_what_never_ends(service)
    service.signal(signal.SIGTERM)
    service.wait(lambda: service.log("daemon_stopping"), "the stop to begin")
    assert service.process is not None
    assert service.process.poll() is None, "it did not wait for the batch"
    service.signal(signal.SIGTERM)
    assert service.ended(seconds=30) == 0
    assert service.rows("SELECT state, attempts FROM job") == [("queued", 0)]
    service.configure()
    assert service.once() == 0
    assert check_invariants(service) == []


def test_a_person_stops_it_by_a_command(service: Service) -> None:
    """The command returns when it has ended, in good order."""
    service.drop("a.png", png(1))
    service.start()
    service.ready()
    service.finished(1)
    said = service.command("stop")
    assert (0, "stopped\n") == (said.returncode, said.stdout)
    assert 0 == service.ended()
    assert [("stopped",)] == service.rows("SELECT end_reason FROM run")


def test_batches_that_are_being_computed_end_before_the_stop(service: Service) -> None:
    """SIGTERM in the middle of the work: what is with the model is finished and recorded, the rest is given back."""
    service.environment = {"WATCHERD_FAKE": json.dumps({"seconds": 2.0})}
    for number in range(30):
        service.drop(f"scan {number}.png", png(number))
    service.start()
    service.wait(lambda: "succeeded" in service.states(), "the first result")
    service.wait(lambda: any(replica["jobs"] for replica in service.live()["replicas"]), "the next batch to begin")
    before = service.states()["succeeded"]
    assert service.stop() == 0
    assert service.states()["succeeded"] > before
    assert set(service.rows("SELECT state, attempts FROM job")) == {("succeeded", 1), ("queued", 0)}
    assert check_at_any_moment(service) == []


def begin_what_never_ends(service: Service) -> None:
    """Start the daemon on a scan at which the model hangs, and wait until it does."""
    service.drop("endless.png", marked_png(1, "hang"))
    service.start()
    service.wait(lambda: any(replica["jobs"] for replica in service.live().get("replicas", [])), "the replica to begin")


def test_nothing_that_it_started_outlives_it(service: Service) -> None:
    """Killed, it takes its replicas and workers along: none goes on with a scan that somebody else does again."""
    begin_what_never_ends(service)
    children = descendants(service.pid)
    assert len(children) >= 2
    service.kill()
    deadline = time.monotonic() + 30
    while left := [pid for pid in children if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


# ---------------------------------------------------------------------------------------------------- a broken database


def test_a_corrupt_database_is_set_aside_and_replaced_by_the_last_backup(service: Service) -> None:
    """Nothing of it is thrown away, the log says what was done, and scans that lie in the inbox are done."""
    service.drop("before.png", png(1))
    assert service.once() == 0
    assert service.command("db", "backup").returncode == 0
    service.database.write_bytes(b"This is no database any more." * 500)
    service.drop("after.png", png(2))
    assert service.once() == 0, service.tail()
    assert [entry["event"] for entry in service.log() if entry["event"].startswith("database_")] == [
        "database_corrupt",
        "database_restored",
    ]
    aside = [path for path in service.state.iterdir() if path.is_file() and path.read_bytes().startswith(b"This is")]
    assert len(aside) == 1
    assert service.states() == {"succeeded": 2}
    assert check_invariants(service) == []


def test_a_corrupt_database_without_a_backup_begins_anew(service: Service) -> None:
    """What was delivered stays where it is; the same scans dropped again do not overwrite it."""
    service.drop("scan.png", png(1))
    assert service.once() == 0
    before = {path: path.stat().st_mtime_ns for path in service.outbox.rglob("*.*") if path.is_file()}
    service.database.write_bytes(os.urandom(20_000))
    service.drop("scan.png", png(1))
    assert service.once() == 0, service.tail()
    assert service.states() == {"succeeded": 1}
    assert {path: path.stat().st_mtime_ns for path in before} == before
