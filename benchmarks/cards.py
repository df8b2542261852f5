"""One service over 1, 2, 4 or 8 cards: how much each card adds, and what becomes of it when a replica is lost.

The machine is that of the group for whom watcherd was begun: 22 GiB of each card may be used. Five parts, over as many
cards as there are:

1. Sa2VA of full size, started from a cold disk, on 1, 2, 4, ... cards with a replica each; one replica over all cards;
   in float32, which takes two cards a replica. Scans a second from a backlog, by turns; masks and probabilities of the
   same scans, bit for bit; memory in the history and on the status page against ``nvidia-smi``.
2. One replica killed, another held, while 600 scans are computed.
3. SegFormer-B5's size on 1, 2, 4, ... cards: from a backlog, and as scans come; which process is the wall.
4. Two models by shares of 3 to 1, and a swap while both have work.

Weights are random. On a CPU (``--quick``) two replicas stand in for two cards, and a small model for both.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml

from benchmarks.feeding import SETTLE, cpu_of_children, make_pictures, moment, queue, rate, sections_of, wait_for
from benchmarks.figure import Figure, Target
from benchmarks.gpu_limits import on_gpu
from benchmarks.gpu_semantic import B5, save_model
from benchmarks.running import Running, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LIMIT_GIB = 22.0
"""Of each card, GiB: what is left of 24 GB beside a screen."""
ROOM_GIB = 120.0
"""Memory of a card, GiB, from which on all services of a part live at once and are fed by turns."""
START_SECONDS = 400.0
BATCH = 16
BATCH_SECONDS = 20.0
"""Seconds after which a batch counts as held, in the part that holds one."""
COMPARED = 32
"""Scans whose results are compared, for each card."""
LOOK_SECONDS = 0.1
LOOKED_SECONDS = 5.5
"""Seconds after which the status page has certainly looked at the cards again."""
AIMS = {4: 3.8, 8: 7.4}
"""Times one card that Sa2VA is to reach on so many."""
QUICK_AIMS = {4: 3.2, 8: 6.0}
"""The same of the quick model."""

Sections = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured. ``slow``, ``quick``: scans a round and card of Sa2VA and of the quick model; ``shaken``:
    scans while replicas are lost."""

    runs: int
    slow: int
    quick: int
    shaken: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What is there. ``count``: cards, or replicas on a CPU in their place."""

    gpu: bool
    count: int
    roomy: bool

    @classmethod
    def of(cls, device: str) -> Machine:
        """This one."""
        if not on_gpu(device):
            return cls(gpu=False, count=2, roomy=True)
        import torch

        count = torch.cuda.device_count()
        smallest = min(torch.cuda.get_device_properties(each).total_memory for each in range(count))
        return cls(gpu=True, count=count, roomy=smallest > ROOM_GIB * 2**30)

    @property
    def counts(self) -> list[int]:
        """1, 2, 4, ... up to all."""
        return sorted({1 << power for power in range(self.count.bit_length()) if 1 << power <= self.count})

    def devices(self, count: int, **more: Any) -> Sections:
        """The table ``[devices]`` for so many of them."""
        if self.gpu:
            return {"use": list(range(count)), **more}
        return {"use": "cpu", "replicas": count}


@dataclass(kw_only=True, slots=True)
class Turn:
    """One round. ``rate``: scans a second, from the first claim to the last record; ``main``, ``below``: cores that the
    main process, and its replicas and workers, kept busy; ``busy``: of each card, the share of the time it computed."""

    rate: float
    main: float
    below: float
    busy: list[float] = field(default_factory=list)


def cards(device: str, scale: Scale, *, full_size: bool) -> Iterator[Figure]:
    """The chapter, figure by figure."""
    machine = Machine.of(device)
    with tempfile.TemporaryDirectory(prefix="cards-") as name:
        folder = Path(name)
        quick = save_model(folder / "quick", B5 if full_size else _tiny())
        slow: Sections = {"segmenter": "semantic", "path": str(quick), "batch": 4}
        if full_size:
            from benchmarks.gpu_sa2va import write_full_model

            path = write_full_model(folder / "sa2va", device)
            _empty_cache()
            slow = {"segmenter": "sa2va", "path": str(path), "batch": BATCH}
        fast = {"segmenter": "semantic", "path": str(quick), "threshold": 0.5}
        yield from Slow(machine, scale, folder / "slow", slow).figures()
        yield from quick_model(machine, scale, folder / "fast", fast)
        yield from two_models(machine, scale, folder / "two", slow, fast)


def _tiny() -> Mapping[str, object]:
    from benchmarks.end_to_end import TINY

    return dict(TINY)


def _empty_cache() -> None:
    import torch

    torch.cuda.empty_cache()


# ----------------------------------------------------------------------------------------------------------- services


@contextmanager
def alive(wanted: Mapping[str, Sections]) -> Iterator[dict[str, Running]]:
    """These services, started together, all of them ready; nothing is left of them."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    found = {name: Running(folder / str(place), **each) for place, (name, each) in enumerate(wanted.items())}
    try:
        for running in found.values():
            running.start()
        for running in found.values():
            running.wait(lambda each=running: each.live().get("phase") == "running", START_SECONDS)  # type: ignore[misc]
        yield found
        for running in found.values():
            if running.lives:
                running.stop()
    finally:
        for running in found.values():
            running.end()
        shutil.rmtree(folder, ignore_errors=True)


def by_turns(machine: Machine, wanted: Mapping[str, Sections], runs: int) -> Iterator[tuple[str, Running, int]]:
    """Each service in each round. On cards that are too small for all of them, one service after the other."""
    if machine.roomy:
        with alive(wanted) as services:
            for turn in range(runs):
                for name, running in services.items():
                    yield name, running, turn
        return
    for name, each in wanted.items():
        with alive({name: each}) as services:
            for turn in range(runs):
                yield name, services[name], turn


def backlog(machine: Machine, running: Running, scans: Path) -> Turn:
    """The work is paused until all of them are queued."""
    before, due = queue(running, scans)
    with watched(machine, running) as turn:
        running.say("resume")
        wait_for(running, due)
    turn.rate = rate(running, before)
    return turn


def as_they_come(machine: Machine, running: Running, scans: Path) -> Turn:
    """They are taken in while the first are worked on."""
    count, began = sum(1 for _ in scans.iterdir()), time.time()
    due = running.totals().get("job.succeeded", 0) + count
    with watched(machine, running) as turn:
        scans.rename(running.inbox / scans.name)
        wait_for(running, due)
    ((last,),) = running.rows("SELECT max(disposed_at) FROM arrival")
    turn.rate = count / (moment(last) - began - SETTLE)
    return turn


@contextmanager
def watched(machine: Machine, running: Running) -> Iterator[Turn]:
    """What the processes and the cards do meanwhile."""
    turn = Turn(rate=0.0, main=0.0, below=0.0)
    looks: list[list[int]] = []
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(machine.count if machine.gpu else 0, looks, over))
    began, main, below = time.monotonic(), cpu_seconds(running.pid), cpu_of_children(running.pid)
    thread.start()
    try:
        yield turn
    finally:
        over.set()
        thread.join()
    seconds = time.monotonic() - began
    turn.main = (cpu_seconds(running.pid) - main) / seconds
    turn.below = (cpu_of_children(running.pid) - below) / seconds
    turn.busy = [sum(each) / len(looks) / 100 for each in zip(*looks, strict=True)]


def _look(count: int, looks: list[list[int]], over: threading.Event) -> None:
    """NVML's utilisation of each card, in percent of its last interval, until it is over."""
    if not count:
        return
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(each) for each in range(count)]
    while not over.wait(LOOK_SECONDS):
        looks.append([pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles])


def wall(name: str, turns: Sequence[Turn], count: int) -> list[Figure]:
    """What the processes and cards did while it went on."""
    found = [
        Figure(
            name=f"  {name}: main process",
            unit="cores",
            values=[turn.main for turn in turns],
            definition="kept busy by it, of which one interpreter can have little more than one",
        ),
        Figure(
            name=f"  {name}: replicas and imaging workers",
            unit="cores",
            values=[turn.below for turn in turns],
            definition=f"kept busy by them, of {os.cpu_count()}",
        ),
    ]
    if busy := [sum(turn.busy[:count]) / count for turn in turns if turn.busy]:
        definition = "share of the time in which it computed anything, as NVML samples it, mean over its cards"
        found.append(Figure(name=f"  {name}: a card", unit="ratio", values=busy, definition=definition))
    return found


def over_one(name: str, turns: Mapping[str, Sequence[Turn]], one: str, target: Target | None = None) -> Figure:
    """Round by round over that of one card."""
    return Figure(
        name=f"{name} over {one}",
        unit="ratio",
        values=[mine.rate / other.rate for mine, other in zip(turns[name], turns[one], strict=True)],
        definition="scans a second of both in the same round",
        target=target,
    )


# ------------------------------------------------------------------------------------------------------------- part 1


class Slow:
    """Sa2VA of full size in every way that these cards allow. Also part 2, with the service over all cards."""

    def __init__(self, machine: Machine, scale: Scale, folder: Path, model: Sections) -> None:
        self._machine = machine
        self._scale = scale
        self._folder = folder
        self._model = model
        self._all = _cards(machine.count)
        self._turns: dict[str, list[Turn]] = {}
        self._results: dict[str, dict[str, str]] = {}
        self._made = 0

    def figures(self) -> Iterator[Figure]:
        """Cold start, rounds, results and memory; then the losses."""
        ways = self._ways()
        for file in self._files():
            _forget(file)
        if len(ways) > 1:
            with alive({self._all: ways[self._all]}) as services:
                yield from self._cold_start(services[self._all])
        for name, running, turn in by_turns(self._machine, ways, self._scale.runs):
            if not turn:
                if len(ways) == 1:
                    yield from self._cold_start(running)
                self._results[name] = self._compared(running)
            scans = self._scale.slow * self._cards_of(name)
            self._turns.setdefault(name, []).append(backlog(self._machine, running, self._scans(scans)))
            if turn == self._scale.runs - 1:
                yield from self._rates(name)
                yield from self._memory(name, running)
                if name == self._all:
                    yield from self._shaken(running)

    def _rates(self, name: str) -> Iterator[Figure]:
        """Of one way, against one card, which came before it."""
        turns, one, count = self._turns[name], _cards(1), self._cards_of(name)
        yield Figure(
            name=f"Sa2VA, {name}",
            unit="scans/s",
            values=[turn.rate for turn in turns],
            definition=f"{self._scale.slow * count:,} JPEGs of 512 x 512 from a backlog to masks",
        )
        if name != one:
            aim = AIMS.get(count) if name == _cards(count) else None
            yield over_one(name, self._turns, one, Target(least=aim) if aim else None)
            yield self._equal(name, one)
        yield from wall(name, turns, count)

    def _ways(self) -> dict[str, Sections]:
        def way(count: int, model: Sections | None = None, **more: Any) -> Sections:
            devices = self._machine.devices(count, max_memory_gib=LIMIT_GIB, batch_seconds=BATCH_SECONDS, **more)
            devices["batch_seconds"] = BATCH_SECONDS
            return sections_of(
                model={**self._model, **(model or {})},
                devices=devices,
                **{"profiles.compared": {"folder": "compared", "outputs": ["mask", "probability"]}},
            )

        ways = {_cards(count): way(count) for count in self._machine.counts}
        if self._machine.gpu and (count := self._machine.count) > 1:
            ways["one replica over all"] = way(count, per_replica=count)
            ways["float32, two cards a replica"] = way(count, {"dtype": "float32", "batch": 4}, per_replica=2)
        return ways

    def _cards_of(self, name: str) -> int:
        return next((count for count in self._machine.counts if name == _cards(count)), self._machine.count)

    def _scans(self, count: int, name: str = "") -> Path:
        self._made += 1
        folder = self._folder / (name or f"round-{self._made}")
        return make_pictures(folder, count, first=self._made * 10_000, processes=os.cpu_count() or 1)

    def _files(self) -> list[Path]:
        return list(Path(self._model["path"]).iterdir())

    def _cold_start(self, running: Running) -> Iterator[Figure]:
        """All replicas at once, from a disk of which nothing was in memory."""
        size = sum(file.stat().st_size for file in self._files())
        replicas = running.live()["replicas"]
        ((began, ready),) = running.rows("SELECT (SELECT min(started_at) FROM run), max(ready_at) FROM replica")
        yield Figure(
            name=f"Sa2VA, {self._all}: cold start to all ready",
            unit="s",
            values=[moment(ready) - moment(began)],
            definition=f"{len(replicas)} replicas at once; {size / 2**30:.1f} GiB of weights, none of them cached",
        )
        yield Figure(
            name="  read from the disk by all replicas, over the checkpoint",
            unit="ratio",
            values=[sum(_read_bytes(each["pid"]) for each in replicas) / size],
            definition="read_bytes of /proc/PID/io; 1: once for all of them",
        )

    def _compared(self, running: Running) -> dict[str, str]:
        """What becomes of the same scans: by name, the hash of each result's bytes."""
        count = COMPARED * self._machine.count if self._machine.gpu else 8
        scans = self._folder / "compared"
        if not scans.exists():
            self._scans(count, "compared")
        copy = shutil.copytree(scans, running.folder / "compared")
        backlog(self._machine, running, copy)
        rows = running.rows("SELECT path_text, sha256 FROM output WHERE kind IN ('mask', 'probability')")
        assert len(rows) == 2 * count, f"{len(rows)} results of {count} scans"
        return {Path(path).name: digest for path, digest in rows}

    def _equal(self, name: str, one: str) -> Figure:
        mine, other = self._results[name], self._results[one]
        assert mine.keys() == other.keys()
        return Figure(
            name=f"  {name}: results equal to those of {one}",
            unit="ratio",
            values=[sum(mine[file] == other[file] for file in other) / len(other)],
            definition=f"{len(other)} files of masks and of probabilities, byte for byte; "
            f"{len(set(other.values()))} of them differ from each other",
        )

    def _memory(self, name: str, running: Running) -> list[Figure]:
        """What the history and the status page say, against the driver's own tool."""
        if not self._machine.gpu:
            return []
        peaks = running.rows(
            "SELECT device, max(vram_peak_reserved_mib), max(nvml_process_mib) FROM attempt_device GROUP BY 1"
        )
        time.sleep(LOOKED_SECONDS)
        shown, driver = running.live()["cards"], _nvidia_smi()
        differences = [
            abs(driver.processes[int(pid)] - used)
            for card in shown
            for pid, used in card["processes"].items()
            if int(pid) in driver.processes and used is not None
        ]
        whole = [abs(card["used_mib"] - driver.used[card["uuid"]]) for card in shown]
        what = "by the status page, less what nvidia-smi says"
        return [
            Figure(
                name=f"  {name}: VRAM of a card",
                unit="MiB",
                values=[float(process or 0) for _, _, process in peaks],
                definition="most that a job's replica held, by the history, a value for each card; torch reserved "
                + ", ".join(f"{reserved:,.0f}" for _, reserved, _ in peaks),
                target=Target(most=LIMIT_GIB * 1024 + 512),
            ),
            Figure(
                name="  of a process, difference to nvidia-smi",
                unit="MiB",
                values=[float(each) for each in differences],
                definition=what,
                target=Target(most=1),
            ),
            Figure(
                name="  of a card, difference to nvidia-smi",
                unit="MiB",
                values=[float(each) for each in whole],
                definition=what,
                target=Target(most=8),
            ),
        ]

    # --------------------------------------------------------------------------------------------------------- part 2

    def _shaken(self, running: Running) -> list[Figure]:
        """The first replica is killed and, where there are two, the second one held, while scans are computed."""
        count = self._scale.shaken
        scans = self._scans(count)
        ((before,),) = running.rows("SELECT coalesce(max(id), 0) FROM job")
        done = running.totals().get("job.succeeded", 0)
        replicas = running.live()["replicas"]
        began = time.time()
        scans.rename(running.inbox / scans.name)
        running.wait(lambda: running.totals().get("job.succeeded", 0) >= done + count // 8, 120)
        killed = time.time()
        os.kill(replicas[0]["pid"], signal.SIGKILL)
        if len(replicas) > 1:
            running.wait(lambda: running.totals().get("job.succeeded", 0) >= done + count // 4, 120)
            os.kill(replicas[1]["pid"], signal.SIGSTOP)
        try:
            wait_for(running, done + count)
        finally:
            for each in replicas:
                with suppress(ProcessLookupError):
                    os.kill(each["pid"], signal.SIGCONT)
        seconds = time.time() - began
        ((delivered, names),) = running.rows(
            "SELECT count(*), count(DISTINCT output.path) FROM output JOIN job ON job.id = output.job_id "
            "WHERE job.id > ? AND output.state = 'delivered' AND output.kind = 'mask'",
            before,
        )
        ((again,),) = running.rows("SELECT count(*) FROM jobs WHERE id > ? AND attempts > 1", before)
        back = "SELECT ready_at FROM replica WHERE started_at > ? AND ready_at IS NOT NULL ORDER BY ready_at"
        since = datetime.fromtimestamp(killed, UTC).isoformat()
        running.wait(lambda: running.rows(back, since), START_SECONDS)
        ready = moment(running.rows(back, since)[0][0])
        assert delivered == names == count, (delivered, names, count)
        return [
            Figure(
                name=f"Sa2VA, {self._all}: a replica killed{', another held' if len(replicas) > 1 else ''}",
                unit="s",
                values=[seconds],
                definition=f"{count} scans, {delivered} delivered, each once, {again} of them at a second attempt; "
                f"batch_seconds = {BATCH_SECONDS:g}",
            ),
            Figure(name="  killed to ready again", unit="s", values=[ready - killed], definition="of that replica"),
        ]


def _cards(count: int) -> str:
    return "one card" if count == 1 else f"{count} cards"


def _forget(file: Path) -> None:
    """Have the kernel drop the file from its cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_bytes(pid: int) -> int:
    """Bytes that a process had the kernel fetch from a disk (proc(5))."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith("read_bytes"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Driver:
    """MiB of each process, by pid, and in use on each card, by UUID."""

    processes: Mapping[int, int]
    used: Mapping[str, int]


def _nvidia_smi() -> _Driver:
    def ask(what: str) -> list[list[str]]:
        words = ["nvidia-smi", what, "--format=csv,noheader,nounits"]
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]

    return _Driver(
        processes={int(pid): int(used) for pid, used in ask("--query-compute-apps=pid,used_memory")},
        used={uuid: int(used) for uuid, used in ask("--query-gpu=uuid,memory.used")},
    )


# ------------------------------------------------------------------------------------------------------------- part 3


def quick_model(machine: Machine, scale: Scale, folder: Path, model: Sections) -> list[Figure]:
    """A model that needs 2 ms a scan: from a backlog, and as scans come."""
    ways = {
        _cards(count): sections_of(model=model, devices=machine.devices(count), outbox={"outputs": ["mask", "overlay"]})
        for count in machine.counts
    }
    turns: dict[str, dict[str, list[Turn]]] = {"backlog": {}, "as they come": {}}
    made = 0
    for name, running, turn in by_turns(machine, ways, scale.runs + 1):
        for way, measure in (("backlog", backlog), ("as they come", as_they_come)):
            made += 1
            scans = make_pictures(folder / f"{made}", scale.quick, first=made * 10_000, processes=os.cpu_count() or 1)
            found = measure(machine, running, scans)
            if turn:  # the first warms up
                turns[way].setdefault(name, []).append(found)
    result = []
    for way, found_by_name in turns.items():
        for count in machine.counts:
            name = _cards(count)
            what = f"{scale.quick:,} JPEGs of 512 x 512 to masks and overlays, {way}"
            rates = [turn.rate for turn in found_by_name[name]]
            result.append(Figure(name=f"SegFormer-B5, {way}, {name}", unit="scans/s", values=rates, definition=what))
            if count > 1:
                aim = QUICK_AIMS.get(count) if way == "backlog" else None
                result.append(over_one(name, found_by_name, _cards(1), Target(least=aim) if aim else None))
            result += wall(f"{way}, {name}", found_by_name[name], count)
    return result


# ------------------------------------------------------------------------------------------------------------- part 4


def two_models(machine: Machine, scale: Scale, folder: Path, slow: Sections, fast: Sections) -> list[Figure]:
    """Shares of 3 to 1, then a third model that has work and no room, while the others have a backlog."""
    devices = machine.devices(machine.count)
    if machine.gpu:
        # On one card both are to fit, on several the third is not to fit beside the quick one.
        limit = LIMIT_GIB if machine.count > 1 else LIMIT_GIB + 4
        devices |= {"max_memory_gib": limit, "reserve_gib": 4.0, "idle_minutes": 0.05, "minimum_minutes": 0.05}
    wanted = sections_of(
        model={**slow, "share": 3.0},
        devices=devices,
        **{
            "models.quick": {**fast, "share": 1.0},
            "profiles.quick": {"folder": "quick", "model": "quick"},
        },
        **({"models.third": slow, "profiles.third": {"folder": "third", "model": "third"}} if machine.gpu else {}),
    )
    with alive({"both": wanted}) as services:
        running = services["both"]
        counts = {"default": scale.slow * machine.count * 2, "quick": scale.quick // 2}
        if machine.gpu:
            counts["third"] = scale.slow // 2
        made = {
            name: make_pictures(folder / name, count, first=place * 10_000, processes=os.cpu_count() or 1)
            for place, (name, count) in enumerate(counts.items())
        }
        running.say("pause")
        for name, scans in made.items():
            scans.rename(running.inbox / name)
        total = sum(counts.values())
        running.wait(lambda: running.totals().get("job.queued", 0) >= total, 120)
        where = {each["model"]: 0 for each in running.live()["replicas"]}
        for each in running.live()["replicas"]:
            where[each["model"]] += len(each["devices"])
        began = time.monotonic()
        running.say("resume")
        wait_for(running, total)
        seconds = time.monotonic() - began
        states = running.totals()
        assert states.get("job.succeeded") == total, states
        rows = running.rows(
            "SELECT json_extract(placement, '$.model_name'), started_at, ready_at, ended_at FROM replica ORDER BY id"
        )
    result = [
        Figure(
            name="two models by 3 to 1: cards of each",
            unit="cards",
            values=[float(where.get("default", 0)), float(where.get("quick", 0))],
            definition="the one with share 3, the one with share 1, at the start",
        ),
        Figure(
            name="  all of their scans, with a swap for a third",
            unit="s",
            values=[seconds],
            definition=f"{total} scans: {', '.join(f'{each} {name}' for name, each in counts.items())}; all succeeded",
        ),
    ]
    if machine.gpu:
        (_, began_at, ready_at, _), *_ = (row for row in rows if row[0] == "third")
        left = max(row[3] for row in rows if row[3] is not None and row[3] <= began_at)
        result.append(
            Figure(
                name="  the swap, over the load that is in it",
                unit="ratio",
                values=[(moment(ready_at) - moment(left)) / (moment(ready_at) - moment(began_at))],
                definition=f"from the end of who gave its place to ready, {moment(ready_at) - moment(left):.1f} s",
            )
        )
    return result
