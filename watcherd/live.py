"""What the daemon does at this moment, as a small file in the state folder: for ``watcherd status``.

The database has the history; replicas' stages, pauses and the inbox's condition change too often to be history.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.steering import owner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "status.json"


class LiveStatus:
    """Writes the file whenever something has changed."""

    def __init__(self, state: Path) -> None:
        self._path = state / NAME
        self._written: dict[str, Any] | None = None

    def write(self, status: Mapping[str, Any]) -> None:
        """Replace the file; a disk that is full must not stop the daemon."""
        if status == self._written:
            return
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(status))
            temporary.replace(self._path)
        except OSError:
            return
        self._written = dict(status)


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
