"""Why work does not go on at the moment: a full disk, an outbox that cannot be written, a person's wish.

Each part of the daemon pauses and resumes under its own name. Changes are logged once each; `reasons` is what
``watcherd status`` shows.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from typing import TYPE_CHECKING, TypeVar

from watcherd.errors import StoreError, TransientError
from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

RETRY_SECONDS = 2.0
"""Seconds between two looks whether the cause of a pause is gone."""
SMALL_SHARE = 0.02
"""Part of a small file system that is room enough, whatever ``limits.min_free_mib`` says."""

ADVICE = {
    errno.ENOSPC: "make room there; work goes on by itself",
    errno.EDQUOT: "raise the quota or make room there; work goes on by itself",
    errno.EROFS: "it is mounted read-only; remount it writable",
    errno.EACCES: "give the service's user write permission there",
    errno.EPERM: "give the service's user write permission there",
    errno.EIO: "the disk reports errors; look at the kernel's log",
    errno.EMFILE: "the service has too many files open; raise LimitNOFILE",
    errno.ENFILE: "the machine has too many files open; raise fs.file-max",
}


_NUMBERS = re.compile(r"\d+")


class StoppedError(Exception):
    """The daemon stops while something was waited for."""


class Pauses:
    """What is paused and why. Threads share it: a part goes on when none of them waits for it any more."""

    def __init__(self, stopping: threading.Event) -> None:
        self.stopping = stopping
        self._reasons: dict[str, dict[int, str]] = {}
        self._said: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        self._log = get_logger()

    @property
    def reasons(self) -> dict[str, str]:
        """What is paused now, with the reason in words."""
        with self._lock:
            return {part: next(iter(waiting.values())) for part, waiting in self._reasons.items()}

    def set(self, part: str, reason: str) -> None:
        """This thread waits for ``part``; logged when that is news, which another count of free bytes is not."""
        gist = _NUMBERS.sub("", reason)
        with self._lock:
            self._reasons.setdefault(part, {})[threading.get_ident()] = reason
            said = self._said.setdefault(part, set())
            news = gist not in said
            said.add(gist)
        if news:
            self._log.warning("intake_paused", kind=part, error=reason)

    def clear(self, part: str) -> None:
        """This thread goes on; logged when it was the last one that waited."""
        with self._lock:
            waiting = self._reasons.get(part, {})
            if waiting.pop(threading.get_ident(), None) is None or waiting:
                return
            del self._reasons[part], self._said[part]
        self._log.info("intake_resumed", kind=part)

    def until_possible(self, part: str, action: Callable[[], T]) -> T:
        """Do ``action``; while the disk or the database refuses, pause, say why, and try again.

        Raises `StoppedError` when the daemon stops first. Errors that waiting cannot mend go through.
        """
        while True:
            try:
                result = action()
            except (OSError, TransientError, StoreError) as error:
                if not is_passing(error):
                    self.clear(part)
                    raise
                self.set(part, in_words(error))
                if self.stopping.wait(RETRY_SECONDS):
                    raise StoppedError from error
            else:
                self.clear(part)
                return result


def is_passing(error: Exception) -> bool:
    """Whether an error says something about the machine's present state rather than about what was asked."""
    if isinstance(error, OSError):
        return error.errno in ADVICE or error.errno in (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EINTR)
    return isinstance(error, TransientError) or bool(getattr(error, "transient", False))


def in_words(error: Exception) -> str:
    """What, why and what to do, on one line."""
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0, "it is tried again")
        return f"{where}{error.strerror}; {advice}"
    return " ".join(str(error).split())


def check_room(folder: Path, min_free_mib: int) -> None:
    """Raises OSError (ENOSPC) when the file system of ``folder`` is nearly full."""
    usage = shutil.disk_usage(folder)
    wanted = min(min_free_mib << 20, int(usage.total * SMALL_SHARE))
    if usage.free < wanted:
        raise OSError(errno.ENOSPC, f"only {usage.free >> 20} MiB are free, less than {wanted >> 20} MiB", str(folder))
