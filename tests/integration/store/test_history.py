"""What people read: records with the promised fields, views that read well, filters, rates."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import (
    MODEL,
    NOW,
    claim,
    claim_one,
    enqueue,
    failure,
    later,
    scan,
    start_run,
    succeed,
)
from watcherd.job import ErrorClass, Options, State
from watcherd.store import Database, Filter, ModelIdentity, history, queue, runs
from watcherd.store.views import VIEWS

if TYPE_CHECKING:
    from sqlalchemy import Connection

PROMISED = {
    "id",
    "state",
    "source",
    "sha256",
    "size_bytes",
    "width",
    "height",
    "frames",
    "profile",
    "segmenter",
    "model",
    "model_revision",
    "dtype",
    "answer",
    "decode",
    "threshold",
    "mask_fraction",
    "attempts",
    "error_class",
    "error",
    "created_at",
    "started_at",
    "finished_at",
    "queue_ms",
    "decode_ms",
    "inference_ms",
    "render_ms",
    "batch_size",
    "devices",
    "host_peak_rss_mib",
    "outputs",
}
"""The fields of a job that other programs may rely on."""

DEVICE = ["device", "name", "vram_before_mib", "vram_peak_allocated_mib", "vram_peak_reserved_mib", "nvml_used_mib"]


@pytest.fixture
def filled(connection: Connection, run_id: int) -> Connection:
    """Succeeded, failed, running and waiting jobs of two profiles."""
    coronary = Options(profile="coronary", threshold=0.25)
    enqueue(
        connection,
        run_id,
        scan("a_1.png", 1),
        scan("coronary/b.png", 2, options=coronary),
        scan("c.png", 3),
        scan("d.png", 4),
    )
    enqueue(connection, run_id, scan("same as a.png", 1), now=later(minutes=1))
    enqueue(connection, run_id, scan("late.png", 5), now=later(hours=1))
    succeed(connection, claim_one(connection, run_id), "a", now=later(seconds=9))
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=later(minutes=30))
    claim_one(connection, run_id)
    return connection


def ids(records: list[history.JobRecord]) -> list[int]:
    return [record["id"] for record in records]


def test_a_record_has_every_promised_field_and_is_json(filled: Connection) -> None:
    record = history.job(filled, 1)
    assert record is not None
    assert record.keys() >= PROMISED
    assert set(DEVICE) <= record["devices"][0].keys()
    assert record["outputs"][0].keys() == {"kind", "path", "sha256", "bytes"}
    assert json.loads(json.dumps(record)) == record


def test_there_is_no_record_of_an_unknown_job(filled: Connection) -> None:
    assert history.job(filled, 99) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), [5, 4, 3, 2, 1]),
        (Filter(sort="oldest", limit=2), [1, 2]),
        (Filter(sort="oldest", limit=2, offset=2), [3, 4]),
        (Filter(states=[State.FAILED, State.RUNNING]), [3, 2]),
        (Filter(error_class=ErrorClass.INPUT), [2]),
        (Filter(profile="coronary"), [2]),
        (Filter(name="same as"), [1]),
        (Filter(name="_1"), [1]),
        (Filter(name="a%"), []),
        (Filter(name="PNG", limit=None), [5, 4, 3, 2, 1]),
        (Filter(sha256=f"{3:064x}"), [3]),
        (Filter(since=later(minutes=10)), [5]),
        (Filter(until=later(minutes=10)), [4, 3, 2, 1]),
        (Filter(sort="inference_ms", limit=1), [1]),
    ],
)
def test_filters(filled: Connection, wanted: Filter, found: list[int]) -> None:
    assert ids(history.jobs(filled, wanted)) == found


def test_counts_fates_and_ages(filled: Connection) -> None:
    assert history.counts(filled)[State.QUEUED] == 2
    assert sum(history.fates(filled).values()) == history.arrivals_in_all(filled) == 6
    assert history.oldest_queued(filled) == "2026-01-02T03:04:05.678Z"
    assert [job["id"] for job in history.active(filled)] == [3]
    rate = history.rate(filled, minutes=60, now=later(minutes=45))
    assert (rate.succeeded, rate.failed, rate.per_minute) == (1, 1, 2 / 60)
    assert history.failures_by_class(filled, since=NOW) == {"input": 1}


def test_nothing_is_queued_in_an_empty_history(connection: Connection) -> None:
    assert history.oldest_queued(connection) is None
    assert sum(history.counts(connection).values()) == 0


def test_every_name_of_a_job_is_told(filled: Connection) -> None:
    names = history.arrivals(filled, 1)
    assert [(name["source"], name["fate"], name["delivery"]) for name in names] == [
        ("a_1.png", "queued", "delivered"),
        ("same as a.png", "duplicate", "due"),
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_answers(filled: Connection, view: str) -> None:
    rows = filled.exec_driver_sql(f"SELECT * FROM {view}").fetchall()  # noqa: S608 - names of ours
    assert (
        len(rows)
        == {
            "jobs": 5,
            "measures": 0,
            "reviews": 0,
            "queue": 2,
            "failures": 1,
            "today": 0,
            "vram": 2,
            "throughput": 1 + 0,
            "cards": 2,
            "stages": 4,
            "duplicates": 1,
            "names": 6,
            "results": 2,
            "unfinished": 3,
            "evaluations": 0,
            "evaluation_scans": 0,
        }[view]
    )


def test_today_begins_at_the_persons_midnight(connection: Connection, run_id: int) -> None:
    """By the clock and the time zone of whoever asks."""
    enqueue(connection, run_id, scan("a.png"), scan("b.png"))
    first, second = claim(connection, run_id, limit=2)
    midnight = connection.exec_driver_sql(
        "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now', 'localtime', 'start of day', 'utc')"
    ).scalar_one()
    for job, shift in ((first, "-1 seconds"), (second, "+0 seconds")):
        succeed(connection, job.claim)
        connection.exec_driver_sql(
            "UPDATE job SET finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', ?, ?) WHERE id = ?", (midnight, shift, job.id)
        )
    assert connection.exec_driver_sql("SELECT id FROM today").scalars().all() == [2]


def test_the_columns_of_the_view_begin_with_what_is_short_and_telling(connection: Connection) -> None:
    columns = list(connection.exec_driver_sql("SELECT * FROM jobs").keys())
    assert columns[:4] == ["id", "state", "source", "mask_fraction"]
    assert columns[-2:] == ["outputs", "devices"]


DOCUMENTED = Path(__file__).parents[3] / "docs" / "history.md"


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL))
def test_every_query_of_the_documentation_runs(filled: Connection, query: str) -> None:
    for statement in filter(str.strip, query.split(";")):
        filled.exec_driver_sql(statement).fetchall()


def test_the_documentation_knows_every_table_view_and_column(connection: Connection) -> None:
    text = DOCUMENTED.read_text()
    objects = connection.exec_driver_sql(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
    ).scalars()
    for name in objects:
        assert f"`{name}`" in text
    for column in connection.exec_driver_sql("SELECT * FROM jobs"):
        assert f"`{column}`" in text


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 shell here")
def test_the_shell_shows_readable_rows_while_the_daemon_runs(database: Database, path: Path) -> None:
    run_id = database.write(start_run)
    database.write(lambda c: enqueue(c, run_id, scan(b"M\xfcller.png")))
    shown = subprocess.run(
        ["sqlite3", "-readonly", path, "select * from jobs"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert shown.startswith(r"1|queued|M\xfcller.png|")


def test_runs_and_replicas_are_told(connection: Connection, run_id: int) -> None:
    replica = runs.start_replica(
        connection, run_id=run_id, number=0, model=MODEL, placement={"devices": ["cuda:0"]}, pid=7, now=NOW
    )
    loaded = ModelIdentity(segmenter="sa2va", model="m", revision="7", dtype="bfloat16")
    runs.replica_ready(
        connection, replica, model=loaded, weights_mib={"cuda:0": 15000.5}, host_rss_mib=900, now=later(seconds=4)
    )
    (found,) = history.replicas(connection, run_id)
    assert (found["load_ms"], found["weights_mib"]) == (4000, {"cuda:0": 15000.5})
    assert found["placement"] == {"devices": ["cuda:0"]}
    assert (found["model"], found["model_revision"], found["dtype"]) == ("m", "7", "bfloat16")
    runs.end_replica(connection, replica, "killed", now=later(seconds=9))
    runs.end_run(connection, run_id, "stopped", now=later(seconds=10))
    assert [run["end_reason"] for run in history.runs(connection)] == ["stopped"]
    assert [replica["end_reason"] for replica in history.replicas(connection, run_id)] == ["killed"]


def test_a_command_is_carried_out_once(connection: Connection) -> None:
    assert runs.receive_command(connection, "uuid", "retry", {"jobs": [1]}, now=NOW)
    assert not runs.receive_command(connection, "uuid", "retry", {"jobs": [1]}, now=NOW)
    runs.finish_command(connection, "uuid", outcome="done", now=later(seconds=1))
    runs.finish_command(connection, "uuid", outcome="failed", error="twice", now=later(seconds=2))
    found = runs.command(connection, "uuid")
    assert found is not None
    assert (found["outcome"], found["error"], found["arguments"]) == ("done", None, {"jobs": [1]})
    assert runs.command(connection, "other") is None


def test_a_setting_is_kept_until_it_is_forgotten(connection: Connection) -> None:
    assert runs.setting(connection, "paused") is None
    runs.set_setting(connection, "paused", "disk full")
    runs.set_setting(connection, "paused", "a person")
    assert runs.setting(connection, "paused") == "a person"
    runs.set_setting(connection, "paused", None)
    assert runs.setting(connection, "paused") is None
