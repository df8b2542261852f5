"""A daemon that is ready, scans to feed it with, and what the kernel says of it and its children."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.running import Running, cpu_seconds, small_scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SETTLE = 0.2
"""Seconds until a file counts as complete; never part of a figure."""


def sections_of(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A configuration in which masks are the only output and nobody measures them, so that the daemon does the work of
    the straight script; ``sections`` say otherwise."""
    values: dict[str, dict[str, Any]] = {
        "inbox": {"settle_seconds": SETTLE},
        "outbox": {"outputs": ["mask"], "measures": False},
        "model": {"segmenter": "none"},
        "log": {"level": "warning"},
        "devices": {},
    }
    return {name: {**values.get(name, {}), **sections.get(name, {})} for name in values | sections}


@contextmanager
def daemon(
    *,
    module: Sequence[str] = ("watcherd",),
    environment: Mapping[str, str] | None = None,
    tree: Path | None = None,
    **sections: dict[str, Any],
) -> Iterator[Running]:
    """A daemon that is ready, in a folder of its own; nothing is left of either.

    ``sections``: of its configuration, see `sections_of`.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    running = Running(folder, **sections_of(**sections))
    try:
        running.start(module=module, environment=environment, tree=tree)
        running.ready()
        yield running
        if running.lives:
            running.stop()
    finally:
        running.end()
        shutil.rmtree(folder, ignore_errors=True)


def feed(running: Running, scans: Path) -> float:
    """Move a folder of scans into the inbox and wait until all are archived; seconds, settling not counted.

    The end is what the history says of the last scan, so that how often we look does not count.
    """
    files = sum(1 for _ in scans.iterdir())
    done = running.totals().get("job.succeeded", 0)
    began = time.time()
    scans.rename(running.inbox / scans.name)
    wait_for(running, done + files)
    ((last,),) = running.rows("SELECT max(disposed_at) FROM arrival")
    return moment(last) - began - SETTLE


def queue(running: Running, scans: Path) -> tuple[int, int]:
    """Pause the work, move a folder of scans into the inbox, and wait until all of them are queued.

    Gives the last job's id before them, and how many jobs will have succeeded with them; ``resume`` begins the work.
    """
    running.say("pause")
    ((before,),) = running.rows("SELECT coalesce(max(id), 0) FROM job")
    count = sum(1 for _ in scans.iterdir())
    scans.rename(running.inbox / scans.name)
    running.wait(lambda: running.totals().get("job.queued", 0) >= count, 120)
    return before, running.totals().get("job.succeeded", 0) + count


def rate(running: Running, before: int) -> float:
    """Scans a second of the jobs after this one, from the first claim to the last record."""
    ((count, first, last),) = running.rows(
        "SELECT count(*), min(started_at), max(finished_at) FROM jobs WHERE id > ?", before
    )
    return float(count / (moment(last) - moment(first)))


def wait_for(running: Running, files: int) -> None:
    """Until so many scans in all are delivered, recorded and archived."""
    running.wait(lambda: running.totals().get("job.succeeded", 0) >= files and running.at_rest(), 600, every=0.05)


def moment(text: str) -> float:
    """A time of the history in seconds."""
    return datetime.fromisoformat(text).timestamp()


# -------------------------------------------------------------------------------------------------------------- scans


def make_small(folder: Path, count: int, *, first: int = 0) -> Path:
    """Scans of 24 x 16 pixels, all different."""
    folder.mkdir(parents=True)
    for index in range(first, first + count):
        (folder / f"scan-{index:07d}.png").write_bytes(small_scan(index))
    return folder


def make_pictures(folder: Path, count: int, *, first: int = 0, side: int = 512, processes: int = 1) -> Path:
    """Grey square JPEGs: the demo's angiograms, each shifted by its own way."""
    folder.mkdir(parents=True)
    if processes == 1:
        draw_pictures(folder, side, range(first, first + count))
        return folder
    parts = [range(first + part, first + count, processes) for part in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as drawing:
        list(drawing.map(partial(draw_pictures, folder, side), parts))
    return folder


def draw_pictures(folder: Path, side: int, numbers: Iterable[int]) -> None:
    """Those with these numbers."""
    demo = Path(__file__).parents[1] / "watcherd" / "demo"
    paths = sorted(demo.glob("angiogram-*.jpg"))
    pictures = [np.asarray(Image.open(path).convert("L").resize((side, side))) for path in paths]
    for number in numbers:
        pixels = np.roll(pictures[number % len(pictures)], (number, number // side), axis=(0, 1))
        Image.fromarray(pixels).save(folder / f"frame_{number:06d}.jpg", quality=90)


def make_runs(folder: Path, count: int, *, frames: int, first: int = 0) -> Path:
    """Multi-page TIFFs of noise, 256 x 256."""
    folder.mkdir(parents=True)
    for index in range(first, first + count):
        noise = np.random.default_rng(index).integers(0, 256, (frames, 256, 256), np.uint8)
        pages = [Image.fromarray(page) for page in noise]
        pages[0].save(folder / f"run-{index:06d}.tif", save_all=True, append_images=pages[1:])
    return folder


# ---------------------------------------------------------------------------------------------------------- processes


def everyone(running: Running) -> list[int]:
    """The main process, the replicas and the imaging workers."""
    return [running.pid, *descendants(running.pid)]


def descendants(pid: int) -> list[int]:
    """Children and their children."""
    found = []
    with suppress(OSError):  # a thread, or the process, has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def cpu_of_children(pid: int) -> float:
    """CPU seconds of the processes below ``pid``, those that have ended and were waited for included.

    An imaging worker is replaced after some thousand scans: the CPU of the old one is then the parent's to tell.
    """
    while True:
        living, ended = descendants(pid), cpu_of_ended(pid)
        with suppress(OSError):  # one has just ended: look again
            total = ended + sum(cpu_seconds(child) for child in living)
            if cpu_of_ended(pid) == ended:
                return total


def cpu_of_ended(pid: int) -> float:
    """CPU seconds of the children that ``pid`` has waited for (proc(5): ``cutime``, ``cstime``)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def cpu_of_all(running: Running) -> float:
    """CPU seconds of the main process and of everything that it has ever started."""
    return cpu_seconds(running.pid) + cpu_of_children(running.pid)


def switches(pid: int) -> int:
    """How often threads of the process gave up the CPU by themselves: each is woken again once."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            text = (task / "status").read_text()
            total += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total
