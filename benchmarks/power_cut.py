"""Cut the power again and again: what lies on the disk at that moment, and nothing that was in memory only, must do.

    python -m benchmarks.power_cut [--cuts 300] [--seed 1] [--only ext4-1 ...] [--folder DIR]
    python -m benchmarks.power_cut --without-each [--cuts 40]

The disks of the daemon are files on an XFS image, which is itself a file. Such a file is cloned in milliseconds
(reflink) while the daemon runs: before or after one of its syncs, or at any moment. Later each clone is mounted, which
replays the journal of its file system as a machine's next start would; the daemon is started on it, and everything is
added up. *Lost*: the bytes of a scan that the history has are nowhere. *Half-written*: a result is visible that is not
whole, or a copy is not. *Double*: a job was done twice, or a name has two results.

There are four kinds of disks: ext4 and XFS, one disk for all (ext4-1, xfs-1) or one for the state folder and one for
inbox, outbox and archive (ext4-2, xfs-2). Others can be asked for: btrfs; an inbox alone on its disk, whose scans are
kept there (ext4-in); ext4 from which the names are taken away that nobody has synced (posix-2: `forgotten_names`). What
a disk has in a cache of its own is taken to be on it: a forgotten sync is found here, a forgotten flush of a drive is
not.

``--without-each``: once more for each sync of the program, with that one taken out of a copy of the tree (guards.toml):
bad cuts have to be found then, by a look at what lies there (``--no-start``).

Needs root, loop devices and xfsprogs; where they are missing it says so, and exits with 77.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import math
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.forgotten_names import Record, Unsynced, forget, unsynced
from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Dropped, Service, broken, png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SHIM = Path(__file__).with_suffix(".c")
SKIPPED = 77
"""Exit code that says: cannot be tried on this machine (automake's convention)."""
FICLONE = 0x40049409
"""The request of ioctl_ficlone(2)."""

HOST_BYTES = 40 << 30
"""Size of the XFS image, of which only what is written takes room."""
DISK_BYTES = 320 << 20
"""Size of a disk: mkfs.xfs makes none below 300 MB."""
ROUND = 25
"""Cuts during one life of a daemon; each is looked at when that has ended."""
STOPPED_SECONDS = 10.0
"""How long it may take until every thread of the daemon stands still: one may be in the middle of a sync."""
SYNC_SECONDS = 5.0
"""How long to wait for the daemon's next sync, before the cut is made all the same."""

KINDS = tuple(f"{fs}-{disks}" for fs in ("ext4", "xfs", "btrfs", "posix") for disks in ("1", "2", "in"))
"""File systems, and what is on which disk."""
USUAL = ("ext4-1", "ext4-2", "xfs-1", "xfs-2")
TELLING = ("ext4-2", "xfs-2", "btrfs-2", "posix-2", "ext4-in", "xfs-in", "posix-in")
"""Those on which a sync that was taken out can be missed: on one disk for all, others make up for most."""
OPTIONS = {"ext4": "loop,commit=300", "xfs": "loop,nouuid", "btrfs": "loop,commit=300", "posix": "loop,commit=300"}
"""Mount options: what can be told to commits by itself so seldom that only what is synced counts. XFS refuses a clone
while its original, or another clone, is still mounted for a process that is about to end."""
MAKE = {
    "ext4": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q", "--mixed"),
    "posix": ("mkfs.ext4", "-q"),
}


class MissingError(Exception):
    """This machine cannot do it, and why."""


# ------------------------------------------------------------------------------------------------------------ the disks


def run(*command: str | Path) -> None:
    """Run a program. Raises `MissingError` with its complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise MissingError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(image: Path, at: Path, options: str = "loop") -> Iterator[Path]:
    """The file system in ``image``."""
    at.mkdir(parents=True, exist_ok=True)
    try:
        run("mount", "-o", options, image, at)
        yield at
    finally:
        for _ in range(50):  # a process that was just killed may still hold it
            if not at.is_mount() or subprocess.run(["umount", at], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "-l", at], check=True)


def empty(image: Path, size: int, *make: str) -> Path:
    """A new file system in a file."""
    with image.open("wb") as file:
        file.truncate(size)
    run(*make, image)
    return image


def clone(image: Path, to: Path) -> None:
    """A copy that shares its blocks with the original, as that is at this moment."""
    with image.open("rb") as source, to.open("wb") as target:
        fcntl.ioctl(target, FICLONE, source.fileno())


# -------------------------------------------------------------------------------------------------------------- the cut


class Plug:
    """Stops a daemon, at one of its syncs or at once; `library` has to be loaded by it."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "power_cut.so"
        run("cc", "-shared", "-fPIC", "-O1", "-o", self.library, SHIM)
        self.plan = folder / "plan"
        self.plan.write_bytes(bytes(mmap.PAGESIZE))
        with self.plan.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def stop(self, pid: int, when: int) -> bool:
        """Stop every thread. ``when``: 1 before a sync, 2 after one, 0 now; whether it was at a sync."""
        at_sync = False
        if when:
            self._memory[:4] = struct.pack("=i", when)
            at_sync = _wait(lambda: _states(pid) <= {"T"}, SYNC_SECONDS)
            self._memory[:4] = bytes(4)
        os.kill(pid, signal.SIGSTOP)
        if not _wait(lambda: _states(pid) <= {"T"}, STOPPED_SECONDS):
            raise TimeoutError(f"the daemon does not stand still: {_states(pid)}")
        return at_sync


def _states(pid: int) -> set[str]:
    """The states of a process's threads (proc(5))."""
    states = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            states.add((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states


def _wait(look: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to be so within these seconds."""
    until = time.monotonic() + seconds
    while not look():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


# ----------------------------------------------------------------------------------------------------------- the daemon


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What lay on the disks at one moment. ``when``: in words. ``unsynced``: names on each that go with the power."""

    number: int
    when: str
    images: tuple[Path, ...]
    unsynced: tuple[list[Unsynced], ...] = ()


@dataclass(slots=True)
class Found:
    """What was found on the disks of one kind."""

    cuts: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_cuts: int = 0
    examples: list[str] = field(default_factory=list)
    moments: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    forgotten: int = 0
    """Names that nobody had synced, and that were taken away."""

    def note(self, cut: Cut, problems: Sequence[str], forgotten: Sequence[str]) -> None:
        """What is wrong with a cut, and which names had not been synced."""
        self.forgotten += len(forgotten)
        self.cuts += 1
        self.moments[cut.when] += 1
        self.bad_cuts += bool(problems)
        for what in {sort_of(problem) for problem in problems}:
            self.bad[what] += 1
        if problems:
            without = f" (without {', '.join(forgotten)})" if forgotten else ""
            self.examples.append(f"cut {cut.number}, {cut.when}: {problems[0]}{without}")


def sort_of(problem: str) -> str:
    """Which of the three a sentence of the invariants tells of."""
    if "nowhere" in problem or "not in the spool" in problem or "not in the archive" in problem:
        return "lost"
    if "one result too many" in problem or "was done" in problem:
        return "double"
    if "has no result" in problem or "still" in problem:
        return "unfinished"
    return "half-written"


class Round:
    """One life of a daemon on disks of its own, and the cuts during it."""

    def __init__(self, host: Path, folder: Path, kind: str, chance: random.Random, plug: Plug) -> None:
        self._host, self._folder, self._chance, self._plug = host, folder, chance, plug
        self._fs, _, self._layout = kind.partition("-")
        self._disks = 1 if self._layout == "1" else 2
        self._images = [
            empty(host / f"disk-{number}", DISK_BYTES, *MAKE[self._fs]) for number in range(1, self._disks + 1)
        ]
        self._service = self._daemon()
        self._made = 0
        self._record = Record(folder / "record") if self._fs == "posix" else None
        self._devices: list[int] = []

    def _daemon(self) -> Service:
        """The same folders each time: the history has paths of them."""
        first, last = self._folder / "disk-1", self._folder / f"disk-{self._disks}"
        alone = self._layout == "in"
        inbox, outbox, state = last / "inbox", (first if alone else last) / "outbox", first / "state"
        service = Service(
            self._folder,
            inbox={
                "path": str(inbox),
                "archive_path": str(last / "archive"),
                "settle_limit_seconds": 0.5,
                "on_success": "keep" if alone else "archive",
            },
            outbox={"path": str(outbox)},
            state={"path": str(state)},
        )
        service.inbox, service.outbox, service.state = inbox, outbox, state
        return service

    @contextlib.contextmanager
    def _plugged_in(self, images: Sequence[Path]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for number, image in enumerate(images, 1):
                stack.enter_context(mounted(image, self._folder / f"disk-{number}", OPTIONS[self._fs]))
            yield

    def cut(self, count: int) -> list[Cut]:
        """Run the daemon, drop scans, and cut so often."""
        service, cuts = self._service, []
        with self._plugged_in(self._images):
            service.inbox.mkdir()
            subprocess.run(["sync", "-f", service.inbox], check=True)
            service.environment = {"LD_PRELOAD": str(self._plug.library), "WATCHERD_POWER_CUT": str(self._plug.plan)}
            if self._record is not None:
                service.environment["WATCHERD_POWER_CUT_LOG"] = str(self._record.file)
            self._devices = [(self._folder / f"disk-{number}").stat().st_dev for number in range(1, self._disks + 1)]
            service.start()
            try:
                service.ready()
                for number in range(count):
                    self._drop_some(late=2 * number >= count)
                    cuts.append(self._cut(number))
            finally:
                service.kill()
                service.environment = {}
        return cuts

    def _cut(self, number: int) -> Cut:
        time.sleep(self._chance.choice((0.0, 0.02, 0.1, 0.3, 0.6)) * self._chance.random())
        when = self._chance.choice((0, 1, 2))
        at_sync = self._plug.stop(self._service.pid, when)
        entries = self._record.entries() if self._record is not None else []
        images = tuple(self._host / f"cut-{number}-{image.name}" for image in self._images)
        try:
            for image, to in zip(self._images, images, strict=True):
                clone(image, to)
        finally:
            os.kill(self._service.pid, signal.SIGCONT)
        return Cut(
            number=number,
            when=("any moment", "before a sync", "after a sync")[when * at_sync],
            images=images,
            unsynced=tuple(unsynced(entries, device) for device in self._devices) if self._record is not None else (),
        )

    def _drop_some(self, *, late: bool) -> None:
        """As people copy files: nobody syncs them. New scans, the bytes of earlier ones, and a bad one now and then.

        Where the inbox is alone on its disk few come at a time, and many when it is ``late``: the one sync of a large
        batch would make up for those that small ones had lacked.
        """
        mixed = (1, 1, 3, 8) if self._layout != "in" else (6, 9) if late else (1, 2)
        for _ in range(self._chance.choice(mixed)):
            self._made += 1
            earlier = self._chance.random() < 0.2 and self._made > 5
            content = png(self._chance.randrange(1, self._made) if earlier else self._made)
            bad = self._chance.random() < 0.05
            folder = self._chance.choice(("", "ward/", f"new {self._made}/"))
            name = f"{folder}{self._made}.png"
            with self._recorded(name):
                self._service.drop(name, broken(self._made) if bad else content)

    def _recorded(self, name: str) -> contextlib.AbstractContextManager[None]:
        """What is dropped under this name, for the record."""
        if self._record is None:
            return contextlib.nullcontext()
        return self._record.dropping(self._folder, self._service.inbox / name)

    def look(self, cut: Cut, found: Found, *, start: bool) -> None:
        """Add up what lay on the disks, and again when the daemon has been started on it."""
        with self._plugged_in(cut.images):
            problems, forgotten, service = [], [], self._service
            for number, names in enumerate(cut.unsynced, 1):
                forgotten += forget(self._folder / f"disk-{number}", names, self._chance)
            service.inbox.mkdir(exist_ok=True)
            taken = {Dropped(path=bytes(path), sha256=sha256) for path, sha256 in self._taken()}
            service.dropped = list(taken)
            found.taken += len(taken)
            problems += [*_told(check_at_any_moment, service), *_told(self._broken_promises, service)]
            if start:
                service.dropped += [one for one in self._in_the_inbox() if one not in taken]
                code = service.once()
                problems += [f"half-written: the daemon ended with {code}: {service.tail()[-300:]}"] if code else []
                problems += _told(check_invariants, service)
        found.note(cut, problems, forgotten)
        for image in cut.images:
            image.unlink()

    def _taken(self) -> list[tuple[bytes, str]]:
        """The files whose jobs are committed."""
        return self._service.rows(  # type: ignore[return-value]
            "SELECT arrival.path, scan.sha256 FROM arrival JOIN job ON job.id = arrival.job_id "
            "JOIN scan ON scan.id = job.scan_id"
        )

    def _broken_promises(self, service: Service) -> list[str]:
        """What the history says of files that are not so: staged, delivered, archived."""
        outputs = service.rows("SELECT state, staged_path, path, sha256 FROM output WHERE state <> 'removed'")
        archived = service.rows(
            "SELECT disposed_path, sha256 FROM arrival JOIN job ON job.id = arrival.job_id "
            "JOIN scan ON scan.id = job.scan_id WHERE disposal = 'archived'"
        )
        problems = []
        for state, staged, final, sha256 in outputs:
            places = [
                service.outbox / os.fsdecode(final),
                *([Path(os.fsdecode(staged))] if state == "intended" else []),
            ]
            if sha256 not in map(_digest, places):
                problems.append(f"half-written: {os.fsdecode(final)} is {state}, and is not there or holds other bytes")
        for path, sha256 in archived:
            if _digest(service.archive / os.fsdecode(path)) != sha256:
                problems.append(f"{os.fsdecode(path)} is not in the archive")
        return problems

    def _in_the_inbox(self) -> Iterator[Dropped]:
        """What lies there, whole or not: nobody has promised anything for what was not taken."""
        for path in self._service.inbox.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                relative = os.fsencode(path.relative_to(self._service.inbox))
                yield Dropped(path=relative, sha256=_digest(path))


def _digest(path: Path) -> str:
    """The SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _told(check: Callable[[Service], list[str]], service: Service) -> list[str]:
    """What a check says; one that cannot even read what it looks at has found something half-written."""
    try:
        return check(service)
    except (ValueError, KeyError, OSError) as error:
        return [f"half-written: {type(error).__name__}: {error}"]


# ------------------------------------------------------------------------------------------------------------- the runs


def trial(cuts: int, kinds: Sequence[str], seed: int, where: Path | None, *, start: bool) -> dict[str, Found]:
    """So many cuts over these kinds of disks. ``start``: whether the daemon is started on each.

    Raises `MissingError` where this machine cannot do it.
    """
    if os.geteuid() != 0:
        raise MissingError("needs root, to mount disks")
    chance = random.Random(seed)
    found = {kind: Found() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir=where) as name:
        folder = Path(name)
        plug = Plug(folder)
        image = empty(folder / "host", HOST_BYTES, "mkfs.xfs", "-q", "-m", "reflink=1")
        with mounted(image, folder / "on-host") as host:
            for number, count in enumerate(_shared_out(cuts, len(kinds))):
                kind = kinds[number % len(kinds)]
                life = Round(host, folder / f"round-{number}", kind, chance, plug)
                _live(life, count, found[kind], start=start)
                for left in host.iterdir():
                    left.unlink()
                print(f"{kind}: {found[kind].cuts} cuts, {found[kind].bad_cuts} bad", file=sys.stderr, flush=True)
    return found


def _shared_out(cuts: int, kinds: int) -> list[int]:
    """Cuts in each round, as many rounds for each kind."""
    rounds = max(1, math.ceil(cuts / ROUND / kinds)) * kinds
    return [cuts // rounds + (number < cuts % rounds) for number in range(rounds)]


def _live(life: Round, cuts: int, found: Found, *, start: bool) -> None:
    """Raises `MissingError` before there was any cut; later it is the trial that fails, and not the machine."""
    try:
        for cut in life.cut(cuts):
            life.look(cut, found, start=start)
    except MissingError as error:
        if not found.cuts:
            raise
        raise RuntimeError(f"The trial broke off: {error}") from error


KINDS_OF_TROUBLE = ("lost", "half-written", "double", "unfinished")


def report(found: dict[str, Found]) -> int:
    """Print the table; the exit code."""
    heads = ("disks", "cuts", "at a sync", "scans taken", "names forgotten", "bad cuts", *KINDS_OF_TROUBLE)
    print(("{:<10}" + "{:>16}" * (len(heads) - 1)).format(*heads))
    for kind, one in found.items():
        at_sync = one.cuts - one.moments["any moment"]
        figures = (
            one.cuts,
            at_sync,
            one.taken,
            one.forgotten,
            one.bad_cuts,
            *(one.bad[what] for what in KINDS_OF_TROUBLE),
        )
        print(f"{kind:<10}" + "".join(f"{figure:>16,}" for figure in figures))
        for example in one.examples[:3]:
            print(f"    {example}")
    bad = sum(one.bad_cuts for one in found.values())
    print(f"{sum(one.cuts for one in found.values())} cuts, {bad} bad")
    return 1 if bad else 0


def without_each(cuts: int, kinds: Sequence[str], seed: int, where: Path | None, words: str) -> int:
    """Take out one sync after the other, and cut: each has to be missed. The exit code."""
    from tools.guards import ROOT, copy_tree, guards, taken_out

    code = 0
    chosen = {guard.old: guard for guard in guards() if guard.sync and words in guard.what}
    with tempfile.TemporaryDirectory(prefix="power-cut-trees-") as folder:
        tree = copy_tree(ROOT, Path(folder, "tree"))
        for guard in chosen.values():
            options = [
                "--no-start",
                "--cuts",
                str(cuts),
                "--seed",
                str(seed),
                "--only",
                *kinds,
                *(("--folder", where) if where else ()),
            ]
            with taken_out(guard, tree):
                said, returned = _in_a_process(tree, options)
            total = said.splitlines()[-1] if said else f"exit code {returned}"
            print(f"{guard.promise:>3}  {guard.what:<70} {total}", flush=True)
            print("\n".join(f"       {line}" for line in said.splitlines()[1:-1]), flush=True)
            code |= returned != 1
    return code


def _in_a_process(tree: Path, options: Sequence[str | Path]) -> tuple[str, int]:
    """This module in a tree of its own; what it says, and its exit code. When this one is ended, that one is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.power_cut", *options],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said, _ = process.communicate()
    finally:
        process.terminate()  # not killed: it has disks to unmount
        process.wait()
    return said, process.returncode


def main() -> int:
    """Cut as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds of disks")
    parser.add_argument("--folder", type=Path, help="where the image is made: some GB while it runs")
    parser.add_argument("--no-start", action="store_true", help="only look at what lies there: quicker")
    parser.add_argument("--without-each", action="store_true", help="take out one sync after the other")
    parser.add_argument("--matching", default="", metavar="WORDS", help="of these, those with such words in them")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that disks are unmounted
    try:
        if wanted.without_each:
            return without_each(wanted.cuts, wanted.only or TELLING, wanted.seed, wanted.folder, wanted.matching)
        return report(trial(wanted.cuts, wanted.only or USUAL, wanted.seed, wanted.folder, start=not wanted.no_start))
    except MissingError as error:
        print(f"skipped: no power can be cut here: {error}")
        return SKIPPED


if __name__ == "__main__":
    sys.exit(main())
