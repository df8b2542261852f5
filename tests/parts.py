"""One run of the service, for parts that are tried by themselves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

from tests.asides import aside
from watcherd.config import Config
from watcherd.new_files_first import NewFilesFirst
from watcherd.pauses import Pauses
from watcherd.state.run import Run, Settings

if TYPE_CHECKING:
    from watcherd.store import Database


def run_of(database: Database | None = None, *, config: Config | None = None, new_files_first: Any = None) -> Run:
    """Without a database nothing can be written."""
    return Run(
        id=1,
        settings=Settings(config or Config()),
        database=cast("Any", database),
        pauses=Pauses(threading.Event()),
        set_aside=aside(database),
        new_files_first=new_files_first or NewFilesFirst(),
        stopping=threading.Event(),
    )
