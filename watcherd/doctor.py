"""What ``watcherd doctor`` looks at: fates that add up, files that are where rows say, and the ground it all stands on.

Each check gives findings with what to do about them. ``repair`` is there for those that are safe to put right.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from watcherd.errors import WatcherdError
from watcherd.inbox import mounts
from watcherd.inbox.spool import Spool
from watcherd.inference import folders, segmenters
from watcherd.job import State
from watcherd.live import read as read_live
from watcherd.names import show
from watcherd.outbox.deliver import hash_file
from watcherd.store import backup, history, hooks, leftovers, reader
from watcherd.store.statements import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watcherd.config import Config

LOW_SHARE = 0.05
HOOK_DAYS = 7
OUTPUTS_LOOKED_AT = 1000
"""The newest results whose hashes are compared; all of a long history would take hours."""

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo``: what a person can do; ``repair``: what doctor can do, safely."""

    check: str
    level: Level
    text: str
    todo: str = ""
    repair: Callable[[], str] | None = None


def examine(config: Config) -> Iterator[Finding]:
    """Everything, the ground first."""
    yield from _folders(config)
    yield from _space(config)
    yield from _clock()
    yield from _model(config)
    if not config.state.database.exists():
        yield Finding(check="history", level="warning", text="there is none yet", todo="Run watcherd run.")
        return
    try:
        yield from _database(config)
        with reader(config.state.database) as connection:
            yield from _fates(connection)
            yield from _spool(config, connection)
            yield from _results(config, connection)
            yield from _stuck(config, connection)
            yield from _hooks(config, connection)
    except WatcherdError as error:
        yield Finding(check="history", level="error", text=error.message, todo=error.hint)


def _folders(config: Config) -> Iterator[Finding]:
    folders = {
        "inbox": config.inbox.path,
        "archive": config.inbox.archive_path,
        "outbox": config.outbox.path,
        "state": config.state.path,
    }
    for name, folder in folders.items():
        if not folder.is_dir():
            yield Finding(
                check=name, level="error", text=f"{folder} is no folder", todo="Make it, or correct the configuration."
            )
            continue
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(
                check=name,
                level="error",
                text=f"{folder} may not be read and written by uid {os.geteuid()}",
                todo="Give the service's user permission, or run doctor as that user.",
            )
            continue
        mount = mounts.mount_at(folder)
        kind = mount.fs_type if mount else "unknown"
        bad = name == "state" and mount is not None and mount.is_network
        yield Finding(
            check=name,
            level="error" if bad else "ok",
            text=f"{folder} ({kind}{', a network file system' if mount and mount.is_network else ''})",
            todo="Put the state folder on a local disk: SQLite's locks do not hold here." if bad else "",
        )


def _space(config: Config) -> Iterator[Finding]:
    for name, folder in (("state", config.state.path), ("outbox", config.outbox.path)):
        if folder.is_dir():
            usage = shutil.disk_usage(folder)
            low = usage.free < LOW_SHARE * usage.total
            yield Finding(
                check="space",
                level="warning" if low else "ok",
                text=f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free for the {name} folder",
                todo="Make room, or let watcherd prune take old scans: [retention]." if low else "",
            )


def _clock() -> Iterator[Finding]:
    wrong = datetime.now(UTC).year < 2025
    yield Finding(
        check="clock",
        level="error" if wrong else "ok",
        text=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, zone {time.tzname[0]}",
        todo="Set the clock; the history's times are wrong." if wrong else "",
    )


def _model(config: Config) -> Iterator[Finding]:
    """The segmenter is here, and every file of its model can be read and holds what its name says.

    Where root asks, it is for the service's user, to whom the state folder belongs.
    """
    try:
        segmenters.refuse_unknown(config.model)
        folder = config.model.path
        if folder is None:
            yield Finding(check="model", level="ok", text=f"{config.model.segmenter}, which needs no folder")
            return
        folders.refuse_unreadable(folder)
    except WatcherdError as error:
        yield Finding(check="model", level="error", text=error.message, todo=error.hint)
        return
    files = folders.weights(folder) if folder.is_dir() else []
    faults = [fault for path in files if (fault := folders.fault_of(path))]
    faults += folders.unreadable(folder, owner) if (owner := _service_user(config)) is not None else []
    for fault in faults:
        yield Finding(check="model", level="error", text=str(fault), todo=fault.todo)
    if not faults:
        yield Finding(check="model", level="ok", text=f"{config.model.segmenter}, {folder}, {len(files)} weights files")


def _service_user(config: Config) -> int | None:
    """The user whose state folder it is, where root asks on that one's behalf; None: whoever asks."""
    if os.geteuid() != 0 or not config.state.path.is_dir():
        return None
    owner = config.state.path.stat().st_uid
    return owner if owner != 0 else None


def _database(config: Config) -> Iterator[Finding]:
    path = config.state.database
    facts = backup.facts(path)
    yield Finding(
        check="history", level="ok", text=f"{path}, {facts['bytes'] / 1e6:.1f} MB, version {facts['version']}"
    )
    fault = facts["sqlite_wal_reset_fault"]
    yield Finding(
        check="sqlite",
        level="warning" if fault else "ok",
        text=f"version {facts['sqlite']}",
        todo="It has a rare fault when two programs write at once; watcherd writes alone, so do not write to "
        "the file with other programs."
        if fault
        else "",
    )
    for finding in backup.check(path):
        yield Finding(check="history", level="error", text=finding, todo="Restore a backup: watcherd db restore.")


def _fates(connection: Any) -> Iterator[Finding]:
    """Every arrival has one fate, and the fates add up to the arrivals."""
    fates, arrivals = history.fates(connection), history.arrivals_in_all(connection)
    total = sum(fates.values())
    parts = ", ".join(f"{count} {fate}" for fate, count in fates.items() if count) or "none"
    yield Finding(
        check="arrivals",
        level="ok" if total == arrivals else "error",
        text=f"{arrivals} = {parts}" if total == arrivals else f"{arrivals} arrivals, but {total} fates: {parts}",
        todo="" if total == arrivals else "This is a fault of watcherd; keep the database and report it.",
    )


def _spool(config: Config, connection: Any) -> Iterator[Finding]:
    """Each scan with work to do has its copy; each copy belongs to a scan."""
    spool = Spool(config.state.spool)
    needed = leftovers.needed_copies(connection)
    lost = [sha256 for sha256 in needed if not spool.path(sha256).exists()]
    if lost:
        yield Finding(
            check="spool",
            level="error",
            text=f"{len(lost)} scans with work to do have lost their copy, the first is {lost[0]}",
            todo="Drop these scans again; see watcherd jobs --state queued.",
        )
    files = [path for path in config.state.spool.glob("??/*") if len(path.name) == 64]
    orphans: list[Path] = []
    for piece in chunks(files):
        known = history.spool_names(connection, [path.name for path in piece])
        orphans += [path for path in piece if path.name not in known]
    alive = read_live(config.state.path, config.state.lock) is not None
    if orphans and not alive:
        yield Finding(
            check="spool",
            level="warning",
            text=f"{len(orphans)} copies belong to no scan",
            todo="The next start removes them.",
            repair=lambda: _remove_all(orphans),
        )
    if not lost and not (orphans and not alive):
        yield Finding(check="spool", level="ok", text=f"{len(needed)} copies for scans with work to do")


def _remove_all(paths: list[Path]) -> str:
    for path in paths:
        path.unlink(missing_ok=True)
    return f"removed {len(paths)} copies"


def _results(config: Config, connection: Any) -> Iterator[Finding]:
    """The newest results are there, with the hashes that were recorded."""
    root = os.fsencode(config.outbox.path)
    missing, changed = [], []
    looked_at = 0
    for output in leftovers.newest_outputs(connection, OUTPUTS_LOOKED_AT):
        looked_at += 1
        found = hash_file(root + b"/" + output.intent.final)
        if found is None:
            missing.append(output)
        elif found != output.intent.sha256:
            changed.append(output)
    for what, outputs in (("gone", missing), ("changed", changed)):
        if outputs:
            yield Finding(
                check="results",
                level="warning",
                text=f"{len(outputs)} of the newest {looked_at} results are {what}, the first is "
                f"{show(outputs[0].intent.final)} of job {outputs[0].job_id}",
                todo=f"If that was not meant: watcherd retry {outputs[0].job_id}",
            )
    if not missing and not changed:
        yield Finding(check="results", level="ok", text=f"the newest {looked_at} results are as they were delivered")


def _hooks(config: Config, connection: Any) -> Iterator[Finding]:
    """Calls that were given up lately; nothing is said where there are no hooks and never were."""
    given_up = hooks.given_up(connection, since=datetime.now(UTC) - timedelta(days=HOOK_DAYS))
    if given_up:
        last = given_up[0]
        yield Finding(
            check="hooks",
            level="warning",
            text=f"{len(given_up)} calls were given up in {HOOK_DAYS} days, the last for job {last['job_id']}: "
            f"hooks.{last['target']}: {last['error']}",
            todo="Mend the receiver; then call it by hand with what watcherd show ID --json says.",
        )
    elif config.hooks.command or config.hooks.url:
        yield Finding(check="hooks", level="ok", text=f"{hooks.waiting(connection)} calls wait")


def _stuck(config: Config, connection: Any) -> Iterator[Finding]:
    counts = history.counts(connection)
    alive = read_live(config.state.path, config.state.lock)
    busy = counts[State.RUNNING] + counts[State.DELIVERING]
    if busy and alive is None:
        yield Finding(
            check="jobs",
            level="warning",
            text=f"{busy} jobs were under way when the daemon ended",
            todo="The next start queues them again.",
        )
    waiting = history.unfinished_arrivals(connection, 20)
    for arrival in waiting:
        if arrival["present"]:
            yield Finding(
                check=arrival["fate"],
                level="warning",
                text=f"{arrival['source']}: {arrival['reason']}",
                todo="It is not a scan as it is; take it away or put it right." if arrival["fate"] == "ignored" else "",
            )
    if alive is None:
        yield Finding(check="daemon", level="warning", text="is not running", todo="systemctl start watcherd")
    else:
        yield Finding(check="daemon", level="ok", text=f"{alive.get('phase')}, pid {alive['pid']}")
