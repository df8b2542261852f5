"""How the store does with a million jobs in history: size, and the time of everything that is asked often.

    python -m benchmarks.store_scale [--jobs 1000000] [--folder DIR] [--json]

The history is made by SQL alone, in a few minutes; the questions are those of docs/history.md and of the daemon. Each
is asked five times over a fresh connection, as a command line would; the median counts.
"""

# ruff: noqa: S608 - every word of these statements is ours
from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.job import Options, State
from watcherd.store import (
    Database,
    Filter,
    ModelIdentity,
    NewArrival,
    Signature,
    arrivals,
    deliveries,
    history,
    queue,
    reader,
    runs,
)
from watcherd.store.records import stamp
from watcherd.store.rules import TRIGGERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAYS = 30
MODEL = ModelIdentity(segmenter="vesselness", model="vesselness", revision="1", dtype="float32")
OPTIONS = Options()

NUMBERS = """
CREATE TEMP TABLE number AS
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :jobs)
SELECT i, strftime('%Y-%m-%dT%H:%M:%fZ', :start + :span * i / :jobs, 'unixepoch') AS at,
    CASE WHEN i > :jobs - 1000 THEN 'queued' WHEN i % 50 = 0 THEN 'failed' ELSE 'succeeded' END AS state
FROM n
"""

HISTORY = (
    """
INSERT INTO scan (id, sha256, size_bytes, width, height, frames, format, spool_name)
SELECT i, printf('%064x', i), 40000 + i % 9000, 512, 512, 1, 'JPEG', printf('%064x', i) FROM number
""",
    """
INSERT INTO job (id, scan_id, arrival_id, source, profile, options, options_key, segmenter, model, model_revision,
                 dtype, state, error, error_class, attempts, run_id, attempt_id, moved_why, moved_at, created_at,
                 queued_at, started_at, finished_at, threshold, mask_fraction, queue_ms, decode_ms, inference_ms,
                 render_ms, batch_size)
SELECT i, i, i, printf('ward-%d/scan-%07d_frame_%06d.jpg', i % 20, i / 20, i % 20), 'default', :options, :key,
    'vesselness', 'vesselness', '1', 'float32', state,
    CASE state WHEN 'failed' THEN 'The picture is truncated.' END, CASE state WHEN 'failed' THEN 'input' END, 1, 1,
    CASE state WHEN 'queued' THEN NULL ELSE i END, 'delivered', at, at, at, at,
    CASE state WHEN 'queued' THEN NULL ELSE at END, 0.5, 0.1, i % 5000, 10 + i % 30, 80 + i % 900, 20, 8
FROM number
""",
    """
INSERT INTO arrival (id, run_id, path, path_text, fate, seen_at, ingested_at, size_bytes, mtime_ns, device, inode,
                     ctime_ns, job_id, present, delivery, disposal, disposed_at)
SELECT i, 1, CAST(p AS BLOB), p, 'queued', at, at, 40000, i, 1, i, 0, i, state = 'queued',
    CASE state WHEN 'queued' THEN 'waiting' ELSE 'delivered' END,
    CASE state WHEN 'queued' THEN 'pending' ELSE 'archived' END, at
FROM (SELECT *, printf('ward-%d/scan-%07d_frame_%06d.jpg', i % 20, i / 20, i % 20) AS p FROM number)
""",
    """
INSERT INTO attempt (id, job_id, number, run_id, started_at, ended_at, outcome, decode_ms, inference_ms, render_ms,
                     batch_size)
SELECT i, i, 1, 1, at, at, state, 10 + i % 30, 80 + i % 900, 20, 8 FROM number WHERE state <> 'queued'
""",
    """
INSERT INTO attempt_device (attempt_id, device, name, vram_before_mib, vram_peak_allocated_mib)
SELECT i, printf('GPU-%d', i % 4), 'Card', 15000.0, 15000.0 + i % 4000 FROM number WHERE state <> 'queued'
""",
    """
INSERT INTO output (job_id, arrival_id, attempt_id, kind, path, path_text, staged_path, sha256, bytes, state,
                    delivered_at)
SELECT i, i, i, kind, CAST(kind || i AS BLOB), kind || '/' || i, x'00', printf('%064x', i), 9000, 'delivered', at
FROM number, (SELECT 'mask' AS kind UNION SELECT 'overlay' UNION SELECT 'result') WHERE state = 'succeeded'
""",
    """
INSERT INTO event (at, job_id, kind, from_state, to_state, run_id)
SELECT at, i, kind, a, b, 1
FROM number, (SELECT 'ingested' AS kind, NULL AS a, 'queued' AS b UNION ALL SELECT 'claimed', 'queued', 'running'
              UNION ALL SELECT 'staged', 'running', 'delivering'
              UNION ALL SELECT 'delivered', 'delivering', 'succeeded')
""",
    "INSERT INTO total SELECT 'job.' || state, count(*) FROM job GROUP BY state",
    "INSERT INTO total SELECT 'arrival.' || fate, count(*) FROM arrival GROUP BY fate",
    """
INSERT INTO hour
SELECT substr(finished_at, 1, 13), sum(state = 'succeeded'), sum(state = 'failed'), sum(queue_ms), sum(decode_ms),
    sum(inference_ms), sum(render_ms)
FROM job WHERE finished_at IS NOT NULL GROUP BY 1
""",
    """
INSERT INTO device_hour
SELECT substr(ended_at, 1, 13), device, name, count(*), sum(inference_ms), max(vram_peak_allocated_mib)
FROM attempt JOIN attempt_device ON attempt_id = attempt.id GROUP BY 1, 2, 3
""",
    "DROP TABLE number",
)


def make(path: Path, jobs: int) -> None:
    """A database with ``jobs`` jobs over the last days; the triggers are put back when it is opened next."""

    def fill(connection: Connection) -> None:
        start = NOW - timedelta(days=DAYS)
        values = {"jobs": jobs, "start": start.timestamp(), "span": DAYS * 86400.0}
        for name in TRIGGERS:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        find = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''"
        indexes = connection.exec_driver_sql(find).fetchall()
        for index in indexes:  # made at the end, at a third of the time
            connection.exec_driver_sql(f"DROP INDEX {index.name}")
        connection.exec_driver_sql("INSERT INTO run VALUES (1, ?, NULL, NULL, 1, 'h', 'b', '0')", (stamp(start),))
        connection.exec_driver_sql(NUMBERS, values)
        for statement in HISTORY:
            connection.exec_driver_sql(statement, {"options": OPTIONS.to_json(), "key": OPTIONS.key(MODEL.key)})
        for index in indexes:
            connection.exec_driver_sql(index.sql)

    with Database.open(path) as database:
        database.write(fill)
    Database.open(path).close()


def status(connection: Connection) -> None:
    """What ``watcherd status`` reads."""
    history.counts(connection)
    history.fates(connection)
    history.oldest_queued(connection)
    history.active(connection)
    history.rate(connection, minutes=15, now=NOW)
    history.failures(connection, 5)


def select(sql: str) -> Callable[[Connection], Any]:
    return lambda connection: connection.exec_driver_sql(sql).fetchall()


def questions(jobs: int) -> dict[str, Callable[[Connection], Any]]:
    """What people and the command line ask."""
    name = f"scan-{jobs // 40:07d}_frame_000010"
    since = (NOW - timedelta(days=1)).strftime("%Y-%m-%dT%H")
    return {
        "status": status,
        "jobs (newest 50)": history.jobs,
        "jobs --state failed": lambda c: history.jobs(c, Filter(states=[State.FAILED])),
        "jobs --sort inference_ms --since 1 day": lambda c: history.jobs(
            c, Filter(sort="inference_ms", since=NOW - timedelta(days=1))
        ),
        "jobs --name": lambda c: history.jobs(c, Filter(name=name)),
        "jobs --sha256": lambda c: history.jobs(c, Filter(sha256=f"{jobs // 2:064x}")),
        "show": lambda c: (history.job(c, jobs // 2), history.events(c, jobs // 2), history.attempts(c, jobs // 2)),
        "how many in a day": select(f"SELECT count(*) FROM job WHERE finished_at >= '{since}'"),
        "what failed and why": select(
            f"SELECT error_class, count(*) FROM failures WHERE finished_at >= '{since}' GROUP BY 1"
        ),
        "the last failures": select("SELECT * FROM failures LIMIT 20"),
        "slowest stage": select("SELECT sum(decode_ms), sum(inference_ms), sum(render_ms) FROM hour"),
        "largest VRAM": select(
            "SELECT * FROM vram WHERE vram_peak_allocated_mib IS NOT NULL "
            "ORDER BY vram_peak_allocated_mib DESC LIMIT 10"
        ),
        "busiest card": select("SELECT device, sum(busy_ms) FROM cards GROUP BY device ORDER BY 2 DESC"),
        "duplicates": select("SELECT * FROM duplicates LIMIT 20"),
        "the queue": select("SELECT * FROM queue LIMIT 20"),
        "rate per hour": select("SELECT * FROM throughput ORDER BY hour DESC LIMIT 24"),
        "what came out of scan X": select(
            f"SELECT outputs FROM jobs WHERE id IN (SELECT job_id FROM arrival WHERE path_text = 'ward-10/{name}.jpg')"
        ),
    }


def timed(work: Callable[[], Any], times: int = 5) -> float:
    """The median in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


def measure(path: Path, jobs: int) -> dict[str, float]:
    """Milliseconds by question."""

    def ask(question: Callable[[Connection], Any]) -> None:
        with reader(path) as connection:
            question(connection)

    result = {name: timed(lambda question=question: ask(question)) for name, question in questions(jobs).items()}
    begun = time.perf_counter()
    with Database.open(path) as database:
        result["open"] = (time.perf_counter() - begun) * 1000
        run_id = database.write(lambda c: runs.start_run(c, pid=1, host="h", boot_id=None, version="0", now=NOW))
        result |= {name: timed(lambda work=work: database.write(work)) for name, work in writes(run_id, jobs).items()}
    return result


def writes(run_id: int, jobs: int) -> dict[str, Callable[[Connection], Any]]:
    """What the daemon does, each in a durable transaction of its own."""
    fresh = iter(range(jobs + 1, jobs + 10_000_000))

    def enqueue(connection: Connection) -> None:
        new = [scan(next(fresh)) for _ in range(256)]
        arrivals.enqueue(connection, new, model=MODEL, run_id=run_id, now=NOW)

    taken = [scan(number).signature for number in range(jobs - 999, jobs + 1)]
    return {
        "claim 1": lambda c: queue.claim(c, run_id=run_id, limit=1, now=NOW),
        "claim 16": lambda c: queue.claim(c, run_id=run_id, limit=16, now=NOW),
        "enqueue 256": enqueue,
        "known 1000": lambda c: arrivals.known(c, taken),
        "to deliver and to dispose": lambda c: (
            deliveries.arrivals_to_deliver(c, 64),
            deliveries.arrivals_to_dispose(c, 64),
        ),
    }


def scan(number: int) -> NewArrival:
    return NewArrival(
        signature=Signature(f"new/{number}.jpg".encode(), 40000, number, 1, number),
        sha256=f"{number:064x}",
        spool_name=f"{number:064x}",
        options=OPTIONS,
        seen_at=NOW,
    )


def main() -> None:
    """Make the history, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the database is made (and kept)")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp())
    path = folder / f"history-{wanted.jobs}.db"
    try:
        begun = time.perf_counter()
        if not path.exists():
            make(path, wanted.jobs)
        made = time.perf_counter() - begun
        result = {"jobs": wanted.jobs, "made_s": made, "bytes": path.stat().st_size, "ms": measure(path, wanted.jobs)}
    finally:
        if wanted.folder is None:
            shutil.rmtree(folder)
    if wanted.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['jobs']} jobs, {path.name}: {result['bytes'] / 2**20:.0f} MiB, made in {made:.0f} s")
    for name, taken in result["ms"].items():
        print(f"{taken:9.2f} ms  {name}")


if __name__ == "__main__":
    main()
