"""The state folder's lock says who is its one daemon; and what to tell somebody who may not look at it."""

from __future__ import annotations

import fcntl
import grp
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from watcherd.errors import BusyError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_TRIES = 50
LOCK_PAUSE_SECONDS = 0.02


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
