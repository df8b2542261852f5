"""What the daemon does at this moment, as a small file in the state folder: for ``watcherd status``.

The database has the history; replicas' stages, pauses and the inbox's condition change too often to be history.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.files import exchange
from watcherd.steering import owner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "status.json"
ROOM = 1 << 14
"""Bytes of the file at least, the end of them spaces."""


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
    """What the running daemon wrote last; None when none runs."""
    pid = owner(lock)
    if pid is None:
        return None
    try:
        status: dict[str, Any] = json.loads((state / NAME).read_text())
    except (OSError, ValueError):
        return {"pid": pid, "phase": "starting"}
    return status if status.get("pid") == pid else {"pid": pid, "phase": "starting"}
