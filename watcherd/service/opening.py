"""What has to be there before anything else: the folders, the database, the run folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import ConfigError, UnavailableError
from watcherd.files import make_folder
from watcherd.inbox import mounts
from watcherd.logs import get_logger
from watcherd.store import CorruptDatabaseError, Database, backup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watcherd.config import Config

TMPFS_MIB = 2048
"""MiB of free memory for which decoded scans go to memory rather than to the state folder."""


def prepare_folders(config: Config) -> None:
    """Make the configured folders. Raises `UnavailableError` or `ConfigError` for those that cannot be used."""
    mounts.refuse_network_state(config.state.path, mounts.mount_at(config.state.path))
    folders = {
        "inbox.path": config.inbox.path,
        "inbox.archive_path": config.inbox.archive_path,
        "outbox.path": config.outbox.path,
        "state.path": config.state.path,
    }
    for key, folder in folders.items():
        try:
            make_folder(folder)
        except OSError as error:
            if key == "inbox.path" and folder.exists():
                continue
            raise UnavailableError(
                f"{key} = {str(folder)!r} cannot be made: {error.strerror}.",
                hint="Make it, or give the service's user permission to.",
            ) from error
    for folder in (config.state.commands, config.state.cache):
        make_folder(folder)
    if problems := mounts.overlaps(folders, mounts.read_mounts()):
        raise ConfigError("; ".join(problems) + ".", hint="These folders must be apart.")


def open_database(config: Config, upgrading: Callable[[float], None]) -> Database:
    """The history, brought up to date; ``upgrading`` hears how far that is. A corrupt one gives way to its backup."""
    path, log = config.state.database, get_logger()
    try:
        return Database.open(path, mark=upgrading)
    except CorruptDatabaseError as error:
        aside = backup.set_aside(path, now=datetime.now(UTC))
        log.error(  # noqa: TRY400 - its traceback would say nothing more
            "database_corrupt", error=error.message, reason=f"set aside as {aside and aside.name}"
        )
        copies = sorted((config.state.path / "backups").glob("watcherd-*.db"))
        if copies:
            backup.restore(copies[-1], path, now=datetime.now(UTC))
            log.warning("database_restored", reason=f"from the backup {copies[-1].name}")
        return Database.open(path, mark=upgrading)


@contextlib.contextmanager
def scratch_folder(state: Path) -> Iterator[Path]:
    """The run folder for decoded scans: in memory where there is room, else in the state folder; emptied at the end.

    What a killed run left behind is removed: its name is the state folder's own, with something behind it where
    somebody else was there first. Everybody may make folders in ``/dev/shm``, so what is not ours is left alone.
    """
    name = f"watcherd-{os.getuid()}-{state.stat().st_dev:x}-{state.stat().st_ino:x}"
    memory = Path(os.environ.get("RUNTIME_DIRECTORY", "/dev/shm"))  # noqa: S108 - a folder of our own in it, mode 0700
    place, name = (memory, name) if room_mib(memory) >= TMPFS_MIB else (state, "run")
    for left in (place / name, *place.glob(f"{name}-*")):
        if _is_our_folder(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = _made(place, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(place: Path, name: str) -> Path:
    try:
        (place / name).mkdir(mode=0o700)
    except FileExistsError:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))  # of mode 0700, and surely new
    return place / name


def _is_our_folder(path: Path) -> bool:
    """Whether it is a folder, no link to one, that belongs to this user and that nobody else may enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def room_mib(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free >> 20 if os.access(folder, os.W_OK) else 0
    except OSError:
        return 0
