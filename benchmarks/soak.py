"""A soak: many small scans come in bursts while the daemon is killed, stopped and robbed of its replica.

    python -m benchmarks.soak [--files 100000] [--kills 8] [--seed 1] [--folder DIR]
    python -m benchmarks.soak --stopped 30000

Then database and disk are added up: every name that was dropped has exactly one result, nothing was computed twice,
nothing is half-written, and the main process has not grown. A broken promise gives exit code 1. The segmenter is
``none``: this is about everything but the model.

``--stopped``: so many files are created while the daemon is stopped by SIGSTOP, which overflows the kernel's queue of
file events (16,384). Only the one sweep that follows the overflow can find the rest: the next is an hour away.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.adding_up import Check, Dropped, add_up
from benchmarks.running import DaemonDiedError, Running, small_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DUPLICATES = 0.1
"""Share of the names that hold the bytes of an earlier one."""
BACKLOG = 0.25
"""Share of all files that may wait: enough to show what a backlog costs in memory."""
HARM_ENDS = 0.4
"""The daemon is killed before so much is done; memory is watched from there on, in one process."""
STALLED_SECONDS = 180.0
GROWTH = 1.10
LIMIT_MIB = 200.0

SECTIONS: dict[str, dict[str, Any]] = {
    "inbox": {"settle_seconds": 0.2},
    "outbox": {"outputs": ["mask"]},
    "model": {"segmenter": "none"},
    "log": {"level": "warning"},
}
ONE_SWEEP = {"inbox": {**SECTIONS["inbox"], "sweep_seconds": 3600}}


# ------------------------------------------------------------------------------------------------------------ the plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """Files that come together. ``how``: written in place, renamed into the inbox, or with their folder."""

    how: str
    folder: Path
    files: tuple[Dropped, ...]


def plan(files: int, chance: random.Random) -> Iterator[Burst]:
    """Bursts of files with names and contents of their own, but for the duplicates."""
    made = contents = 0
    while made < files:
        count = min(files - made, chance.choice((1, 5, 50, 200, 500)))
        folder = _folder(chance, made)
        dropped = []
        for number in range(made, made + count):
            if contents and chance.random() < DUPLICATES:
                content = chance.randrange(contents)
            else:
                content, contents = contents, contents + 1
            dropped.append(Dropped(name=folder / _name(number), content=content))
        yield Burst(how=chance.choice(("written", "renamed", "folder")), folder=folder, files=tuple(dropped))
        made += count


def _folder(chance: random.Random, made: int) -> Path:
    depth = chance.randrange(4)
    return Path(*(f"ward {chance.randrange(20)}" for _ in range(depth)), f"burst {made}")


def _name(number: int) -> str:
    """Most are plain; some are not UTF-8, some share all but the extension with the name before."""
    if number % 100 == 99:
        return os.fsdecode(b"M\xfcller %d.png" % number)
    if number % 100 == 50:
        return f"scan-{number - 1:06d}.PNG"
    return f"scan-{number:06d}.png"


def drop(burst: Burst, running: Running) -> None:
    """Have the files of a burst come into the inbox."""
    inbox, outside = running.inbox, running.folder / "outside"
    root = inbox if burst.how == "written" else outside
    (root / burst.folder).mkdir(parents=True, exist_ok=True)
    for file in burst.files:
        (root / file.name).write_bytes(small_scan(file.content))
    if burst.how == "folder":
        (inbox / burst.folder).parent.mkdir(parents=True, exist_ok=True)
        (outside / burst.folder).rename(inbox / burst.folder)
    elif burst.how == "renamed":
        (inbox / burst.folder).mkdir(parents=True, exist_ok=True)
        for file in burst.files:
            (outside / file.name).rename(inbox / file.name)


# ------------------------------------------------------------------------------------------------------------ the soak


@dataclass(slots=True)
class Life:
    """One life of the main process, from ready on: (done, PSS, RSS, CPU seconds) as time goes by."""

    samples: list[tuple[int, float, float, float]] = field(default_factory=list)

    def pss_at(self, place: float) -> float:
        """Median PSS in MiB around a share of the work that was done in this life."""
        first, last = self.samples[0][0], self.samples[-1][0]
        middle = first + place * (last - first)
        near = sorted(self.samples, key=lambda sample: abs(sample[0] - middle))
        return statistics.median(sample[1] for sample in near[: max(3, len(near) // 10)])

    @property
    def cpu_ms_each(self) -> float:
        """Milliseconds of CPU for a name that was done."""
        done = self.samples[-1][0] - self.samples[0][0]
        return 1000 * (self.samples[-1][3] - self.samples[0][3]) / max(1, done)


class Soak:
    """Drops, harms, watches."""

    def __init__(self, running: Running, files: int, kills: int, seed: int) -> None:
        self._running = running
        self._files = files
        self._chance = random.Random(seed)
        self._bursts = plan(files, self._chance)
        self._next: Burst | None = next(self._bursts)
        self.dropped: list[Dropped] = []
        self.lives = [Life()]
        self.kills = self.kills_while_starting = 0
        at = sorted(self._chance.uniform(0.01, HARM_ENDS) for _ in range(kills))
        self._harms: list[tuple[float, Callable[[], None]]] = [(share, self._kill) for share in at]
        self._harms += [(HARM_ENDS + 0.02, self._kill_replica), (HARM_ENDS + 0.05, self._stop_and_go)]
        self._sampled = self._moved = time.monotonic()
        self._done = 0

    def run(self) -> float:
        """Until all is done; seconds. Raises TimeoutError when nothing moves any more, and `DaemonDiedError`."""
        began = time.monotonic()
        self._running.start()
        self._running.ready()
        while self._next or len(self.dropped) > self._done or not self._running.at_rest():
            self._watch()
            if self._next and len(self.dropped) - self._done < max(500, BACKLOG * self._files):
                self._drop()
            elif self._harms and self._done > self._harms[0][0] * self._files:
                self._harms.pop(0)[1]()
            else:
                time.sleep(0.1)
        return time.monotonic() - began

    def _drop(self) -> None:
        assert self._next is not None
        drop(self._next, self._running)
        self.dropped += self._next.files
        self._next = next(self._bursts, None)

    def _watch(self) -> None:
        """Twice a second, look at progress and memory."""
        now = time.monotonic()
        if now - self._sampled < 0.5:
            return
        self._sampled = now
        self._running.must_live()
        totals = self._running.totals()
        ended = ("job.succeeded", "job.failed", "job.quarantined", "arrival.duplicate")
        done = sum(totals.get(name, 0) for name in ended)
        if done != self._done:
            self._done, self._moved = done, now
        elif now - self._moved > STALLED_SECONDS:
            raise TimeoutError(f"nothing has moved for {STALLED_SECONDS:.0f} s: {totals}")
        usage = self._running.usage()
        self.lives[-1].samples.append((done, usage.pss_mib, usage.rss_mib, usage.cpu_seconds))

    def _kill(self) -> None:
        """SIGKILL at a moment of chance, and a third of the times once more while it starts again."""
        time.sleep(self._chance.random())
        self._running.kill()
        self.kills += 1
        self._running.start()
        if self._chance.random() < 1 / 3:
            time.sleep(self._chance.uniform(0.3, 2.0))
            self._running.kill()
            self.kills += 1
            self.kills_while_starting += 1
            self._running.start()
        self._running.ready()
        self.lives.append(Life())

    def _kill_replica(self) -> None:
        for replica in self._running.live()["replicas"]:
            if replica["pid"]:
                os.kill(replica["pid"], signal.SIGKILL)

    def _stop_and_go(self) -> None:
        """A burst comes while the daemon is stopped."""
        self._running.signal(signal.SIGSTOP)
        while self._next and self._next.how != "written":
            self._drop()
        if self._next:
            self._drop()
        time.sleep(1)
        self._running.signal(signal.SIGCONT)


def soak(running: Running, files: int, kills: int, seed: int) -> list[Check]:
    """Run it and add up."""
    work = Soak(running, files, kills, seed)
    seconds = work.run()
    life = work.lives[-1]
    exit_code = running.stop()
    peak = max(sample[2] for life in work.lives for sample in life.samples)
    start, middle, end = life.pss_at(0.1), life.pss_at(0.5), life.pss_at(1.0)
    return [
        Check("names dropped", len(work.dropped)),
        Check("killed by SIGKILL", work.kills),
        Check("  of these while starting", work.kills_while_starting),
        Check("seconds", round(seconds, 1)),
        Check("names a second, all harm included", round(files / seconds, 1)),
        Check("CPU of the main process for a name, ms", round(life.cpu_ms_each, 2)),
        Check("memory (PSS) of the main process at the start, MiB", round(start, 1)),
        Check("  in the middle", round(middle, 1), allowed=start * GROWTH),
        Check("  at the end", round(end, 1), allowed=start * GROWTH),
        Check("peak RSS of any main process, MiB", round(peak, 1), allowed=LIMIT_MIB),
        Check("exit code at the end", exit_code, allowed=0),
        *add_up(running, work.dropped, small_scan),
    ]


def stopped(running: Running, files: int) -> list[Check]:
    """Files that come while the daemon is stopped are found by the one sweep that follows."""
    running.start()
    running.ready()
    time.sleep(1)
    running.signal(signal.SIGSTOP)
    dropped = tuple(Dropped(name=Path(_name(number)), content=number) for number in range(files))
    burst = Burst(how="written", folder=Path(), files=dropped)
    drop(burst, running)
    began = time.monotonic()
    running.signal(signal.SIGCONT)

    def taken() -> bool:
        totals = running.totals()
        return totals.get("arrival.queued", 0) + totals.get("arrival.duplicate", 0) >= files

    running.wait(taken, STALLED_SECONDS + files / 200, every=0.1)
    seconds = time.monotonic() - began
    usage = running.usage()
    running.wait(lambda: running.totals().get("job.succeeded", 0) >= files, STALLED_SECONDS + files / 10, every=1)
    running.wait(running.at_rest, STALLED_SECONDS, every=0.5)
    running.stop()
    return [
        Check("files created while it was stopped", files),
        Check("seconds from SIGCONT until all were queued", round(seconds, 1)),
        Check("queued a second, settling included", round(files / seconds)),
        Check("RSS of the main process then, MiB", round(usage.rss_mib, 1), allowed=LIMIT_MIB),
        *add_up(running, dropped, small_scan),
    ]


def report(checks: Sequence[Check]) -> int:
    """Print the table; the exit code."""
    for check in checks:
        verdict = "" if check.allowed is None else "ok" if check.holds else f"BROKEN (at most {check.allowed:g})"
        print(f"{check.what:<58}{check.value:>12,}  {verdict}")
        for example in check.examples[:5]:
            print(f"    {example}")
    return 0 if all(check.holds for check in checks) else 1


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stopped", type=int, metavar="FILES", help="the run with a stopped daemon instead")
    parser.add_argument("--folder", type=Path, help="where the folders are made; removed when all is well")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemon is ended too
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=wanted.folder))
    running = Running(folder, **(SECTIONS if wanted.stopped is None else SECTIONS | ONE_SWEEP))
    try:
        checks = (
            soak(running, wanted.files, wanted.kills, wanted.seed)
            if wanted.stopped is None
            else stopped(running, wanted.stopped)
        )
        code = report(checks)
    except (DaemonDiedError, TimeoutError) as error:
        print(f"BROKEN: {error}", file=sys.stderr)
        code = 1
    finally:
        running.end()
    if code == 0:
        shutil.rmtree(folder)
    else:
        print(f"What is left lies in {folder}.", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
