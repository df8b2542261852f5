"""What the daemon does at this moment, as a small file in the state folder: for ``watcherd status``.

The database has the history; replicas' stages, pauses and the inbox's condition change too often to be history.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from watcherd.files import exchange
from watcherd.state.lock import owner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "status.json"
ROOM = 1 << 14
"""Bytes of the file at least, the end of them spaces."""
LOOKS = 5
LOOK_PAUSE_SECONDS = 0.01
"""Seconds between two looks at a file that changes while it is read; `LOOKS` of them at most."""


NOT_LOOKED_AT = "not looked at yet"
"""The reason for which an inbox is not online in the first moment of a run."""


class LiveStatus:
    """Writes the file whenever something has changed.

    Of two files one is shown and the other written over, then they change places: so a disk that has become full, which
    is when people look, still has room for it.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / NAME
        self._spare = self._path.with_suffix(".next")
        self._written: dict[str, Any] | None = None

    def write(self, status: Mapping[str, Any]) -> None:
        """Replace the file; one that cannot be written must not stop the daemon."""
        if status == self._written:
            return
        content = json.dumps(status).encode()
        try:
            if not self._path.exists():
                self._path.write_bytes(b"{}".ljust(ROOM))
            if not self._spare.exists():
                self._spare.write_bytes(bytes(ROOM))
            with self._spare.open("r+b") as file:
                file.write(content.ljust(ROOM))
                file.truncate()
            self._show()
        except OSError:
            return
        self._written = dict(status)

    def _show(self) -> None:
        try:
            exchange(self._spare, self._path)
        except OSError:  # a file system that knows no exchange
            self._spare.replace(self._path)


def read(state: Path, lock: Path) -> dict[str, Any] | None:
    """What the running daemon wrote last; None when none runs.

    ``phase`` is ``starting`` when it has written nothing yet, and ``frozen`` when its process stands still by a signal
    (SIGSTOP, a debugger): then what it wrote last is no longer so.
    """
    pid = owner(lock)
    if pid is None:
        return None
    status = _read_whole(state / NAME)
    if status is None or status.get("pid") != pid:
        status = {"pid": pid, "phase": "starting"}
    return status | {"phase": "frozen"} if _stands_still(pid) else status


def inbox_away(status: Mapping[str, Any] | None) -> str | None:
    """Why the inbox of a running daemon is offline; None when it is online, or nobody knows."""
    inbox = (status or {}).get("inbox")
    if not inbox or inbox["online"] or inbox["reason"] == NOT_LOOKED_AT or (status or {}).get("phase") != "running":
        return None
    return str(inbox["reason"])


def _read_whole(path: Path) -> dict[str, Any] | None:
    """The document, never half of one that is just being replaced; None when there is none."""
    for look in range(LOOKS):
        time.sleep(LOOK_PAUSE_SECONDS if look else 0)
        try:
            content = _read_steady(path)
            status = json.loads(content) if content is not None else None
        except (OSError, ValueError):
            continue
        if isinstance(status, dict):
            return status
    return None


def _read_steady(path: Path) -> bytes | None:
    """The file's content; None when it may have changed meanwhile.

    The writer only writes into the file that is not shown. So what was read is whole if the file has its name still,
    and nobody has written into it since it was opened.
    """
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        content = file.read()
        after = os.fstat(file.fileno())
    shown = path.stat()
    return content if _version(before) == _version(after) == _version(shown) else None


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _stands_still(pid: int) -> bool:
    """Whether the process is stopped or traced (proc(5), field ``state``); False where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - a Path would say no more
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in (b"T", b"t")
