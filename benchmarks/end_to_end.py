"""Scans a second, files in the inbox to results in the outbox, against what a person would use instead."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.feeding import cpu_of_all, daemon, feed, make_pictures
from benchmarks.figure import Figure, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.running import Running

TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "decoder_hidden_size": 32}
"""A SegFormer that takes some milliseconds for a scan."""

DEFAULT_MODELS = ("vesselness", "vessel")
"""Those that come with watcherd: DESIGN asks for a share of the script's rate with these."""

WAYS = ("script", "dataloader", "model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One way over one folder of scans. Seconds for each scan, of the clock and of the CPU."""

    seconds: float
    cpu_seconds: float


class Straight:
    """The baselines, loaded once, in a process of their own."""

    def __init__(self, process: subprocess.Popen[str], outbox: Path) -> None:
        self._process = process
        self._outbox = outbox

    def turn(self, way: str, scans: Path, *, batch: int = 1) -> Turn:
        """One round."""
        count = sum(1 for _ in scans.iterdir())
        wish = {"way": way, "inbox": str(scans), "outbox": str(self._outbox), "batch": batch}
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        print(json.dumps(wish), file=to, flush=True)
        answer = json.loads(last_line(answers))
        return Turn(seconds=answer["seconds"] / count, cpu_seconds=answer["cpu_seconds"] / count)


def last_line(answers: IO[str]) -> str:
    """The next line that is an answer. Raises RuntimeError when the process has ended."""
    for line in answers:
        if line.startswith("{"):
            return line
    raise RuntimeError("the straight script ended")


@contextmanager
def straight(segmenter: str, model: Path | None) -> Iterator[Straight]:
    """The baselines' process; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.straight", segmenter, *([str(model)] if model else [])]
    with tempfile.TemporaryDirectory() as outbox:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield Straight(process, Path(outbox))
        finally:
            process.communicate()


def daemon_turn(running: Running, scans: Path) -> Turn:
    """The service over the folder, which is then in the archive."""
    count = sum(1 for _ in scans.iterdir())
    before = cpu_of_all(running)
    seconds = feed(running, scans)
    return Turn(seconds=seconds / count, cpu_seconds=(cpu_of_all(running) - before) / count)


def end_to_end(
    name: str, rounds: int, seconds: float, *, segmenter: str = "", model: Path | None = None, measures: bool = False
) -> list[Figure]:
    """All ways over the same scans, one after the other, ``rounds`` times; each takes about ``seconds`` at a time.

    ``name`` is what the table says; ``measures`` adds a second daemon that also measures its masks.
    """
    segmenter = segmenter or name
    section = {"segmenter": segmenter, **({"path": str(model)} if model else {})}
    turns: dict[str, list[Turn]] = {}
    with ExitStack() as stack:
        theirs = stack.enter_context(straight(segmenter, model))
        services = {"daemon": stack.enter_context(daemon(model=section))}
        if measures:
            services["measures"] = stack.enter_context(daemon(model=section, outbox={"measures": True}))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = warm_up(services, theirs, folder, seconds)
        batch = services["daemon"].rows("SELECT max(batch_size) FROM job")[0][0] or 1
        for turn in range(rounds):
            scans = make_pictures(folder / f"scans-{turn}", files, first=100 + turn * files)
            ways = [*services, *WAYS]
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:  # so that none always comes first
                if way in services:
                    copy = Path(shutil.copytree(scans, services[way].folder / "outside" / scans.name))
                    taken = daemon_turn(services[way], copy)
                else:
                    taken = theirs.turn(way, scans, batch=batch)
                turns.setdefault(way, []).append(taken)
    return figures(name, files, batch, turns)


def warm_up(services: dict[str, Running], theirs: Straight, folder: Path, seconds: float) -> int:
    """Let every way run once, and find how many scans take the script about ``seconds``."""
    scans = make_pictures(folder / "warm-up", 4)
    for way in WAYS:
        theirs.turn(way, scans)
    files = min(400, max(6, round(seconds / theirs.turn("script", scans).seconds)))
    for running in services.values():
        feed(running, Path(shutil.copytree(scans, running.folder / "outside" / scans.name)))
    return files


def figures(name: str, files: int, batch: int, turns: dict[str, list[Turn]]) -> list[Figure]:
    """Ratios round by round, then what they are made of."""

    def ratio(other: str) -> list[float]:
        pairs = zip(turns["daemon"], turns[other], strict=True)
        return [theirs.seconds / ours.seconds for ours, theirs in pairs]

    same = "scans a second of the one over that of the other, round by round, the ways taking turns"
    result = [
        Figure(
            name=f"{name}: daemon over straight script",
            unit="ratio",
            values=ratio("script"),
            definition=same,
            target=Target(least=0.95) if name in DEFAULT_MODELS else None,
        ),
        Figure(
            name=f"{name}: daemon over DataLoader script", unit="ratio", values=ratio("dataloader"), definition=same
        ),
        Figure(name=f"{name}: daemon over model alone", unit="ratio", values=ratio("model"), definition=same),
    ]
    for way, what in (
        ("daemon", "from coming to the last being archived, all durable, no measures"),
        ("script", "open, predict, save, one by one; the baseline"),
        ("dataloader", "the same with two decoding processes"),
        ("model", f"predict alone on frames in memory, in the daemon's batches of {batch}: the limit"),
    ):
        taken = turns[way]
        over = f"{files} grey JPEGs of 512 x 512 each round, {what}; loading not counted"
        result += [
            Figure(name=f"  {way}", unit="scans/s", values=[1 / turn.seconds for turn in taken], definition=over),
            Figure(
                name=f"  {way}, CPU",
                unit="s a scan",
                values=[turn.cpu_seconds for turn in taken],
                definition="CPU of all its processes for the same scans",
            ),
        ]
    if "measures" in turns:
        pairs = list(zip(turns["daemon"], turns["measures"], strict=True))
        result.append(
            Figure(
                name="  what measures of the masks cost",
                unit="ms a scan",
                values=[1000 * (with_.cpu_seconds - without.cpu_seconds) for without, with_ in pairs],
                definition="CPU of a daemon with [outbox] measures = true, less that of one without, round by round",
            )
        )
    return result


# ------------------------------------------------------------------------------------------------------------- models


def semantic(name: str, rounds: int, seconds: float, sizes: dict[str, object] | None) -> list[Figure]:
    """A SegFormer with random weights: speed does not depend on them. ``sizes``: None for B5's own."""
    from benchmarks.gpu_semantic import B5, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), B5 if sizes is None else sizes)
        return end_to_end(name, rounds, seconds, segmenter="semantic", model=Path(folder))


def sa2va(rounds: int, seconds: float) -> list[Figure]:
    """The Sa2VA of the recorded references: real sizes of SAM2, a small language model, 0.9 GB."""
    from tests.sa2va_folder import write_model

    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        return end_to_end("sa2va, golden size", rounds, seconds, segmenter="sa2va", model=model)


def chapter(rounds: int, seconds: float, names: Sequence[str]) -> list[Figure]:
    """Several models in turn."""
    found: list[Figure] = []
    for name in names:
        found += end_to_end(name, rounds, seconds, measures=name == "vesselness")
    return found
