"""What every part of one run of the service shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from watcherd.store import ModelIdentity
from watcherd.wall_clock import WaitsClock

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from watcherd.config import Config, Model
    from watcherd.new_files_first import NewFilesFirst
    from watcherd.pauses import Pauses
    from watcherd.set_aside import SetAside
    from watcherd.store import Connection, Database

T = TypeVar("T")


class Settings:
    """The configuration in force. The main thread replaces it at a reload; every part reads ``now`` when it needs it.

    A configuration is frozen, and is replaced as a whole, so that nobody sees half of one.
    """

    def __init__(self, config: Config) -> None:
        self._now = config

    @property
    def now(self) -> Config:
        """The configuration to go by."""
        return self._now

    def replace(self, config: Config) -> None:
        """Go by another one from now on."""
        self._now = config


def meant_by(table: Model) -> ModelIdentity:
    """A model as far as it is known without being loaded; what is queued for it is made anew once it is."""
    return ModelIdentity(segmenter=table.segmenter, model=str(table.path or ""), revision="", dtype="")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of the service. ``id``: its row in the history. ``stopping``: set once, when it comes to its end."""

    id: int
    settings: Settings
    database: Database
    pauses: Pauses
    set_aside: SetAside
    new_files_first: NewFilesFirst
    stopping: threading.Event
    waits_clock: WaitsClock = field(default_factory=WaitsClock)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.settings.now

    def write(self, work: Callable[[Connection], T]) -> T:
        """Write to the history; while it cannot be written, pause and try again. Raises `StoppedError`."""
        return self.pauses.until_possible("state", lambda: self.database.write(work))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Read from the history; while it cannot be read, pause and try again. Raises `StoppedError`."""

        def read() -> T:
            with self.database.reader() as connection:
                return work(connection)

        return self.pauses.until_possible("state", read)
