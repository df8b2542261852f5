"""What a person asks of the daemon: retry, cancel, pause and so on, without a network port.

A command is a file in the state folder's ``commands``, put there by one rename; whoever may write that folder may
steer. The daemon carries it out, records how it went in the table ``command``, and removes the file. So there is one
writer of the database, always. While no daemon runs, the command line takes its lock and does the same itself.
"""

from __future__ import annotations

import fcntl
import grp
import json
import os
import time
import uuid
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import BusyError, UnavailableError, UsageError, WatcherdError
from watcherd.files import write_durably
from watcherd.housekeeping import prune
from watcherd.mending import repair
from watcherd.refetch import Refetch
from watcherd.store import Database, aside, identity, runs
from watcherd.store import queue as jobs
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from watcherd.config import Config
    from watcherd.inbox.spool import Spool

PAUSED_SINCE = "paused_since"
"""The setting that keeps a person's pause, with its time: it outlives the daemon."""
MOST_JOBS = 100_000
LOCK_TRIES = 50
LOCK_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One wish: ``verb`` with its arguments. ``id`` keeps it from being carried out twice."""

    id: str
    verb: str
    arguments: Mapping[str, Any]


def send(folder: Path, verb: str, arguments: Mapping[str, Any]) -> str:
    """Leave a command for the daemon; its id. Raises `UnavailableError` without permission."""
    command_id = uuid.uuid4().hex
    content = json.dumps({"id": command_id, "verb": verb, "arguments": arguments}).encode()
    try:
        write_durably(folder / f"{command_id}.json", content)
    except OSError as error:
        raise UnavailableError(
            f"The command cannot be left in {folder}: {error.strerror}.",
            hint="Run it as the service's user or as root.",
        ) from error
    return command_id


def waiting(folder: Path) -> Iterator[tuple[Path, Command | None]]:
    """Commands that were left, oldest first; None for a file that is none."""
    for path in sorted(filter(Path.is_file, folder.glob("[!.]*.json")), key=lambda path: path.stat().st_mtime_ns):
        try:
            content = json.loads(path.read_text())
            command = Command(id=str(content["id"]), verb=str(content["verb"]), arguments=dict(content["arguments"]))
            json.dumps(asdict(command), ensure_ascii=False).encode()
        except (ValueError, KeyError, TypeError, RecursionError):  # half a surrogate pair too: it cannot be recorded
            yield path, None
        else:
            yield path, command


def carry_out_all(folder: Path, database: Database, carry_out: Callable[[Command], str]) -> int:
    """Carry out what was left in ``folder`` and record how it went; how many there were."""
    count = 0
    for path, command in waiting(folder):
        if command is not None:
            _carry_out(command, database, carry_out)
            count += 1
        path.unlink(missing_ok=True)
    return count


def _carry_out(command: Command, database: Database, carry_out: Callable[[Command], str]) -> None:
    def receive(connection: Any) -> bool:
        return runs.receive_command(
            connection, command.id, command.verb, dict(command.arguments), now=datetime.now(UTC)
        )

    if not database.write(receive):
        return
    outcome, failure = "", None
    try:
        outcome = carry_out(command)
    except WatcherdError as error:
        outcome, failure = "refused", json.dumps([error.exit_code, error.message, error.hint])
    database.write(lambda c: runs.finish_command(c, command.id, outcome=outcome, error=failure, now=datetime.now(UTC)))


class JobSteering:
    """The commands that change jobs; for the daemon and for a command line that holds its lock."""

    def __init__(self, config: Config, database: Database, spool: Spool) -> None:
        self._config = config
        self._database = database
        self._spool = spool
        self._refetch = Refetch(config, database, spool)

    def carry_out(self, command: Command) -> str:
        """Do it; what was done, in words. Raises `UsageError` for what cannot be done."""
        ids = self._current(_ids(command.arguments.get("jobs", [])))
        now = datetime.now(UTC)
        if command.verb == "pause":
            self._database.write(lambda c: runs.set_setting(c, PAUSED_SINCE, stamp(now)))
            return "paused: nothing new is begun until `watcherd resume`"
        if command.verb == "resume":
            self._database.write(lambda c: runs.set_setting(c, PAUSED_SINCE, None))
            return "resumed"
        if command.verb == "retry":
            return self._retry(ids, now)
        if command.verb == "cancel":
            return _done("cancelled", ids, self._database.write(lambda c: jobs.cancel(c, ids, now=now)), "waiting")
        if command.verb == "prioritise":
            priority = int(command.arguments.get("priority", 0))
            moved = self._database.write(lambda c: jobs.prioritise(c, ids, priority, now=now))
            return _done(f"given priority {priority}", ids, moved, "waiting")
        if command.verb == "prune":
            trusted = bool(command.arguments.get("trust_clock", False))
            return f"pruned: {prune(self._config, self._database, self._spool, trust_clock=trusted)}"
        if command.verb == "repair":
            return repair(str(command.arguments.get("what")), self._config, self._database, now)
        raise UsageError(f"There is no command {command.verb!r}.", hint="The daemon may be of another version.")

    def _retry(self, ids: Sequence[int], now: datetime) -> str:
        """Ask for ended jobs again; a scan whose copy is gone is fetched from the archive."""
        released = self._database.write(lambda c: aside.forget_jobs(c, ids))
        lost = [job_id for job_id in ids if not self._has_bytes(job_id)]
        moved = self._database.write(
            lambda c: jobs.ask_again(c, [job_id for job_id in ids if job_id not in lost], now=now)
        )
        if lost:
            others = f" Queued again: {len(moved)}." if moved else ""
            raise UsageError(
                f"The bytes of job {', '.join(map(str, lost))} are neither in the spool nor in the archive or the "
                f"inbox.{others}",
                hint="Drop the scan into the inbox again.",
            )
        going_on = [job_id for job_id in released if job_id not in moved]
        words = _done("queued again", [job_id for job_id in ids if job_id not in going_on], moved, "ended")
        return words + (f"; what was set aside is tried again: {', '.join(map(str, going_on))}" if going_on else "")

    def _has_bytes(self, job_id: int) -> bool:
        with self._database.reader() as connection:
            if connection.exec_driver_sql("SELECT 1 FROM job WHERE id = ?", (job_id,)).scalar() is None:
                raise UsageError(f"There is no job {job_id}.", hint="See `watcherd jobs`.")
        return self._refetch.bring_back(job_id)

    def _current(self, ids: Sequence[int]) -> list[int]:
        """The jobs that these numbers stand for: some were joined with others."""
        with self._database.reader() as connection:
            return list(dict.fromkeys(identity.current(connection, job_id) for job_id in ids))


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(isinstance(i, int) for i in values):
        raise UsageError("A command names its jobs by their numbers.")
    if len(values) > MOST_JOBS:
        raise UsageError(
            f"{len(values):,} jobs are more than the {MOST_JOBS:,} that one command may name.",
            hint="Name fewer, for example those of one --error-class.",
        )
    return values


def _done(what: str, asked: Sequence[int], moved: Sequence[int], condition: str) -> str:
    rest = [job_id for job_id in asked if job_id not in set(moved)]
    words = f"{len(moved)} {what}"
    return words + (f"; not {condition}, so left alone: {', '.join(map(str, rest))}" if rest else "")


@contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Hold the state folder's lock, which says who is its one daemon. Raises `BusyError` with the holder's pid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if not _locked(descriptor):
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise BusyError(
                f"Another watcherd (pid {pid}) works on the state folder {path.parent}.",
                hint="Stop it first, or give this one a state folder of its own.",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def no_access(path: Path, error: OSError) -> UnavailableError:
    """What to say to somebody who may not read what ``path`` leads to, or whose disk does not answer."""
    if not isinstance(error, PermissionError):
        return UnavailableError(f"{path} cannot be read: {error.strerror}.", hint="Look at the disk that holds it.")
    return UnavailableError(f"You may not read {path}.", hint=f"Run it as root, or {who_may(path)}.")


def who_may(path: Path) -> str:
    """The nearest thing on the way to ``path`` that can be looked at says whose it is."""
    for place in (path, *path.parents):
        try:
            status = place.stat()
            group = grp.getgrgid(status.st_gid).gr_name
        except (OSError, KeyError):
            continue
        if status.st_gid != 0:
            return f"join the group {group} (usermod -aG {group} NAME) and log in again"
    return "as the service's user"


def _locked(descriptor: int) -> bool:
    """Take the lock, in a few tries: whoever asks for its `owner` holds it for a moment, and must not be in the way."""
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def owner(path: Path) -> int | None:
    """The pid of the daemon that holds the lock; None when nobody does.

    Raises `UnavailableError` for somebody who may not look: a daemon that cannot be seen is not dead.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise no_access(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0).decode(errors="replace").strip() or 0)
    else:
        return None
    finally:
        os.close(descriptor)
