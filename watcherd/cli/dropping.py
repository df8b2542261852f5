"""Putting a copy of a file into the inbox as a careful sender does: whole at once, and over nobody's file.

The copy is written under a name that is not looked at (`inbox.ignore`), and renamed when it is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from watcherd.config import Config
from watcherd.errors import UnavailableError, UsageError
from watcherd.file_names import insert, show
from watcherd.files import rename_new, sync_folder
from watcherd.inbox.sweep import IgnoreList
from watcherd.state.lock import who_may

MOST_ALIKE = 10_000
"""Names of one kind (``a.png``, ``a-2.png``, ...) that are tried."""
ON_A_LIST = "on inbox.ignore, or on the built-in list of other programs' files (docs/inbox.md)"
TRIES = 5
"""Times that a folder of the inbox is made: the daemon may remove it, as empty, before it is used."""


def place_in_inbox(settings: Config, folder: Path | None, profile: str | None) -> Path:
    """The folder below the inbox that the copies go to, relative to it. Raises `UsageError` for one that cannot be."""
    base = Path()
    if profile is not None:
        if profile not in settings.profiles:
            known = ", ".join(settings.profiles) or "none"
            raise UsageError(f"There is no profile {profile!r}.", hint=f"The configuration's profiles: {known}.")
        base = Path(settings.profiles[profile].folder)
    below = base / (folder or Path())
    if below.is_absolute() or ".." in below.parts:
        raise UsageError(f"--folder {folder} leads out of the inbox.", hint="Give a folder below it: coronary/today.")
    ignored = next((part for part in below.parts if IgnoreList(settings.inbox.ignore).has(part)), None)
    if ignored is not None:
        raise UsageError(f"A folder named {ignored!r} is never looked into.", hint=f"Its name is {ON_A_LIST}.")
    return below


def check_sources(files: Sequence[Path], settings: Config) -> None:
    """Raises `UsageError` for what is no readable file, or has a name that would not be taken; before any is copied."""
    ignore = IgnoreList(settings.inbox.ignore)
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise UsageError(f"{show(bytes(file))} cannot be read: {error.strerror}.") from error
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{show(bytes(file))} is a folder.", hint="Give the files in it: FOLDER/*.")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{show(bytes(file))} is not a file.")
        if not os.access(file, os.R_OK):
            raise UsageError(f"You may not read {show(bytes(file))}.")
        if ignore.has(file.name):
            raise UsageError(
                f"A file named {show(os.fsencode(file.name))} would be ignored.",
                hint=f"Its name is {ON_A_LIST}: rename it first.",
            )


def check_inbox(inbox: Path, offline: str | None) -> None:
    """Raises `UnavailableError` when the inbox is not there. ``offline``: why the daemon says so, if it does."""
    if offline is not None:
        raise UnavailableError(f"The inbox is offline: {offline}.", hint="Mount it again, then submit again.")
    try:
        there = inbox.is_dir()
    except OSError as error:
        raise _refused(inbox, error) from error
    if not there:
        raise UnavailableError(
            f"There is no inbox at {inbox}.", hint="Mount it, or start watcherd once: it makes its folders."
        )


def drop(source: Path, inbox: Path, below: Path) -> bytes:
    """Copy ``source`` into the inbox's folder ``below``, under its own name or the next free one; the path below
    the inbox. Raises `UnavailableError` when that cannot be done; then nothing is left behind."""
    for last in (False,) * (TRIES - 1) + (True,):
        try:
            name = _copy(source, _make_folder(inbox, below))
        except FileNotFoundError as error:
            if last:
                raise _refused(inbox / below, error) from error
        except OSError as error:
            raise _refused(inbox / below, error) from error
        else:
            return os.fsencode(below / os.fsdecode(name))
    raise AssertionError("the last try returns or raises")


def _refused(folder: Path, error: OSError) -> UnavailableError:
    if isinstance(error, PermissionError):
        return UnavailableError(f"You may not write into {folder}.", hint=f"Run it as root, or {who_may(folder)}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(f"There is no room in {folder}.", hint="Make room there, then submit again.")
    return UnavailableError(f"{folder} cannot be written: {error.strerror}.")


def _make_folder(inbox: Path, below: Path) -> Path:
    """The folder, with its parents; the service's group may use those that are made here, or could not empty them."""
    folder = inbox
    for part in below.parts:
        folder /= part
        if folder.is_symlink():
            raise UnavailableError(f"{folder} is a link, and watcherd follows none.", hint="Use a real folder.")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IRWXG)
    return folder


def _copy(source: Path, folder: Path) -> bytes:
    temporary = folder / f".watcherd-submit-{uuid.uuid4().hex}.part"
    try:
        with source.open("rb") as file, temporary.open("xb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            _open_to_the_group(copy)
            copy.flush()
            os.fsync(copy.fileno())
        name = _publish(temporary, os.fsencode(source.name))
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return name


def _open_to_the_group(file: BinaryIO) -> None:
    """The service reads it as a member of the inbox's group, whatever the sender's umask is."""
    mode = os.fstat(file.fileno()).st_mode
    os.fchmod(file.fileno(), stat.S_IMODE(mode) | stat.S_IRGRP | stat.S_IWGRP)


def _publish(temporary: Path, name: bytes) -> bytes:
    """Give the copy its name, or the first of its kind that nobody has."""
    for number in range(1, MOST_ALIKE):
        wanted = name if number == 1 else insert(name, b"-%d" % number)
        try:
            rename_new(temporary, temporary.with_name(os.fsdecode(wanted)))
        except FileExistsError:
            continue
        return wanted
    raise OSError(errno.EEXIST, f"{show(name)} is there {MOST_ALIKE:,} times")
