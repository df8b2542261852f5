"""Copies of the history in the state folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.files import make_folder
from watcherd.store import backup

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.config import Config


def back_up(config: Config) -> Path:
    """Copy the database into the state folder's ``backups``, and keep as many copies as configured."""
    folder = config.state.path / "backups"
    make_folder(folder)
    target = folder / f"watcherd-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
    backup.backup(config.state.database, target)
    backup.rotate(folder, "watcherd-*.db", config.retention.backups, newest=target.name)
    return target
