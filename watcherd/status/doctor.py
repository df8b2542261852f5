"""What ``watcherd doctor`` looks at: fates that add up, files that are where rows say, and the ground it all stands on.

Each check gives findings with what to do about them. ``repair`` is there for those that are safe to put right.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from watcherd.config import as_named
from watcherd.errors import WatcherdError
from watcherd.file_names import show
from watcherd.inbox import mounts
from watcherd.inbox.spool import Spool
from watcherd.inference import folders, segmenters
from watcherd.inference.segmenters.nnunet import folder as nnunet
from watcherd.job import State
from watcherd.linux.probes import clock_is_kept
from watcherd.outbox.deliver import hash_file
from watcherd.outbox.owner import ID, Owner, owner_of
from watcherd.pauses import check_room
from watcherd.service.repair import broken_promises, in_short
from watcherd.state.live import read as read_live
from watcherd.status.findings import Finding
from watcherd.status.ground import examine_ground
from watcherd.status.starting import how_to_start
from watcherd.store import aside, backup, history, hooks, leftovers, reader, unreadable
from watcherd.store.statements import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.store import Connection

LOW_SHARE = 0.05
HOOK_DAYS = 7
OUTPUTS_LOOKED_AT = 1000
"""Newest results whose hashes are compared: all of a long history would take hours."""

MAKE_ROOM = "Make room, or let watcherd prune take old scans: [retention]."

SHOWN = 5
"""Files that are named of those that the history does not know."""


def examine(config: Config, mend: Callable[[str], str] | None = None) -> Iterator[Finding]:
    """Everything, the ground first. ``mend``: has the owner of the history put one kind of thing right."""
    yield from _folders(config)
    yield from _owner(config)
    yield from _space(config)
    yield from _clock()
    yield from examine_ground(config)
    for name, table in config.model_tables.items():
        check = f"model {name}" if config.models else "model"
        for finding in _model(config.model_copy(update={"model": table}), check):
            yield replace(finding, text=as_named(finding.text, name), todo=as_named(finding.todo, name))
    if not config.state.database.exists():
        yield Finding(check="history", level="warning", text="there is none yet", todo="Run watcherd run.")
        return
    try:
        yield from _database(config)
        with reader(config.state.database) as connection:
            yield from _rows(connection, mend)
            yield from _set_aside(connection, mend)
            yield from _promises(config, connection, mend)
            yield from _fates(connection)
            yield from _spool(config, connection)
            yield from _results(config, connection)
            yield from _unknown(config, connection)
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
            yield _no_folder(name, folder, ran_before=config.state.path.exists())
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


def _no_folder(name: str, folder: Path, *, ran_before: bool) -> Finding:
    """A start makes what is not there. Where one has made it before, somebody has taken it away or it is offline."""
    if ran_before or folder.exists():
        todo = "Make it, or correct the configuration."
        return Finding(check=name, level="error", text=f"{folder} is no folder", todo=todo)
    return Finding(check=name, level="warning", text=f"{folder} is not there yet", todo="watcherd run makes it.")


def _owner(config: Config) -> Iterator[Finding]:
    """Whether the outbox is this service's."""
    try:
        owner = owner_of(config.outbox.path)
    except OSError:
        return  # said of the folder
    if owner is not None and (config.state.path / ID).exists() and not owner.is_same(Owner.here(config.state.path)):
        yield Finding(
            check="outbox",
            level="error",
            text=f"it belongs to {owner}",
            todo="Give this service an outbox of its own. If the other is gone for good: watcherd outbox take-over.",
        )


def _space(config: Config) -> Iterator[Finding]:
    for name, folder in (("state", config.state.path), ("outbox", config.outbox.path)):
        if folder.is_dir():
            try:
                check_room(folder, config.limits.min_free_mib)
            except OSError as error:
                text = f"{error.strerror} (limits.min_free_mib), for the {name} folder: nothing new is begun"
                yield Finding(check="space", level="error", text=text, todo=MAKE_ROOM)
                continue
            usage = shutil.disk_usage(folder)
            low = usage.free < LOW_SHARE * usage.total
            yield Finding(
                check="space",
                level="warning" if low else "ok",
                text=f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free for the {name} folder",
                todo=MAKE_ROOM if low else "",
            )


def _clock() -> Iterator[Finding]:
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, zone {time.tzname[0]}"
    if datetime.now(UTC).year < 2025:
        yield Finding(check="clock", level="error", text=now, todo="Set the clock; the history's times are wrong.")
    elif not clock_is_kept():
        todo = "Have a time server keep it, on a machine of your own: timedatectl set-ntp true."
        yield Finding(check="clock", level="warning", text=f"{now}; no time server keeps it right", todo=todo)
    else:
        yield Finding(check="clock", level="ok", text=now)


def _model(config: Config, check: str = "model") -> Iterator[Finding]:
    """The segmenter is here, and every file of its model can be read and holds what its name says.

    Where root asks, it is for the service's user, to whom the state folder belongs.
    """
    try:
        segmenters.refuse_unknown(config.model)
        folder = config.model.path
        if folder is None:
            yield Finding(check=check, level="ok", text=f"{config.model.segmenter}, which needs no folder")
            return
        folders.refuse_unreadable(folder)
    except WatcherdError as error:
        yield Finding(check=check, level="error", text=error.message, todo=error.hint)
        return
    files = folders.weights(folder) if folder.is_dir() else []
    places = [folder]
    if config.model.segmenter == "nnunet":
        files = nnunet.read(config.model).checkpoints
        places += [path.parent for path in files]
    if config.model.segmenter == "sa2va":
        sa2va = config.model.sa2va
        files += [path for path in (sa2va.checkpoint, sa2va.sam2) if path is not None]
    faults = [fault for path in files if (fault := folders.fault_of(path))]
    if (owner := _service_user(config)) is not None:
        faults += [fault for place in places for fault in folders.unreadable(place, owner)]
    for fault in faults:
        yield Finding(check=check, level="error", text=str(fault), todo=fault.todo)
    if not faults:
        yield Finding(check=check, level="ok", text=f"{config.model.segmenter}, {folder}, {len(files)} weights files")
        yield from _checkpoint(config, check)


def _checkpoint(config: Config, check: str) -> Iterator[Finding]:
    """A training's checkpoint is whole and can be read, and its base is called like the one that it was trained on."""
    sa2va, folder = config.model.sa2va, config.model.path
    if config.model.segmenter != "sa2va" or sa2va.checkpoint is None:
        return
    from watcherd.inference.segmenters.sa2va.trained import Trained

    try:
        warning = Trained(folder, sa2va.checkpoint, sa2va.sam2).warning
    except WatcherdError as error:
        yield Finding(check=check, level="error", text=error.message, todo=error.hint)
        return
    if warning:
        todo = "Set model.path to that model's folder, or rename the folder if it is that one."
        yield Finding(check=check, level="warning", text=warning, todo=todo)


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


Mend = Callable[[str], str] | None


def _rows(connection: Connection, mend: Mend) -> Iterator[Finding]:
    """Rows that cannot be read as what they should be."""
    rows = [str(row) for row in unreadable.found(connection)]
    if rows:
        yield Finding(
            check="rows",
            level="error",
            text=f"{len(rows)} rows of the history cannot be read: {in_short(rows)}",
            todo="Everything else can. Have what can be read of them kept: watcherd doctor --repair.",
            repair=mend and partial(mend, "rows"),
        )


def _set_aside(connection: Connection, mend: Mend) -> Iterator[Finding]:
    """Items that could not be handled; nothing is said where there are none."""
    for left_alone in (True, False):
        items = [item for item in aside.everything(connection).values() if item.left_alone == left_alone]
        if not items:
            continue
        named = [f"{item.item} ({item.loop}): {item.error}" for item in items]
        again = (
            "They ended the service again and again, and are left alone." if left_alone else "Tried again by itself."
        )
        yield Finding(
            check="set aside",
            level="error" if left_alone else "warning",
            text=f"{len(items)} {'left alone' if left_alone else 'could not be handled'}: {in_short(named)}",
            todo=f"{again} To have it tried now: watcherd retry for a job.",
            repair=mend and partial(mend, "set-aside"),
        )


def _promises(config: Config, connection: Connection, mend: Mend) -> Iterator[Finding]:
    """Results that were promised names which they cannot get; a running service sees to that by itself."""
    if read_live(config.state.path, config.state.lock) is not None:
        return
    broken = [f"job {owner.job_id}, {reason}" for owner, reason in broken_promises(connection, config)]
    if broken:
        yield Finding(
            check="promises",
            level="warning",
            text=f"{len(broken)} results cannot have their names: {in_short(broken)}",
            todo="The next start has them computed again, under other names.",
            repair=mend and partial(mend, "promises"),
        )


def _fates(connection: Connection) -> Iterator[Finding]:
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


def _spool(config: Config, connection: Connection) -> Iterator[Finding]:
    """Each scan with work to do has its copy; each copy belongs to a scan."""
    spool = Spool(config.state.spool)
    needed = leftovers.needed_copies(connection)
    lost = [sha256 for sha256 in needed if not spool.path(sha256).exists()]
    if lost:
        yield Finding(
            check="spool",
            level="error",
            text=f"{len(lost)} scans with work to do have lost their copy, the first is {lost[0]}",
            todo="They are looked for in the archive and the inbox when their turn comes; drop again what fails.",
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


def _results(config: Config, connection: Connection) -> Iterator[Finding]:
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


def _unknown(config: Config, connection: Connection) -> Iterator[Finding]:
    """After another database was set aside: what lies in outbox and archive that the history does not know."""
    aside = sorted(config.state.path.glob(f"{config.state.database.name}.aside-*[0-9]"))
    if not aside:
        return
    places = (
        ("outbox", config.outbox.path, history.known_results),
        ("archive", config.inbox.archive_path, history.known_in_archive),
    )
    for check, root, known in places:
        count = 0
        first: list[bytes] = []
        for piece in chunks([*_files_below(os.fsencode(root))]):
            unknown = [path for path in piece if path not in known(connection, piece)]
            count += len(unknown)
            first += unknown[: SHOWN - len(first)]
        listed = ", ".join(map(show, first)) + (", ..." if count > len(first) else "")
        yield Finding(
            check=check,
            level="warning" if count else "ok",
            text=f"{count} files are unknown to the history since {aside[-1].name} was set aside: {listed}"
            if count
            else f"the history knows all files, although {aside[-1].name} was set aside",
            todo="They are left alone. Drop a scan of the archive again to have it in the history; watcherd db restore "
            "brings an older history back."
            if count
            else "",
        )


def _files_below(root: bytes) -> Iterator[bytes]:
    """Paths below a folder, without what is ours and hidden."""
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(b".")]
        yield from (
            os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118 - names below the outbox are bytes
            for name in files
            if not name.startswith(b".")
        )


def _hooks(config: Config, connection: Connection) -> Iterator[Finding]:
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


def _stuck(config: Config, connection: Connection) -> Iterator[Finding]:
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
        yield Finding(check="daemon", level="warning", text="is not running", todo=how_to_start())
    else:
        yield Finding(check="daemon", level="ok", text=f"{alive.get('phase')}, pid {alive['pid']}")
