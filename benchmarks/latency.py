"""How long one file waits beyond the settle time, at rest and behind others; how times grow with scans and replicas."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from bisect import bisect_left
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Self

from benchmarks.feeding import (
    SETTLE,
    cpu_of_all,
    daemon,
    feed,
    make_pictures,
    make_runs,
    make_small,
    moment,
    wait_for,
)
from benchmarks.figure import Figure, Target, number, quantile, slope
from benchmarks.running import small_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.running import Running

PAUSE = 0.02
"""Seconds between two files that are timed."""

WHERE = {
    "at rest": ("nothing else to do", Target(most=100)),
    "under a backlog": ("the jobs of a folder of {others:,} are queued already and worked off", Target(most=100)),
    "inside a burst": ("a folder of {third:,} came just before, and is still being taken in", None),
}
"""What is going on meanwhile, and what is asked for then."""

PLACES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


LOOK = 0.003
"""Seconds between two looks whether the history has something new."""


def latency(runs: int, files: int, others: int) -> list[Figure]:
    """Single files: into an idle daemon, just behind a folder of files, and while the jobs of one are worked off."""
    waits: dict[str, list[list[tuple[float, float]]]] = {where: [] for where in WHERE}
    waiting: dict[str, list[float]] = {"first": [], "last": []}
    with daemon() as running, Commits(running) as commits:
        dropping = Dropping(running, commits)
        dropping.singles("warm-up", 5)
        for turn in range(runs):
            dropping.wait()
            closed = {"at rest": dropping.singles(f"rest-{turn}", files)}
            dropping.wait()
            dropping.folder(others // 3)
            closed["inside a burst"] = dropping.singles(f"burst-{turn}", files // 3)
            dropping.wait()
            running.say("pause")
            dropping.folder(others)
            dropping.wait_until_queued()
            running.say("resume")
            waiting["first"].append(running.totals().get("job.queued", 0))
            closed["under a backlog"] = dropping.singles(f"backlog-{turn}", files)
            waiting["last"].append(running.totals().get("job.queued", 0))
            dropping.wait()
            for where, moments in closed.items():
                waits[where].append(dropping.waits(moments))
    result: list[Figure] = []
    for where, (going_on, target) in WHERE.items():
        each = f"small files in a run, one every {1000 * PAUSE:.0f} ms, less the settle time of {SETTLE} s; "
        each += "queued is when another program sees the job in the history, so that it is durable; "
        what = f"each of {len(waits[where][0])} {each}{going_on.format(others=others, third=others // 3)}"
        queued = [[early for early, _ in run] for run in waits[where]]
        delivered = [[late for _, late in run] for run in waits[where]]
        result += quantiles(f"closed to queued, {where}", queued, what, target)
        result += quantiles(f"closed to delivered, {where}", delivered, f"{what}; segmenter none", None)
    return result + [
        Figure(
            name=f"  backlog when the {which} file came",
            unit="jobs",
            values=values,
            definition=f"jobs that were queued when the {which} of the single files under a backlog came",
        )
        for which, values in waiting.items()
    ]


class Commits:
    """When jobs were there to be seen in the history, looked at from outside every few milliseconds."""

    def __init__(self, running: Running) -> None:
        self._path = running.database
        self._seen: list[tuple[int, float]] = []
        """The last job's number, and when it was seen first."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def when(self, job_id: int) -> float:
        """The moment, as of `time.time`."""
        return self._seen[bisect_left(self._seen, (job_id, 0.0))][1]

    def _look(self) -> None:
        version = None
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)) as connection:
            while not self._stopped.wait(LOOK):
                ((now,),) = connection.execute("PRAGMA data_version")
                if now != version:
                    version = now
                    ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM job")
                    self._seen.append((last, time.time()))


class Dropping:
    """What comes into the inbox, all of it different, and how long it waits."""

    def __init__(self, running: Running, commits: Commits) -> None:
        self._running = running
        self._commits = commits
        self._dropped = 0

    def folder(self, count: int) -> None:
        """A folder of files comes at once, and is noticed."""
        scans = make_small(self._running.folder / "outside" / f"{self._dropped}", count, first=self._dropped)
        self._dropped += count
        scans.rename(self._running.inbox / scans.name)
        time.sleep(2 * SETTLE)

    def wait_until_queued(self) -> None:
        """Everything that came has become a job."""
        self._running.wait(lambda: self._jobs() >= self._dropped, 60)

    def wait(self) -> None:
        """Everything that came is done."""
        wait_for(self._running, self._dropped)

    def singles(self, name: str, count: int) -> dict[str, float]:
        """One file after the other; when each was closed."""
        closed = {}
        for index in range(count):
            path = self._running.inbox / f"{name}-{index}.png"
            path.write_bytes(small_scan(self._dropped))
            closed[path.name] = time.time()
            self._dropped += 1
            time.sleep(PAUSE)
        return closed

    def waits(self, closed: Mapping[str, float]) -> list[tuple[float, float]]:
        """Milliseconds until queued and until delivered, once all is done."""
        rows = self._running.rows("SELECT id, source, finished_at FROM job WHERE source NOT LIKE '%/%'")
        times = [
            (closed[source], self._commits.when(job_id), moment(finished))
            for job_id, source, finished in rows
            if source in closed
        ]
        return [(1000 * (early - began - SETTLE), 1000 * (late - began - SETTLE)) for began, early, late in times]

    def _jobs(self) -> int:
        return sum(count for name, count in self._running.totals().items() if name.startswith("job."))


def quantiles(name: str, runs: Sequence[Sequence[float]], what: str, target: Target | None) -> list[Figure]:
    """p50, p99 and the longest, run by run; p99 is what the promise is about."""
    return [
        Figure(
            name=f"{name}, {label}",
            unit="ms",
            values=[quantile(run, place) for run in runs],
            definition=what,
            target=target if label == "p99" else None,
        )
        for label, place in PLACES.items()
    ]


# ------------------------------------------------------------------------------------------------------------- growth


def growth(
    runs: int, name: str, places: Sequence[int], make: Callable[[Path, int, int], object], against: str
) -> list[Figure]:
    """CPU and time of one scan by its size: ``make`` puts one scan of a size, with a number, into a folder."""
    cpu: dict[float, list[float]] = {place: [] for place in places}
    waits: dict[float, list[float]] = {place: [] for place in places}
    index = 0
    with daemon() as running:
        for turn in range(-1, runs):  # the first warms up
            for place in places:
                index += 1
                scans = running.folder / "outside" / f"scans-{index}"
                make(scans, place, index)
                before = cpu_of_all(running)
                seconds = feed(running, scans)
                if turn >= 0:
                    cpu[place].append(1000 * (cpu_of_all(running) - before))
                    waits[place].append(1000 * seconds)
    what = "one scan at a time, segmenter none, mask only; a straight line through each run's sizes"
    return [
        slope(
            f"{name}, CPU", f"ms a {against}", cpu, of="ms of CPU of all processes", against=against, definition=what
        ),
        slope(
            f"{name}, time",
            f"ms a {against}",
            waits,
            of="ms from coming to archived, not settling",
            against=against,
            definition=what,
        ),
    ]


def scan_sizes(runs: int, sides: Sequence[int]) -> list[Figure]:
    """By pixels: square JPEGs."""
    megapixels = {round(side * side / 1e6, 3): side for side in sides}

    def make(folder: Path, place: int, index: int) -> None:
        make_pictures(folder, 1, first=index, side=megapixels[place])

    return growth(runs, "growth with image size", list(megapixels), make, "megapixel")  # type: ignore[arg-type]


def run_lengths(runs: int, frames: Sequence[int]) -> list[Figure]:
    """By frames: TIFFs of 256 x 256."""

    def make(folder: Path, place: int, index: int) -> None:
        make_runs(folder, 1, frames=place, first=index)

    return growth(runs, "growth with frames", frames, make, "frame")


def replicas(runs: int, files: int, counts: Sequence[int], seconds: float = 0.05) -> list[Figure]:
    """Scans a second of a segmenter that only sleeps, by the number of its replicas."""
    rates: dict[float, list[float]] = {count: [] for count in counts}
    environment = {"WATCHERD_FAKE": json.dumps({"seconds": seconds})}
    with ExitStack() as stack:
        services: dict[int, Any] = {
            count: stack.enter_context(
                daemon(environment=environment, model={"segmenter": "fake", "batch": 1}, devices={"replicas": count})
            )
            for count in counts
        }
        for turn in range(-1, runs):  # the first warms up
            for count, running in services.items():
                scans = running.folder / "outside" / f"scans-{turn}"
                taken = feed(running, make_small(scans, files, first=(turn + 1) * files))
                if turn >= 0:
                    rates[count].append(files / taken)
    least = min(counts)
    what = f"{files} small scans, the shipped fake segmenter sleeping {1000 * seconds:.0f} ms for each, taking turns"
    result = [
        Figure(
            name=f"{count} replicas of a sleeping model: share of the limit",
            unit="ratio",
            values=[rate * seconds / count for rate in rates[count]],
            definition=f"scans a second over {number(count / seconds)}, the limit; {what}",
        )
        for count in counts
    ]
    result += [
        Figure(
            name=f"  {count} replicas over {least}",
            unit="ratio",
            values=[many / one for many, one in zip(rates[count], rates[least], strict=True)],
            definition=f"scans a second of the one over that of the other, round by round; {what}",
        )
        for count in counts
        if count != least
    ]
    if len(counts) > 1:
        what = f"a straight line through each round; {what}"
        result.append(
            slope("  growth with replicas", "1/s each", rates, of="scans a second", against="replicas", definition=what)
        )
    return result
