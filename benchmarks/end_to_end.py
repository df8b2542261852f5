"""Scans a second, files in the inbox to results in the outbox, against what a person would use instead."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

from benchmarks.feeding import SETTLE, cpu_of_all, daemon, make_pictures, moment
from benchmarks.figure import Figure, Target
from benchmarks.turns import LONG_SLICE, SLICE, Turn, take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.running import Running
    from benchmarks.turns import Way

TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "decoder_hidden_size": 32}
"""A SegFormer that takes some milliseconds for a scan."""

DEFAULT_MODELS = ("vesselness", "vessel")
"""Those that come with watcherd: a share is asked for of the script's rate with these."""

WITHOUT_A_MODEL = "none"
"""It only makes an empty mask: a ratio to 50 µs of writing to memory says nothing of the daemon, and comes out
differently every time."""

NAMES = {"script": "straight script", "dataloader": "DataLoader script", "model": "model alone"}
"""What the daemon is compared with."""

PATIENCE = 300.0
"""Seconds that a model may take to be loaded by a baseline."""

LEAST_FILES, MOST_FILES = 5, 600
"""Scans in a run: so many that the daemon's filling and emptying does not weigh, and not more than needed."""


class Straight:
    """A baseline, its model loaded once, in a process of its own (see `turns.Way`)."""

    def __init__(self, process: subprocess.Popen[bytes], outbox: Path, way: str) -> None:
        self._process = process
        self._outbox = outbox
        self._way = way
        self._said = b""
        self._cpu = 0.0
        self.batch = 1
        self.repeats = 1

    @property
    def group(self) -> int:
        """It leads a group of its own."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Of all its rounds, as it says itself: what came before the first scan is not in it."""
        return self._cpu

    def prepare(self, scans: Path) -> None:
        """Say what is to be done, and wait until frames that are to lie in memory do."""
        wish = {
            "way": self._way,
            "inbox": str(scans),
            "outbox": str(self._outbox),
            "batch": self.batch,
            "repeats": self.repeats,
        }
        self._say(json.dumps(wish))
        if self._heard(PATIENCE) is None:
            raise TimeoutError("the straight script does not get ready")

    def begin(self) -> float:
        """Now."""
        self._say("")
        return 0.0

    def wait(self, seconds: float) -> float | None:
        """Until it says that it is done."""
        if (answer := self._heard(seconds)) is None:
            return None
        self._cpu += answer["cpu_seconds"]
        return time.time()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _heard(self, seconds: float) -> dict[str, float] | None:
        """The next line of JSON; what libraries print is none. Raises RuntimeError when the process has ended."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            if not (said := os.read(self._process.stdout.fileno(), 1 << 16)):
                raise RuntimeError("the straight script ended")
            *lines, self._said = (self._said + said).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    answer: dict[str, float] = json.loads(line)
                    return answer
        return None

    def turn(self, scans: Path) -> Turn:
        """A round without interruption."""
        (turn,) = take_turns({self._way: self}, {self._way: scans}).values()
        return turn


@contextmanager
def straight(segmenter: str, model: Path | None, way: str = "script", device: str = "cpu") -> Iterator[Straight]:
    """A baseline's process; it ends with the block."""
    command = [sys.executable, "-m", "benchmarks.straight", segmenter, device, *([str(model)] if model else [])]
    with tempfile.TemporaryDirectory() as outbox:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        try:
            yield Straight(process, Path(outbox), way)
        finally:
            process.communicate()


class Service:
    """The daemon (see `turns.Way`)."""

    repeats = 1

    def __init__(self, running: Running) -> None:
        self.running = running
        self._due = 0
        self._copy = Path()

    @property
    def group(self) -> int:
        """Replicas and imaging workers are in it."""
        return self.running.pid

    def cpu_seconds(self) -> float:
        """Of everything that it has started."""
        return cpu_of_all(self.running)

    def prepare(self, scans: Path) -> None:
        """A copy of the scans lies beside the inbox."""
        self._due = self.running.totals().get("job.succeeded", 0) + sum(1 for _ in scans.iterdir())
        self._copy = Path(shutil.copytree(scans, self.running.folder / "outside" / scans.name))

    def begin(self) -> float:
        """They come into the inbox as one folder, and settle."""
        self._copy.rename(self.running.inbox / self._copy.name)
        return SETTLE

    def wait(self, seconds: float) -> float | None:
        """When the last scan was archived, all jobs recorded."""
        time.sleep(seconds)
        self.running.must_live()
        if self.running.totals().get("job.succeeded", 0) < self._due or not self.running.at_rest():
            return None
        ((last,),) = self.running.rows("SELECT max(disposed_at) FROM arrival")
        return moment(last)


def end_to_end(
    name: str,
    runs: int,
    seconds: float,
    *,
    segmenter: str = "",
    model: Path | None = None,
    measures: bool = False,
    device: str = "cpu",
) -> list[Figure]:
    """All ways over the same scans, by turns (see `turns`), ``runs`` times; each way takes about ``seconds`` in a run.

    ``name`` is what the table says; ``measures`` adds a second daemon that also measures its masks.
    """
    segmenter = segmenter or name
    section = {"segmenter": segmenter, **({"path": str(model)} if model else {})}
    turns: dict[str, list[Turn]] = {}
    with ExitStack() as stack:
        baselines = {way: stack.enter_context(straight(segmenter, model, way, device)) for way in NAMES}
        service = Service(stack.enter_context(daemon(model=section)))
        ways: dict[str, Way] = {"daemon": service, **baselines}
        if measures:
            ways["measures"] = Service(stack.enter_context(daemon(model=section, outbox={"measures": True})))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = 4 if device == "cpu" else 64  # so that the daemon's batches are as large as later
        files = warm_up(ways, baselines["script"], folder, seconds, first)
        alone = baselines["model"].turn(folder / "warm-up")
        baselines["model"].repeats = math.ceil(seconds / (alone.seconds * files))
        batch = baselines["model"].batch = service.running.rows("SELECT max(batch_size) FROM job")[0][0] or 1
        for turn in range(runs):
            scans = make_pictures(folder / f"scans-{turn}", files, first=100 + turn * files)
            names = list(ways)
            order = names[turn % len(names) :] + names[: turn % len(names)]  # so that none always comes first
            chosen = {way: ways[way] for way in order}
            for way, taken in take_turns(chosen, dict.fromkeys(order, scans), slice_of(name)).items():
                turns.setdefault(way, []).append(taken)
    return figures(name, files, seconds, batch, turns)


def warm_up(ways: Mapping[str, Way], script: Straight, folder: Path, seconds: float, first: int) -> int:
    """Let every way run over the ``first`` scans, and find how many take the script about ``seconds``."""
    scans = make_pictures(folder / "warm-up", first)
    take_turns(ways, dict.fromkeys(ways, scans))
    return min(MOST_FILES, max(LEAST_FILES, round(seconds / script.turn(scans).seconds)))


def slice_of(name: str) -> float:
    """Seconds of a turn: without a model the disk decides."""
    return LONG_SLICE if name == WITHOUT_A_MODEL else SLICE


def figures(name: str, files: int, seconds: float, batch: int, turns: dict[str, list[Turn]]) -> list[Figure]:
    """Ratios of all runs together, then what they are made of."""

    def ratio(other: str, target: Target | None = None) -> Figure:
        ours = [turn.seconds for turn in turns["daemon"]]
        theirs = [turn.seconds for turn in turns[other]]
        return Figure(
            name=f"{name}: daemon over {NAMES[other]}",
            unit="ratio",
            values=[slow / quick for quick, slow in zip(ours, theirs, strict=True)],
            overall=sum(theirs) / sum(ours),
            definition=same,
            target=target,
        )

    same = (
        "scans a second of the one over that of the other: the times of all runs added up, smallest and largest are "
        f"those of single runs, of {files} scans; in a run the ways take turns "
        f"of {slice_of(name)} s, the others standing still (SIGSTOP); the same threads of torch, and the same scans to "
        "warm up; "
        "the daemon's time is that from the folder's coming to the last scan in the archive: its filling and emptying "
        "is in it, settling is not"
    )
    result = [
        ratio("script", Target(least=0.95) if name in DEFAULT_MODELS else None),
        ratio("dataloader"),
        *([ratio("model")] if name != WITHOUT_A_MODEL else []),
    ]
    for way, what in (
        ("daemon", "from coming to the last being archived, all durable, no measures"),
        ("script", "open, predict, save, one by one; the baseline"),
        ("dataloader", "the same with two decoding processes"),
        ("model", f"predict alone on frames in memory, in the daemon's batches of {batch}: the limit"),
    ):
        taken = turns[way]
        over = f"{files} grey JPEGs of 512 x 512 in a run, {what}; loading not counted"
        over += f", repeated until it takes about {seconds:g} s" if way == "model" else ""
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
                definition="CPU of a daemon with [outbox] measures = true, less that of one without, run by run",
            )
        )
    return result


# ------------------------------------------------------------------------------------------------------------- models


def semantic(
    name: str, runs: int, seconds: float, sizes: Mapping[str, object] | None, *, device: str = "cpu"
) -> list[Figure]:
    """A SegFormer with random weights: speed does not depend on them. ``sizes``: None for B5's own."""
    from benchmarks.gpu_semantic import B5, save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), B5 if sizes is None else sizes)
        return end_to_end(name, runs, seconds, segmenter="semantic", model=Path(folder), device=device)


def sa2va(runs: int, seconds: float) -> list[Figure]:
    """The Sa2VA of the recorded references: real sizes of SAM2, a small language model, 0.9 GB."""
    from tests.sa2va_folder import write_model

    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        return end_to_end("sa2va, golden size", runs, seconds, segmenter="sa2va", model=model)


def full_sa2va(runs: int, seconds: float, device: str) -> list[Figure]:
    """Sa2VA of InternVL3-8B's size, on a GPU."""
    from benchmarks.gpu_sa2va import write_full_model

    with tempfile.TemporaryDirectory() as folder:
        model = write_full_model(Path(folder) / "model", device)
        return end_to_end("sa2va, full size", runs, seconds, segmenter="sa2va", model=model, device=device)


def chapter(runs: int, seconds: float, names: Sequence[str]) -> list[Figure]:
    """Several models in turn."""
    found: list[Figure] = []
    for name in names:
        found += end_to_end(name, runs, seconds, measures=name == "vesselness")
    return found
