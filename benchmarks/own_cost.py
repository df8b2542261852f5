"""What the daemon costs besides its model: start, rest, CPU and system calls for a job, memory, a long history."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import long_history, sampled, store_scale
from benchmarks.end_to_end import straight
from benchmarks.feeding import (
    SETTLE,
    cpu_of_all,
    cpu_of_children,
    daemon,
    descendants,
    everyone,
    feed,
    make_small,
    switches,
)
from benchmarks.figure import Figure, Target, slope

if TYPE_CHECKING:
    from collections.abc import Sequence

WAITING = 1000
"""Jobs that wait beside a long history, so that there is something to claim."""


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
            target=Target(most=2),
        )
    ]


def idle(runs: int, seconds: float) -> list[Figure]:
    """What a daemon that has nothing to do takes."""
    shares, wakes = [], []
    with daemon() as running:
        time.sleep(3)
        pids = everyone(running)
        for _ in range(runs):
            before, slept = cpu_of_all(running), sum(map(switches, pids))
            time.sleep(seconds)
            shares.append(100 * (cpu_of_all(running) - before) / seconds)
            wakes.append((sum(map(switches, pids)) - slept) / seconds)
    what = f"the main process, the replica and {len(pids) - 2} more, in {seconds:.0f} s at rest"
    return [
        Figure(
            name="idle CPU, all processes",
            unit="% of a core",
            values=shares,
            definition=f"CPU time of {what}",
            target=Target(most=0.5),
        ),
        Figure(
            name="wake-ups a second, all processes",
            unit="1/s",
            values=wakes,
            definition=f"voluntary context switches of every thread of {what}",
        ),
    ]


def cost_of_a_job(rounds: int, files: int) -> list[Figure]:
    """CPU and memory of one daemon over ``rounds`` times ``files`` jobs, the straight script between them."""
    own, others, rates, script = [], [], [], []
    memory: dict[float, float] = {}
    with daemon() as running, straight("none", None) as theirs:
        for turn in range(rounds):
            scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=turn * files)
            script.append(1000 * theirs.turn(scans).cpu_seconds)
            before, before_others = running.usage().cpu_seconds, cpu_of_children(running.pid)
            rates.append(files / feed(running, scans))
            usage = running.usage()
            own.append(1000 * (usage.cpu_seconds - before) / files)
            others.append(1000 * (cpu_of_children(running.pid) - before_others) / files)
            memory[(turn + 1) * files] = usage.rss_mib
    first, last = min(memory), max(memory)
    what = f"a folder of {files:,} small scans (24 x 16) coming at once, to the last being archived, segmenter none"
    return [
        Figure(
            name="daemon's own CPU for a job",
            unit="ms",
            values=own,
            definition=f"CPU of the main process over {what}",
            target=Target(most=3),
        ),
        Figure(
            name="  workers and replica",
            unit="ms",
            values=others,
            definition="CPU of the imaging workers and the replica for the same job: codecs, and the ways between",
        ),
        Figure(
            name="  baseline: straight script",
            unit="ms",
            values=script,
            definition="CPU of opening the same files, an empty mask and saving it, with no queue and no record",
        ),
        Figure(name="jobs a second, segmenter none", unit="1/s", values=rates, definition=what + "; not settling"),
        *(
            Figure(
                name=f"main process after {jobs:,} jobs",
                unit="MiB RSS",
                values=[memory[jobs]],
                definition="resident memory, read once at rest, of the same daemon",
                target=Target(most=200),
            )
            for jobs in (first, last)
        ),
        slope(
            "main process, growth with jobs done",
            "MiB a job",
            {jobs: [value] for jobs, value in memory.items()},
            of="RSS in MiB",
            against="jobs done",
            definition="a straight line through the memory after each round",
        ),
        slope(
            "daemon's own CPU, growth with history",
            "ms a job",
            {index * files: [value] for index, value in enumerate(own)},
            of="ms of CPU for a job",
            against="jobs in history",
            definition="a straight line through the rounds",
        ),
    ]


# --------------------------------------------------------------------------------------------------- where it goes


def stages(runs: int, files: int) -> list[Figure]:
    """CPU of the main process by the package of watcherd that spends it."""
    by_stage: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "stages.json"
        with daemon(module=("benchmarks.sampled", str(report))) as running:
            feed(running, make_small(running.folder / "outside" / "warm-up", 50))
            for turn in range(runs):
                scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=50 + turn * files)
                sampled.read(running, report)  # what has been spent until now is not asked for
                feed(running, scans)
                for stage, seconds in sampled.read(running, report).items():
                    by_stage.setdefault(stage, [0.0] * runs)[turn] = 1000 * seconds / files
    what = "CPU of each thread of the main process, put down to the innermost function of watcherd it is seen in"
    return [
        Figure(
            name=f"  main process, in {stage}",
            unit="ms",
            values=values,
            definition=f"{what}, {1000 * sampled.EVERY:.0f} ms apart; {files:,} small scans at once, segmenter none",
        )
        for stage, values in sorted(by_stage.items(), key=lambda item: -sum(item[1]))
    ]


def system_calls(files: int) -> list[Figure]:
    """What the kernel is asked for, counted by strace over one folder of scans."""
    what = f"counted once by strace -c -f over {files} small scans at once, segmenter none"
    if shutil.which("strace") is None:
        missing = "not measured: strace is not installed"
        return [Figure(name="system calls for a job, main process", unit="", values=[], definition=missing)]
    with daemon() as running:
        scans = make_small(running.folder / "outside" / "scans", files)
        reports = {name: running.folder / name for name in ("main", "others")}
        pids = {"main": [running.pid], "others": descendants(running.pid)}
        tracers = [trace(pids[name], report) for name, report in reports.items()]
        time.sleep(2)
        feed(running, scans)
        for tracer in tracers:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
        counted = {name: calls(report.read_text()) for name, report in reports.items()}
    if not counted["main"]:
        refused = "not measured: strace may not look at other processes here"
        return [Figure(name="system calls for a job, main process", unit="", values=[], definition=refused)]
    syncs = ("fsync", "fdatasync", "syncfs", "sync_file_range")
    most = sorted(counted["main"].items(), key=lambda item: -item[1])[:8]
    often = ", ".join(f"{name} {count / files:.2f}" for name, count in most)
    return [
        Figure(
            name="system calls for a job, main process",
            unit="",
            values=[sum(counted["main"].values()) / files],
            definition=f"{what}; most often {often}",
        ),
        Figure(
            name="  workers and replica",
            unit="",
            values=[sum(counted["others"].values()) / files],
            definition=what,
        ),
        Figure(
            name="  of these syncs to disk, all processes",
            unit="",
            values=[sum(each.get(name, 0) for each in counted.values() for name in syncs) / files],
            definition=f"{', '.join(syncs)}; one sync serves many jobs; {what}",
        ),
    ]


def trace(pids: Sequence[int], report: Path) -> subprocess.Popen[bytes]:
    """strace, counting the calls of these processes and their threads until it is interrupted."""
    which = [argument for pid in pids for argument in ("-p", str(pid))]
    return subprocess.Popen(["strace", "-c", "-f", "-q", "-o", report, *which], stderr=subprocess.DEVNULL)


def calls(report: str) -> dict[str, int]:
    """How often each system call was made, from the table of ``strace -c``."""
    rows = (line.split() for line in report.splitlines())
    return {row[-1]: int(row[3]) for row in rows if len(row) in {5, 6} and row[3].isdigit() and row[-1] != "total"}


# ----------------------------------------------------------------------------------------------------------- intake


def queueing(rounds: int, files: int) -> list[Figure]:
    """How fast a folder full of small files is made durable and queued, on a growing backlog."""
    rates: dict[float, list[float]] = {}
    costs: dict[float, list[float]] = {}
    with daemon() as running:
        running.say("pause")
        for turn in range(rounds):
            scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=turn * files)
            due, cpu = (turn + 1) * files, running.usage().cpu_seconds
            began = time.monotonic()
            scans.rename(running.inbox / scans.name)
            running.wait(lambda due=due: running.totals().get("job.queued", 0) >= due, 300)  # type: ignore[misc]
            rates[turn * files] = [files / (time.monotonic() - began - SETTLE)]
            costs[turn * files] = [1000 * (running.usage().cpu_seconds - cpu) / files]
        running.end()  # rather than wait for so many jobs
    what = f"from the coming of a folder of {files:,} to the last commit, copied, hashed and synced; not settling"
    result = [
        Figure(
            name=f"files queued a second, {files:,} at once",
            unit="1/s",
            values=[value for (value,) in rates.values()],
            definition=f"{what}; {rounds} folders one after the other, nothing being claimed",
            target=Target(least=2000),
        ),
        Figure(
            name="  CPU for each",
            unit="ms",
            values=[value for (value,) in costs.values()],
            definition="CPU of the main process for the same",
        ),
    ]
    if rounds > 1:
        result.append(
            slope(
                "  CPU for each, growth with the backlog",
                "ms a job",
                costs,
                of="ms of CPU to queue a file",
                against="jobs waiting",
                definition="a straight line through the folders",
            )
        )
    return result


# ---------------------------------------------------------------------------------------------------------- history


def history(sizes: Sequence[int]) -> list[Figure]:
    """What a long history costs."""
    result, taken = [], {}
    for jobs in sizes:
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            long_history.make(folder / "history.db", jobs + WAITING, now=store_scale.NOW, waiting=WAITING)
            taken[jobs] = store_scale.rounds(folder / "history.db", jobs + WAITING)
        finally:
            shutil.rmtree(folder)
        what = f"with {jobs:,} jobs that have ended and {WAITING:,} that wait"
        result += [
            Figure(
                name=f"{name}, {jobs:,} jobs in history",
                unit="ms",
                values=taken[jobs][name],
                definition=what + (", over a fresh connection" if name == "status" else ", durable"),
                target=Target(most=20),
            )
            for name in ("status", "claim 1", "claim 16")
        ]
    if len(sizes) > 1:
        result += [
            slope(
                f"{name}, growth with history",
                "ms a job",
                {jobs: values[name] for jobs, values in taken.items()},
                of=f"ms for {name}",
                against="jobs in history",
                definition="a straight line through the sizes",
            )
            for name in ("status", "claim 16")
        ]
    return result
