"""What `python -m benchmarks` measures: each function gives figures, from outside, of a real daemon."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks import long_history, store_scale
from benchmarks.running import Running, cpu_seconds, small_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SETTLE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One line of the table. ``values``: one for each run. ``target``: what DESIGN asks for, as words.

    ``holds``: of the median; None where nothing is asked for.
    """

    name: str
    unit: str
    values: Sequence[float]
    definition: str
    target: str = ""
    holds: Callable[[float], bool] | None = None

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the target is reached."""
        return "" if self.holds is None else "ok" if self.holds(self.median) else "MISSED"


def at_most(limit: float) -> Callable[[float], bool]:
    """A target that is an upper limit."""
    return lambda value: value <= limit


def at_least(limit: float) -> Callable[[float], bool]:
    """A target that is a lower limit."""
    return lambda value: value >= limit


@contextmanager
def daemon(**sections: dict[str, Any]) -> Iterator[Running]:
    """A daemon that is ready, in a folder of its own; nothing is left of either."""
    values: dict[str, dict[str, Any]] = {
        "inbox": {"settle_seconds": SETTLE},
        "outbox": {"outputs": ["mask"]},
        "model": {"segmenter": "none"},
        "log": {"level": "warning"},
    }
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    running = Running(folder, **{name: {**values.get(name, {}), **sections.get(name, {})} for name in values})
    try:
        running.start()
        running.ready()
        yield running
        running.stop()
    finally:
        running.end()
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------- the daemon


def start_to_ready(runs: int) -> list[Figure]:
    """How long it takes until the inbox is open."""
    seconds = []
    for _ in range(runs):
        began = time.monotonic()
        with daemon() as running:
            took = time.monotonic() - began
            ((load_ms,),) = running.rows("SELECT load_ms FROM replica")
            seconds.append(took - load_ms / 1000)
    return [
        Figure(
            name="start to ready, less the model's load",
            unit="s",
            values=seconds,
            definition="from the start of the process to phase running, segmenter none, on an empty state folder",
            target="at most 2",
            holds=at_most(2),
        )
    ]


def idle(runs: int, seconds: float = 10.0) -> list[Figure]:
    """What a daemon that has nothing to do takes."""
    with daemon() as running:
        time.sleep(3)
        pids = [running.pid, *_descendants(running.pid)]
        shares = []
        for _ in range(runs):
            before = sum(map(cpu_seconds, pids))
            time.sleep(seconds)
            shares.append(100 * (sum(map(cpu_seconds, pids)) - before) / seconds)
    return [
        Figure(
            name="idle CPU, all processes",
            unit="% of a core",
            values=shares,
            definition=f"CPU time of the main process, the replica and the imaging workers in {seconds:.0f} s",
            target="at most 0.5",
            holds=at_most(0.5),
        )
    ]


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def cost_of_a_job(runs: int, files: int) -> list[Figure]:
    """CPU of the main process and of the workers for one small scan, and memory afterwards."""
    own, others, rates, memory, straight = [], [], [], [], []
    for _ in range(runs):
        with daemon() as running:
            outside = running.folder / "outside"
            make_small(outside / "scans", files)
            pids = _descendants(running.pid)
            before, before_others = running.usage().cpu_seconds, sum(map(cpu_seconds, pids))
            began = time.monotonic()
            (outside / "scans").rename(running.inbox / "scans")
            wait_for(running, files)
            rates.append(files / (time.monotonic() - began - SETTLE))
            usage = running.usage()
            own.append(1000 * (usage.cpu_seconds - before) / files)
            others.append(1000 * (sum(map(cpu_seconds, pids)) - before_others) / files)
            memory.append(usage.rss_mib)
            straight.append(1000 * run_straight("none", running.archive / "scans")["cpu_seconds"] / files)
    return [
        Figure(
            name="daemon's own CPU for a job",
            unit="ms",
            values=own,
            definition=f"CPU of the main process from a folder of {files} small scans coming to all being archived",
            target="at most 3",
            holds=at_most(3),
        ),
        Figure(
            name="  workers and replica",
            unit="ms",
            values=others,
            definition="CPU of the imaging workers and the replica for the same job: codecs, hashes, ways between",
        ),
        Figure(
            name="  baseline: straight script",
            unit="ms",
            values=straight,
            definition="CPU for opening the same files, an empty mask and saving it, with no queue and no record",
        ),
        Figure(
            name="jobs a second, segmenter none",
            unit="1/s",
            values=rates,
            definition="the same scans over the time from their coming to all being archived, settling not counted",
        ),
        Figure(
            name="memory of the main process afterwards",
            unit="MiB RSS",
            values=memory,
            definition=f"after these {files} jobs; the soak watches it over 100,000",
            target="under 200",
            holds=at_most(200),
        ),
    ]


def queueing(runs: int, files: int) -> list[Figure]:
    """How fast a folder full of small files is made durable and queued."""
    rates = []
    for _ in range(runs):
        with daemon() as running:
            subprocess.run(
                [sys.executable, "-m", "watcherd", "pause", "--config", running.config], check=True, capture_output=True
            )
            outside = running.folder / "outside"
            make_small(outside / "scans", files)
            began = time.monotonic()
            (outside / "scans").rename(running.inbox / "scans")
            running.wait(lambda: running.totals().get("job.queued", 0) >= files, 300)
            rates.append(files / (time.monotonic() - began - SETTLE))
    return [
        Figure(
            name=f"files queued a second, {files} at once",
            unit="1/s",
            values=rates,
            definition="from the folder's coming to the last commit, copied, hashed and synced, settling not counted",
            target="at least 2,000",
            holds=at_least(2000),
        )
    ]


def latency(runs: int, files: int) -> list[Figure]:
    """How long a single file waits beyond the settle time."""
    queued: dict[float, list[float]] = {0.5: [], 0.99: []}
    visible: dict[float, list[float]] = {0.5: [], 0.99: []}
    for _ in range(runs):
        with daemon() as running:
            closed = {}
            for number in range(files):
                name = f"scan-{number}.png"
                (running.inbox / name).write_bytes(small_scan(number))
                closed[name] = time.time()
                time.sleep(0.03)
            wait_for(running, files)
            rows = running.rows("SELECT source, created_at, finished_at FROM job")
        for place in (0.5, 0.99):
            early = [1000 * (_moment(row[1]) - closed[row[0]] - SETTLE) for row in rows]
            queued[place].append(_quantile(early, place))
            late = [1000 * (_moment(row[2]) - closed[row[0]] - SETTLE) for row in rows]
            visible[place].append(_quantile(late, place))
    what = f"for each of {files} files, one every 30 ms, less the settle time of {SETTLE} s"
    return [
        Figure(name="closed to queued, p50", unit="ms", values=queued[0.5], definition=what),
        Figure(
            name="closed to queued, p99",
            unit="ms",
            values=queued[0.99],
            definition=what,
            target="at most 100",
            holds=at_most(100),
        ),
        Figure(name="closed to result, p50", unit="ms", values=visible[0.5], definition=what + ", segmenter none"),
        Figure(name="closed to result, p99", unit="ms", values=visible[0.99], definition=what + ", segmenter none"),
    ]


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _quantile(values: Sequence[float], place: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(place * len(values)) - 1)]


# --------------------------------------------------------------------------------------------------------- the store


def history(jobs: int) -> list[Figure]:
    """What a long history costs."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        long_history.make(folder / "history.db", jobs, now=store_scale.NOW)
        taken = store_scale.measure(folder / "history.db", jobs)
    finally:
        shutil.rmtree(folder)
    what = f"with {jobs:,} jobs in history, median of 5 in one run"
    return [
        Figure(
            name=f"{name}, {jobs:,} jobs in history",
            unit="ms",
            values=[taken[name]],
            definition=what + (", over a fresh connection" if name == "status" else ", durable"),
            target="under 20",
            holds=at_most(20),
        )
        for name in ("status", "claim 1", "claim 16")
    ]


# --------------------------------------------------------------------------------------------------------- the model


def end_to_end(segmenter: str, runs: int, files: int) -> list[Figure]:
    """Scans a second of the daemon and of the straight script, over the same files, taking turns."""
    ours, theirs = [], []
    with daemon(model={"segmenter": segmenter}) as running:
        for turn in range(runs):
            scans = running.folder / "outside" / f"scans-{turn}"
            make_pictures(scans, files, first=turn * files)
            theirs.append(files / run_straight(segmenter, scans)["seconds"])
            began = time.monotonic()
            scans.rename(running.inbox / scans.name)
            wait_for(running, files * (turn + 1))
            ours.append(files / (time.monotonic() - began - SETTLE))
    return [
        Figure(
            name=f"{segmenter}: daemon over straight script",
            unit="ratio",
            values=[mine / other for mine, other in zip(ours, theirs, strict=True)],
            definition="of the two lines below, run by run",
            target="at least 0.95",
            holds=at_least(0.95),
        ),
        Figure(
            name="  daemon",
            unit="scans/s",
            values=ours,
            definition=f"{files} grey JPEGs of 512 x 512, from coming to all being archived, settling not counted",
        ),
        Figure(
            name="  straight script",
            unit="scans/s",
            values=theirs,
            definition="open, predict, save over the same files, the daemon being idle; loading not counted",
        ),
    ]


def run_straight(segmenter: str, scans: Path) -> dict[str, float]:
    """The baseline over a folder of scans."""
    with tempfile.TemporaryDirectory() as out:
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.straight", segmenter, scans, out]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return result


# -------------------------------------------------------------------------------------------------------------- scans


def make_small(folder: Path, count: int) -> None:
    """Scans of 24 x 16 pixels."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"scan-{number:06d}.png").write_bytes(small_scan(number))


def make_pictures(folder: Path, count: int, first: int) -> None:
    """Grey JPEGs of 512 x 512: the demo's angiograms, each shifted by its own way."""
    folder.mkdir(parents=True)
    demo = Path(__file__).parents[1] / "watcherd" / "demo"
    pictures = [
        np.asarray(Image.open(path).convert("L").resize((512, 512))) for path in sorted(demo.glob("angiogram-*.jpg"))
    ]
    for number in range(first, first + count):
        pixels = np.roll(pictures[number % len(pictures)], number, axis=(0, 1))
        Image.fromarray(pixels).save(folder / f"frame_{number:06d}.jpg", quality=90)


def wait_for(running: Running, files: int) -> None:
    """Until so many scans in all are delivered, recorded and archived."""
    running.wait(lambda: running.totals().get("job.succeeded", 0) >= files and running.at_rest(), 300, every=0.05)
