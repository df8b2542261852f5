"""What every part of a run shares, for parts of the service that are tried by themselves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.asides import aside
from watcherd.config import Config
from watcherd.inference.pool.lanes import Lane, Lanes
from watcherd.new_files_first import NewFilesFirst
from watcherd.pauses import Pauses
from watcherd.state.run import Run, Settings

if TYPE_CHECKING:
    from watcherd.store import ModelIdentity


def a_run(config: Config | None = None, database: Any = None, **parts: Any) -> Run:
    """A run over a database, or over nothing. ``parts``: those that are not to be the usual ones."""
    stopping = parts.setdefault("stopping", threading.Event())
    usual: dict[str, Any] = {
        "id": 1,
        "settings": Settings(config or Config()),
        "database": database,
        "pauses": Pauses(stopping),
        "new_files_first": NewFilesFirst(),
    }
    made = usual | {name: part for name, part in parts.items() if part is not None}
    return Run(**made | {"set_aside": made.get("set_aside") or aside(database)})


def one_lane(identity: Any = None, *, follows_runs: bool = False, channels: int = 1) -> Lanes[ModelIdentity]:
    """The lane of the only model, which is loaded unless there is none."""
    lane: Lane[ModelIdentity] = Lane()
    if identity is not None:
        lane.became_ready(identity, follows_runs=follows_runs, channels=channels)
    return Lanes(lane)
