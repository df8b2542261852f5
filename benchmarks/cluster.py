"""What distance costs: a replica behind Ray on this machine against a local one, in one run; and what idle parts cost.

    python -m benchmarks.cluster [--runs 5] [--files 200] [--milliseconds 20]
    python -m benchmarks.cluster --cards 0,1 --model FOLDER [--segmenter semantic]

With ``--cards``, on a machine with GPUs: two nodes with a card each, as if they were two machines, against two local
replicas. Needs the extra: pip install "watcherd[cluster]". Prints lines of JSON as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.feeding import daemon, feed, make_pictures, sections_of
from benchmarks.running import Running, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


HEAD, FIRST = 6470, 6500
"""Ports: others than those of a cluster that may be running here."""
IDLE_SECONDS = 20.0


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


@contextmanager
def part(folder: Path, name: str, *words: str, **environment: str) -> Iterator[psutil.Process]:
    """A watcherd command in the background."""
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "watcherd", *words], stdout=log, stderr=log, env={**os.environ, **environment}
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def until(look: Any, what: str, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        time.sleep(0.1)


def own_address() -> str:
    """This machine's, not that of the loopback: Ray takes no other."""
    found = [each for name, addresses in psutil.net_if_addrs().items() if name != "lo" for each in addresses]
    return next(each.address for each in found if each.family is socket.AF_INET)


@contextmanager
def far_away(cards: list[str], model: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[tuple[Any, Any]]:
    """A daemon whose replicas are behind Ray, one on each card or on a pretended one; and the parts of the cluster."""
    folder, here = Path(tempfile.mkdtemp(prefix="far-")), own_address()
    section = {"engine": "ray", "address": f"{here}:{HEAD}", "local": False}
    running = Running(folder, **sections_of(model=dict(model), cluster=section))
    told, token = ("--config", str(running.config)), running.state / "cluster.token"
    parts: dict[str, psutil.Process] = {}
    try:
        with ExitStack() as stack:
            words = ("--address", here, "--port", str(HEAD), "--ports", str(FIRST), "--temporary", str(folder / "h"))
            parts["head"] = stack.enter_context(part(folder, "head", "head", *told, *words))
            until(token.exists, "the token")
            parts["bridge"] = stack.enter_context(part(folder, "bridge", "bridge", *told))
            for number, card in enumerate(cards or [""]):
                words = ("--head", f"{here}:{HEAD}", "--address", here, "--token", str(token))
                kept = ("--folder", str(folder / f"w{number}"), "--ports", str(FIRST + 100 * (number + 1)))
                given = ("--cards", card) if card else ()
                pretends = {} if card else {"WATCHERD_PRETEND_CARDS": "1x24GiB"}
                name = f"worker {number}"
                started = part(folder, name, "worker", *words, *kept, *given, **pretends, **environment)
                parts[name] = stack.enter_context(started)
            stack.callback(running.end)
            running.start()
            running.ready()
            ready = "SELECT count(*) FROM replica WHERE ready_at IS NOT NULL AND ended_at IS NULL"
            until(lambda: running.rows(ready)[0][0] == (len(cards) or 1), "the replicas on the nodes", 600.0)
            yield running, parts
            running.stop()
    except BaseException:
        for log in folder.glob("*.log"):
            say(log=log.name, tail=log.read_text(errors="replace")[-1500:])
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def of(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def idle(parts: Mapping[str, psutil.Process]) -> None:
    """Memory and CPU of the parts while nothing is computed."""
    before = {name: cpu_of(process) for name, process in parts.items()}
    time.sleep(IDLE_SECONDS)
    for name, process in parts.items():
        found = of(process)
        pss = sum(each.memory_full_info().pss for each in found) / 2**20
        used = (cpu_of(process) - before[name]) / IDLE_SECONDS
        say(idle=name, processes=len(found), pss_mib=round(pss), cpu_share_of_a_core=round(used, 4))


def cpu_of(process: psutil.Process) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in of(process))


def compare(services: Mapping[str, Running], runs: int, files: int) -> None:
    """Feed them in turns; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in services}
    costs: dict[str, list[float]] = {name: [] for name in services}
    for turn in range(-1, runs):
        for name, running in services.items():
            scans = make_pictures(running.folder / "outside" / f"scans-{turn}", files, first=(turn + 1) * files)
            before = cpu_seconds(running.pid)
            taken = feed(running, scans)
            if turn >= 0:
                rates[name].append(files / taken)
                costs[name].append((cpu_seconds(running.pid) - before) / files * 1000)
        if turn >= 0:
            say(turn=turn, scans_per_second={name: round(each[-1], 2) for name, each in rates.items()},
                main_cpu_ms={name: round(each[-1], 3) for name, each in costs.items()})  # fmt: skip
    for what, found in (("scans a second", rates), ("main process's CPU", costs)):
        ratios = [far / near for far, near in zip(found["far"], found["near"], strict=True)]
        say(figure=f"{what}, through Ray over local", median=round(statistics.median(ratios), 3),
            smallest=round(min(ratios), 3), largest=round(max(ratios), 3))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, default=20.0)
    parser.add_argument("--cards", default="", help="two indexes of GPUs, with a comma")
    parser.add_argument("--model", default="", help="with --cards: the model's folder")
    parser.add_argument("--segmenter", default="semantic")
    asked = parser.parse_args()
    cards = [card for card in asked.cards.split(",") if card]
    sleeping = {"WATCHERD_FAKE": json.dumps({"seconds": asked.milliseconds / 1000})}
    model = {"segmenter": asked.segmenter, "path": asked.model} if cards else {"segmenter": "fake", "dtype": "float32"}
    near = {"use": [int(card) for card in cards]} if cards else {"use": "cpu"}
    environment = {} if cards else sleeping
    with (
        far_away(cards, model, environment) as (far, parts),
        daemon(environment=environment, model=model, devices=near) as local,
    ):
        idle(parts)
        compare({"near": local, "far": far}, asked.runs, asked.files)


if __name__ == "__main__":
    main()
