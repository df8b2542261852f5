"""How the store does with a million jobs in history: size, and the time of everything that is asked often.

    python -m benchmarks.store_scale [--jobs 1000000] [--folder DIR] [--json]

The history is made by SQL alone, in a few minutes; the questions are those of the command line and of the daemon
(`python -m benchmarks.questions` asks those of the README). Each is asked five times over a fresh connection, as a
command line would; the median counts.
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

from benchmarks.long_history import IN_USE, MODEL, OPTIONS, make
from watcherd.job import State
from watcherd.store import (
    Database,
    Filter,
    NewArrival,
    PathSignature,
    arrivals,
    deliveries,
    history,
    queue,
    reader,
    runs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


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
    name = f"scan-{jobs // 2}.jpg"
    since = (NOW - timedelta(days=1)).strftime("%Y-%m-%dT%H")
    return {
        "status": status,
        "jobs (newest 50)": history.jobs,
        "jobs --state failed": lambda c: history.jobs(c, Filter(states=[State.FAILED])),
        "jobs --sort inference_ms --since 1 day": lambda c: history.jobs(
            c, Filter(sort="inference_ms", since=NOW - timedelta(days=1))
        ),
        "jobs --name (a part of it)": lambda c: history.jobs(c, Filter(name=name[1:])),
        "jobs --sha256": lambda c: history.jobs(c, Filter(sha256=f"{jobs // 2:064x}")),
        "show": lambda c: (history.job(c, jobs // 2), history.events(c, jobs // 2), history.attempts(c, jobs // 2)),
        "how many in a day": select(f"SELECT count(*) FROM job WHERE finished_at >= '{since}'"),
        "what failed and why": select(
            f"SELECT error_class, count(*) FROM failures WHERE finished_at >= '{since}' GROUP BY 1"
        ),
        "the last failures": select("SELECT * FROM failures LIMIT 20"),
        "slowest stage": select("SELECT sum(decode_ms), sum(inference_ms), sum(render_ms) FROM hour"),
        "largest VRAM": select("SELECT * FROM vram ORDER BY vram_peak_allocated_mib DESC LIMIT 10"),
        "busiest card": select("SELECT device, sum(busy_ms) FROM cards GROUP BY device ORDER BY 2 DESC"),
        "duplicates": select("SELECT * FROM duplicates LIMIT 20"),
        "the queue": select("SELECT * FROM queue LIMIT 20"),
        "rate per hour": select("SELECT * FROM throughput ORDER BY hour DESC LIMIT 24"),
        "what came out of scan X": select(f"SELECT * FROM results WHERE name = '{name}'"),
    }


def timed(work: Callable[[], Any], times: int = 5) -> float:
    """The median in milliseconds."""
    return statistics.median(each(work, times))


def each(work: Callable[[], Any], times: int = 5) -> list[float]:
    """Every time in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def rounds(path: Path, jobs: int) -> dict[str, list[float]]:
    """Milliseconds, each time, of what `benchmarks.own_cost` asks: ``status``, ``claim 1``, ``claim 16``."""

    def ask() -> None:
        with reader(path) as connection:
            status(connection)

    result = {"status": each(ask)}
    with Database.open(path) as database:
        run_id = database.write(lambda c: runs.start_run(c, pid=1, host="h", boot_id=None, version="0", now=NOW))
        claims = writes(run_id, jobs)
        for name in ("claim 1", "claim 16"):
            result[name] = each(lambda name=name: database.write(claims[name]))  # type: ignore[misc]
    return result


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
        "claim 1": lambda c: queue.claim(c, run_id=run_id, limit=1, now=NOW, in_use=IN_USE),
        "claim 16": lambda c: queue.claim(c, run_id=run_id, limit=16, now=NOW, in_use=IN_USE),
        "enqueue 256": enqueue,
        "known 1000": lambda c: arrivals.known(c, taken),
        "to deliver and to dispose": lambda c: (
            deliveries.arrivals_to_deliver(c, 64),
            deliveries.arrivals_to_dispose(c, 64),
        ),
    }


def scan(number: int) -> NewArrival:
    return NewArrival(
        signature=PathSignature(f"new/{number}.jpg".encode(), 40000, number, 1, number),
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
            make(path, wanted.jobs, now=NOW)
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
