"""One item's error costs that item: it is set aside with its reason, and tried again after growing pauses.

Every loop of the daemon hands its items to `SetAside`. What is set aside has an event in the history, one traceback in
the log, a counter, and a line in ``status`` and ``doctor``; it is tried again at the next start, too. Only what
concerns all, the database, the disk or a broken invariant of our own, goes through (`concerns_all`): it pauses or ends
the service.

An item may also end the whole process. What is being handled is therefore written to a small file (`Marks`); the next
start finds it there. After `STARTS` starts that it ended, alone, it is left alone until a person asks for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from watcherd.errors import EXHAUSTED, StoreError, TransientError, WatcherdError
from watcherd.file_names import show, storable
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError, is_passing
from watcherd.store import UnreadableRowError, aside, stamp
from watcherd.store.aside import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from watcherd.pauses import Pauses
    from watcherd.store import ArrivalInfo, Connection, Database

T = TypeVar("T")

PAUSES = (30.0, 120.0, 600.0, 3600.0)
"""Seconds before an item is tried again that failed once, twice, ...; the last one also after all others."""

LOOPS = (
    "intake",
    "sidecars",
    "decode",
    "runs",
    "draw",
    "stage",
    "publish",
    "recover",
    "names",
    "dispose",
    "hooks",
    "commands",
)
"""The loops that set aside, in the order of a scan's way."""

REPEATED = ("decode", "runs", "draw", "stage")
"""Of these, steps of a job's attempt: the queue says when there is another."""

TRIED_AGAIN = ("publish", "recover", "names", "dispose")
"""Of these, what has its items poked when they are due; the others come back with a sweep or from the queue."""

SLOTS = ("intake", "publish", "names", "last")
"""Places in the file of marks: of the loops that touch what others put there, and of the item whose error ended all."""
SLOT_BYTES = 1 << 14
"""Bytes of one place in that file."""

LENGTH = 4
"""Bytes of a mark's own length in front of it."""

_ENDED = "the service ended while it was handled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """An item. ``key``: the same for as long as it is the same item, whatever loop has it. ``item``: for people."""

    key: str
    item: str
    job_id: int | None = None
    arrival_id: int | None = None


def job_named(job_id: int, doing: str = "") -> Named:
    """What is still to be done for a job; ``doing``: one step of it, which the queue repeats."""
    return Named(key=f"{doing} job {job_id}".strip(), item=f"job {job_id}", job_id=job_id)


def arrival_named(arrival: ArrivalInfo, doing: str = "") -> Named:
    """What is still to be done for one dropped name; ``doing`` tells things apart that are done within each other."""
    key = f"{doing} arrival {arrival.id}".strip()
    return Named(key=key, item=arrival.source, job_id=arrival.job_id, arrival_id=arrival.id)


def file_named(path: bytes, size: int, mtime_ns: int) -> Named:
    """A file of the inbox as it was seen; another one under its name is another item."""
    return Named(key=f"file {size} {mtime_ns} {show(path)}", item=show(path))


def path_named(path: bytes) -> Named:
    """Whatever lies at a path of the inbox."""
    return Named(key=f"path {show(path)}", item=show(path))


def concerns_all(error: BaseException) -> bool:
    """Whether an error says something about the service as a whole rather than about the item at hand."""
    if isinstance(error, UnreadableRowError):
        return False
    if isinstance(error, StoreError | StoppedError) or not isinstance(error, Exception):
        return True
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return True
    return isinstance(error, OSError | TransientError) and is_passing(error)


class SetAside:
    """What is set aside, for all loops: their threads share it."""

    def __init__(
        self,
        database: Database,
        pauses: Pauses,
        *,
        run_id: int | None,
        marks: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._pauses = pauses
        self._run_id = run_id
        self._clock = clock
        self._marks = Marks(marks)
        self._log = get_logger()
        self._lock = threading.Lock()
        self._held: dict[str, Aside] = {}
        self._until: dict[str, float] = {}
        self._suspects: set[str] = set()
        self.counts: Counter[str] = Counter(dict.fromkeys(LOOPS, 0))
        """How often something was set aside since the start, by loop."""

    # ---------------------------------------------------------------------------------------------------- the start

    def begin(self) -> None:
        """Learn what earlier runs have set aside, and what the last one ended with; all is due but what is left alone.

        Commands are not given again: whoever gave one was told. Jobs that have ended say themselves why.
        """
        with self._database.reader() as connection:
            found = aside.everything(connection)
            ended = aside.ended(connection, {item.job_id for item in found.values() if item.loop in REPEATED})
        past = [
            key
            for key, item in found.items()
            if item.loop == "commands" or (item.loop in REPEATED and item.job_id in ended)
        ]
        if past:
            self._database.write(lambda c: aside.forget(c, past))
        self._held = {key: item for key, item in found.items() if key not in past}
        for mark in self._marks.found():
            self._suspects.update(mark.get("keys", ()))
            if (alone := mark.get("alone")) is not None:
                self._blame(mark["loop"], Named(**alone))
        self._marks.clear()
        self._until = {
            key: float("inf") if item.left_alone else self._clock()
            for key, item in self._held.items()
            if item.left_alone or item.loop in TRIED_AGAIN
        }

    def _blame(self, loop: str, named: Named) -> None:
        """The last run died, and this is what it did."""
        before = self._held.get(named.key)
        item = replace(before or self._aside(loop, named, _ENDED), ended=before.ended + 1 if before else 1)
        if item.left_alone:
            item = replace(item, error=f"{_ENDED}, {item.ended} times; it is left alone until somebody asks for it")
            self._log.error("left_alone", kind=loop, job_id=named.job_id, source=named.item, reason=item.error)
        self._held[named.key] = item

        def work(connection: Connection) -> None:
            aside.keep(connection, named.key, item)
            aside.tell(connection, item, run_id=self._run_id, now=datetime.now(UTC))

        self._database.write(work)
        self.counts[loop] += 1

    def reload(self) -> None:
        """A person has asked for something that was set aside: what the history does not name any more is due."""
        with self._database.reader() as connection:
            there = aside.everything(connection)
        with self._lock:
            for key in [key for key in self._held if key not in there]:
                self._until.pop(key, None)
                if self._held[key].loop in TRIED_AGAIN:
                    self._held[key] = replace(self._held[key], ended=0)
                else:
                    del self._held[key]

    # ----------------------------------------------------------------------------------------------------- the rule

    def each(
        self,
        loop: str,
        values: Sequence[T],
        named: Callable[[T], Named],
        work: Callable[[Sequence[T]], object],
        *,
        waits: bool = True,
    ) -> list[T]:
        """Do ``work`` with all values that are not set aside, and set aside what fails; the values not dealt with.

        All at once; where that fails, one by one, so ``work`` must bear being done again. Those that the last run died
        with come one by one from the start, and after the others. ``waits``: whether what is set aside waits here; not
        where the queue says when it comes again.
        """
        wary: list[T] = []  # they come alone
        trusted: list[T] = []
        rest: list[T] = []
        for value in values:
            key = named(value).key
            (rest if self.holds(key) else wary if self._is_suspect(key) else trusted).append(value)
        if len(trusted) == 1 or (trusted and not self._together(trusted, work)):
            wary = trusted + wary
        wary.sort(key=lambda value: self._ended(named(value).key))
        return rest + [
            value for value in wary if not self.alone(loop, named(value), partial(work, [value]), waits=waits)
        ]

    def _is_suspect(self, key: str) -> bool:
        return key in self._held or (bool(self._suspects) and short(key) in self._suspects)

    def _together(self, values: Sequence[T], work: Callable[[Sequence[T]], object]) -> bool:
        try:
            work(values)
        except Exception as error:
            if isinstance(error, StoppedError) or is_passing(error):
                raise
            return False  # whose error it is shows when each is done by itself
        return True

    def alone(self, loop: str, named: Named, work: Callable[[], object], *, waits: bool = True) -> bool:
        """Do ``work`` with one item; False when that failed, and it is set aside."""
        try:
            work()
        except Exception as error:
            if not concerns_all(error):
                self.put(loop, named, error, waits=waits)
                return False
            if not (isinstance(error, StoppedError | OSError) or is_passing(error)):
                self._marks.begin("last", loop, [named])  # this ends the service
            raise
        self.done(named.key)
        return True

    @contextlib.contextmanager
    def marked(self, loop: str, items: Sequence[Named]) -> Iterator[None]:
        """What is done in here may end the whole process: the next start is to know with which items."""
        self._marks.begin(loop, loop, items)
        try:
            yield
        except Exception:  # not for what ends the process
            self._marks.end(loop)
            raise
        self._marks.end(loop)

    # --------------------------------------------------------------------------------------------- what is set aside

    @property
    def holds_anything(self) -> bool:
        """Whether it is worth asking."""
        return bool(self._until)

    def holds(self, key: str) -> bool:
        """Whether an item is set aside and not due yet."""
        return key in self._until and self._until[key] > self._clock()

    def put(self, loop: str, named: Named, error: BaseException, *, waits: bool = True) -> None:
        """Set an item aside."""
        with self._lock:
            before = self._held.get(named.key)
            words = in_words(error)
            item = self._aside(loop, named, words) if before is None else replace(before, loop=loop, error=words)
            item = replace(item, times=item.times + 1)
            pause = PAUSES[min(item.times, len(PAUSES)) - 1] if waits else 0.0
            self._held[named.key] = item
            if item.left_alone or waits:
                self._until[named.key] = float("inf") if item.left_alone else self._clock() + pause
            self.counts[loop] += 1
        said = {"kind": loop, "job_id": named.job_id, "source": named.item, "error": words, "wait_s": round(pause)}
        if before is None or before.error != words:
            self._log.error("set_aside", exc_info=error, **said)
        else:
            self._log.warning("set_aside_again", attempt=item.times, **said)

        def work(connection: Connection) -> None:
            aside.keep(connection, named.key, item)
            aside.tell(connection, item, run_id=self._run_id, now=datetime.now(UTC))

        self._pauses.until_possible("state", lambda: self._database.write(work))

    def reason(self, key: str) -> str:
        """Why an item is set aside; empty when a person has asked for it meanwhile."""
        item = self._held.get(key)
        return item.error if item else ""

    def done(self, key: str) -> None:
        """An item was handled."""
        if self._suspects:
            self._suspects.discard(short(key))
        if key not in self._held:
            return
        self._pauses.until_possible("state", lambda: self._database.write(lambda c: aside.forget(c, [key])))
        with self._lock:
            self._held.pop(key, None)
            self._until.pop(key, None)

    def job_ended(self, job_id: int) -> None:
        """A job has failed for good, and says itself why."""
        for key, held in list(self._held.items()):
            if held.job_id == job_id and held.loop in REPEATED:
                self.done(key)

    def gone(self, item: str) -> None:
        """A file of the inbox is not there any more: nothing is to be done about it."""
        for key, held in list(self._held.items()):
            if held.item == item and held.job_id is None:
                self.done(key)

    def due(self) -> bool:
        """Whether the time has come of something that nobody brings back by himself."""
        now = self._clock()
        return any(self._until.get(key, now) <= now for key in self._tried_again())

    def held(self) -> Collection[int]:
        """The arrivals that are set aside and not due yet."""
        held = [item for key, item in list(self._held.items()) if self.holds(key)]
        return {item.arrival_id for item in held if item.arrival_id is not None}

    def results(self) -> tuple[Collection[int], Collection[int]]:
        """The jobs and the arrivals whose promised results are set aside."""
        items = [item for item in list(self._held.values()) if item.loop in ("publish", "recover")]
        of_names = {item.arrival_id for item in items if item.arrival_id is not None}
        return {item.job_id for item in items if item.job_id is not None and item.arrival_id is None}, of_names

    def open(self) -> tuple[int, Collection[int]]:
        """How many jobs wait with their results set aside, and all arrivals of which something is."""
        arrivals = {item.arrival_id for item in list(self._held.values()) if item.arrival_id is not None}
        return len(self.results()[0]), arrivals

    def files(self) -> list[str]:
        """The files of the inbox that are set aside, as they are shown."""
        return [item.item for item in list(self._held.values()) if item.loop in ("intake", "sidecars")]

    def _tried_again(self) -> list[str]:
        return [key for key, item in list(self._held.items()) if item.loop in TRIED_AGAIN]

    def _ended(self, key: str) -> int:
        item = self._held.get(key)
        return item.ended if item else 0

    def _aside(self, loop: str, named: Named, error: str) -> Aside:
        since = stamp(datetime.now(UTC))
        return Aside(
            loop=loop, item=named.item, error=error, since=since, job_id=named.job_id, arrival_id=named.arrival_id
        )


def in_words(error: BaseException) -> str:
    """An error on one line; of those that nobody foresaw, with their type."""
    words = str(error) if isinstance(error, WatcherdError) else f"{type(error).__name__}: {error}"
    return storable(" ".join(words.split()))


class Marks:
    """Which items are being handled: a small file with a place for each loop that may end the process.

    It has to outlive the process, not the machine, so nothing is synced: a mark costs two system calls.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def begin(self, slot: str, loop: str, items: Sequence[Named]) -> None:
        """These are being handled."""
        alone = asdict(items[0]) if len(items) == 1 else None
        self._write(slot, {"loop": loop, "keys": [short(item.key) for item in items], "alone": alone})

    def end(self, slot: str) -> None:
        """Nothing is being handled there."""
        os.pwrite(self._open(), bytes(LENGTH), SLOTS.index(slot) * SLOT_BYTES)

    def found(self) -> list[dict[str, Any]]:
        """What a process that died has left."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        marks = []
        for start in range(0, len(content), SLOT_BYTES):
            count = int.from_bytes(content[start : start + LENGTH], "little")
            with contextlib.suppress(ValueError):  # it died while it wrote the mark: before it handled anything
                marks.append(json.loads(content[start + LENGTH : start + LENGTH + count]))
        return marks

    def clear(self) -> None:
        """Forget all of it."""
        for slot in SLOTS:
            self.end(slot)

    def _write(self, slot: str, mark: dict[str, Any]) -> None:
        content = json.dumps(mark).encode()
        if len(content) > SLOT_BYTES - LENGTH:  # a very long name: its key tells which item it is
            content = json.dumps(mark | {"alone": None}).encode()[: SLOT_BYTES - LENGTH]
        os.pwrite(self._open(), len(content).to_bytes(LENGTH, "little") + content, SLOTS.index(slot) * SLOT_BYTES)

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self._file


def short(key: str) -> str:
    """What stands for an item's key in the file of marks, however long the key is."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
