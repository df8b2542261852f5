"""What this build costs and gives, over another one: both in turns, in one call.

    python -m benchmarks.against REVISION|FOLDER [--only CHAPTER ...] [--device cuda|cpu] [--rounds N] [--files N]

Chapters: ``job`` (CPU of the main process for a scan), ``sleep`` (4 replicas that only sleep), ``plan``, ``start``
(first start of a model, back after a kill, a held replica noticed), ``feed`` (SegFormer-B5 on one card and on all). A
line is printed as soon as it is known: median (smallest to largest) of both builds, and of their ratios round by round.
Where there is no repository give a folder that holds the other build.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.end_to_end import TINY
from benchmarks.feeding import daemon, feed, make_pictures, make_small, queue, rate, wait_for
from benchmarks.gpu_semantic import B5, loaded, save_model
from benchmarks.gpu_service import model_rate
from benchmarks.running import of_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.running import Running

HERE = Path(__file__).parents[1]
HELD_SECONDS = 30.0
"""``devices.batch_seconds`` where a replica is held: what the other build may take to notice it."""


class Table:
    """The lines, printed as they come."""

    def __init__(self) -> None:
        print("| what | other build | this build | ratio |\n|---|---|---|---|", flush=True)

    def add(self, what: str, old: Sequence[float], new: Sequence[float]) -> None:
        """A line of as many rounds; of different counts the ratio is that of the medians."""
        ratios = [b / a for a, b in zip(old, new, strict=True)] if len(old) == len(new) else []
        ratio = spread(ratios) if ratios else f"{statistics.median(new) / statistics.median(old):.2f}"
        print(f"| {what} | {spread(old)} | {spread(new)} | {ratio} |", flush=True)


def spread(values: Sequence[float]) -> str:
    """Median, smallest and largest."""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def other_build(against: str, folder: Path) -> Path:
    """The folder of the other build; of a revision, unpacked."""
    if Path(against).is_dir():
        return Path(against).resolve()
    archive = subprocess.run(["git", "archive", against], cwd=HERE, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def both(old: Path, stack: ExitStack, **sections: Any) -> dict[str, Running]:
    """A daemon of each build, ready."""
    trees = {"old": old, "new": HERE}
    return {name: stack.enter_context(daemon(tree=tree, **sections)) for name, tree in trees.items()}


def in_turns(
    builds: Mapping[str, Running], rounds: int, measure: Callable[[Running, int], float]
) -> dict[str, list[float]]:
    """What is measured of each, round by round; who is first changes."""
    found: dict[str, list[float]] = {name: [] for name in builds}
    for turn in range(rounds):
        for name in sorted(builds, reverse=bool(turn % 2)):
            found[name].append(measure(builds[name], turn))
    return found


def job(old: Path, table: Table, rounds: int, files: int) -> None:
    """CPU of the main process for a scan, segmenter none."""
    with ExitStack() as stack:
        builds = both(old, stack)

        def cost(running: Running, turn: int) -> float:
            scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=turn * files)
            before = running.usage().cpu_seconds
            feed(running, scans)
            return 1000 * (running.usage().cpu_seconds - before) / files

        in_turns(builds, 1, lambda running, _: cost(running, -1))
        found = in_turns(builds, rounds, cost)
    table.add("main process, CPU a job, segmenter none, ms", found["old"], found["new"])


def sleep(old: Path, table: Table, rounds: int, files: int, seconds: float = 0.05, replicas: int = 4) -> None:
    """Share of the limit of replicas that only sleep."""
    environment = {"WATCHERD_FAKE": json.dumps({"seconds": seconds})}
    sections = {"model": {"segmenter": "fake", "batch": 1}, "devices": {"replicas": replicas}}
    with ExitStack() as stack:
        builds = both(old, stack, environment=environment, **sections)

        def share(running: Running, turn: int) -> float:
            scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=turn * files)
            return files / feed(running, scans) * seconds / replicas

        in_turns(builds, 1, lambda running, _: share(running, -1))
        found = in_turns(builds, rounds, share)
    table.add(f"{replicas} sleeping replicas, share of the limit, {files} scans", found["old"], found["new"])


def plan(old: Path, table: Table, rounds: int, model: Path) -> None:
    """CPU of the command that plans."""
    words = [sys.executable, "-m", "watcherd", "plan", "--model", str(model), "--gpus", "2x24GiB"]
    found: dict[Path, list[float]] = {old: [], HERE: []}
    for turn in range(-1, rounds):
        for tree, seconds in found.items():
            before = children()
            subprocess.run(words, check=True, capture_output=True, cwd=tree, env={**os.environ, **of_tree(tree)})
            if turn >= 0:
                seconds.append(children() - before)
    table.add("watcherd plan, s of CPU", found[old], found[HERE])


def children() -> float:
    """Seconds of CPU of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(old: Path, table: Table, rounds: int, section: dict[str, Any], scans: int) -> None:
    """First start, back after a kill, a held replica noticed."""
    lines: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        for name, tree in (("old", old), ("new", HERE)):
            for what, seconds in life(tree, section, scans, turn).items():
                lines.setdefault(what, {"old": [], "new": []})[name].append(seconds)
                print(f"  {name}: {what} {seconds:.1f}", flush=True)
    for what, found in lines.items():
        table.add(what, found["old"], found["new"])


def life(tree: Path, section: dict[str, Any], scans: int, turn: int) -> dict[str, float]:
    """Of one daemon with an empty state folder, in seconds."""
    found = {}
    began = time.monotonic()
    with daemon(tree=tree, model=section, devices={"batch_seconds": HELD_SECONDS}) as running:
        found["first start"] = time.monotonic() - began
        found["  batch"] = float(running.live()["replicas"][0].get("batch_size") or 0)
        found["back after a kill"] = after(running, signal.SIGKILL)
        for part in range(2):  # a second batch of the same kind is the first that is measured
            feed(running, make_pictures(running.folder / "outside" / f"w{part}", scans, first=2 * turn + part * scans))
        coming = make_pictures(running.folder / "outside" / "held", 4 * scans, first=10 * scans)
        coming.rename(running.inbox / coming.name)
        running.wait(lambda: replica(running)["phase"] == "busy", 60, every=0.002)
        found["a held replica is noticed"] = after(running, signal.SIGSTOP, back=False)
        running.end()
    return found


def replica(running: Running) -> dict[str, Any]:
    """The first one, as the daemon shows it."""
    shown: dict[str, Any] = running.live()["replicas"][0]
    return shown


def after(running: Running, number: signal.Signals, *, back: bool = True) -> float:
    """Seconds from a signal to its replica until that is ready again, or until its end is seen."""
    pid = replica(running)["pid"]
    began = time.monotonic()
    os.kill(pid, number)
    if back:
        running.wait(lambda: replica(running)["pid"] not in (None, pid) and replica(running)["phase"] == "idle", 240)
    else:
        running.wait(lambda: replica(running)["pid"] != pid, 400)
    return time.monotonic() - began


def feeding(old: Path, table: Table, rounds: int, files: int, device: str, folder: Path) -> None:
    """SegFormer on one card and on all, from a backlog and as they come, over the model alone."""
    import torch

    on_gpu = device != "cpu"
    cards = torch.cuda.device_count() if on_gpu else 1
    model = save_model(folder / "model", B5 if on_gpu else TINY)
    uses = {"1": [0] if on_gpu else "cpu"} | ({str(cards): "auto"} if cards > 1 else {})
    rates: dict[tuple[str, str, str], list[float]] = {}
    with ExitStack() as stack:
        services = {
            (name, use): stack.enter_context(
                daemon(
                    tree=tree,
                    model={"segmenter": "semantic", "path": str(model)},
                    outbox={"outputs": ["mask", "overlay"]},
                    devices={"use": which},
                )
            )
            for use, which in uses.items()
            for name, tree in (("old", old), ("new", HERE))
        }
        for number, turn in enumerate(range(-1, rounds)):
            scans = make_pictures(folder / f"scans-{turn}", files, first=number * files, processes=os.cpu_count() or 1)
            for key, running in services.items():
                for way, rate in one_round(running, scans, turn).items():
                    if turn >= 0:
                        rates.setdefault((way, *key), []).append(rate)
        batch = max(running.rows("SELECT max(batch_size) FROM jobs")[0][0] for running in services.values())
    alone = model_rate(loaded(model, device), batch, device)
    for way in ("backlog", "as they come", "CPU a scan, ms"):
        for use in uses:
            table.add(f"SegFormer, {use} card(s), {way}", rates[way, "old", use], rates[way, "new", use])
            if not way.startswith("CPU"):
                shares = [[rate / alone / int(use) for rate in rates[way, name, use]] for name in ("old", "new")]
                table.add(f"  over the model alone ({alone:.0f}/s a card)", *shares)
        if len(uses) > 1 and not way.startswith("CPU"):
            gains = [
                [b / a for a, b in zip(rates[way, name, "1"], rates[way, name, str(cards)], strict=True)]
                for name in ("old", "new")
            ]
            table.add(f"  {cards} cards over one, {way}", *gains)


def one_round(running: Running, scans: Path, turn: int) -> dict[str, float]:
    """Scans a second, half of them from a backlog, half as they come."""
    halves = [running.folder / "outside" / f"{way}-{turn}" for way in ("waiting", "coming")]
    paths = sorted(scans.iterdir())
    for number, half in enumerate(halves):
        half.mkdir(parents=True)
        for path in paths[number::2]:
            (half / path.name).write_bytes(path.read_bytes())
    waiting, coming = halves
    count = len(paths[::2])
    before, due = queue(running, waiting)
    cpu = running.usage().cpu_seconds
    running.say("resume")
    wait_for(running, due)
    cpu = running.usage().cpu_seconds - cpu
    return {
        "backlog": rate(running, before),
        "CPU a scan, ms": 1000 * cpu / count,
        "as they come": len(paths[1::2]) / feed(running, coming),
    }


def main() -> None:
    """Measure the chapters that are asked for."""
    parser = argparse.ArgumentParser(description="This build against another one, in turns.")
    parser.add_argument("against", help="a revision, or the folder of another build")
    parser.add_argument("--only", nargs="+", default=["job", "sleep", "plan", "start", "feed"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--model", type=Path, help="a folder of Sa2VA for `start` and `plan`; else a small SegFormer")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = other_build(asked.against, folder / "other")
        table = Table()
        model = asked.model or save_model(folder / "small", B5 if asked.device != "cpu" else TINY)
        section = {"segmenter": "sa2va" if asked.model else "semantic", "path": str(model)}
        chapters: dict[str, Callable[[], None]] = {
            "job": lambda: job(old, table, asked.rounds, asked.files),
            "sleep": lambda: sleep(old, table, asked.rounds, 100),
            "plan": lambda: plan(old, table, asked.rounds, model),
            "start": lambda: start(old, table, asked.rounds, section, 32),
            "feed": lambda: feeding(old, table, asked.rounds, asked.files, asked.device, folder),
        }
        for chapter in asked.only:
            chapters[chapter]()


if __name__ == "__main__":
    main()
