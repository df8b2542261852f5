"""The inbox as a whole: whether it is there, how it can be looked at, and how often that is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.frame_files import quiet_time
from watcherd.inbox import mounts
from watcherd.inbox.events import Events
from watcherd.inbox.folders import open_root
from watcherd.inbox.sweep import IgnoreList
from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from watcherd.inbox.requests import IntakeRequests
    from watcherd.state.run import Run

PRESENCE_SECONDS = 2.0
"""Seconds between two looks whether the inbox is still the folder that it was."""
JUMP_SECONDS = 5.0
"""Seconds of one turn of the loop after which the process must have been stopped, or the machine asleep: sweep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxState:
    """The inbox as ``watcherd status`` shows it."""

    online: bool = False
    reason: str = "not looked at yet"
    filesystem: str = ""
    sweep_seconds: float = 0.0
    last_sweep_ms: float | None = None
    swept_at: str | None = None
    settling: int = 0
    events: bool = False


class InboxPresence:
    """The folder that is the inbox. The intake's thread owns it.

    ``state`` and ``turned_at`` are for all threads to read: each is replaced as a whole, by the intake's thread alone.
    """

    def __init__(self, run: Run, requests: IntakeRequests, *, clock: Callable[[], float]) -> None:
        self._run = run
        self._requests = requests
        self.clock = clock
        self._log = get_logger()
        self._config = run.config
        self._ignore = IgnoreList(run.config.inbox.ignore)
        self.events = Events(run.config.inbox.path, self._ignore, wake=requests.wake.set, warn=self._warn)
        self._seen = self._before = mounts.Presence(online=False, identity=None)
        self._next_look = float("-inf")
        self._root: int | None = None
        self.network = False
        self.sync_each = False
        """Whether the inbox's file system syncs single files only."""
        self.turned_at = clock()
        self.state = InboxState()
        requests.set_online(False)

    # ------------------------------------------------------------------------------------------------ how to look

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor of the inbox."""
        return self._root is not None

    @property
    def root(self) -> int:
        """The descriptor of the inbox, while it is open."""
        assert self._root is not None
        return self._root

    @property
    def ignore(self) -> IgnoreList:
        """Which names are never scans, by the configuration in force."""
        if self._run.config is not self._config:
            self._config = self._run.config
            self._ignore = IgnoreList(self._config.inbox.ignore)
        return self._ignore

    @property
    def told(self) -> bool:
        """Whether events tell of every new file at once."""
        return self.events.complete and not self.network

    @property
    def sweep_seconds(self) -> float:
        """Seconds until the next sweep, from the end of one."""
        return mounts.sweep_seconds(
            self._run.config.inbox.sweep_seconds,
            network=self.network,
            events_complete=self.events.complete,
            last_took=(self.state.last_sweep_ms or 0) / 1000,
        )

    @property
    def quiet(self) -> timedelta:
        """How long no frame must have come for a run to be complete."""
        return quiet_time(self._run.config.inbox.run_quiet_seconds, sweep_seconds=self.sweep_seconds, told=self.told)

    # ------------------------------------------------------------------------------------------ whether it is there

    @property
    def online(self) -> bool:
        """Whether the inbox was there at the last look."""
        return self._seen.online

    @property
    def next_look(self) -> float:
        """When to look again whether it is there."""
        return self._next_look

    def look_soon(self) -> None:
        """It does not answer: look whether it is still there."""
        self._next_look = float("-inf")

    def has_jumped(self, now: float) -> bool:
        """The loop turns; whether so much time has passed since the last turn that anything may have happened."""
        jumped = now - self.turned_at > max(JUMP_SECONDS, 2 * PRESENCE_SECONDS)
        self.turned_at = now
        return jumped

    def look(self, now: float) -> bool:
        """Look whether the inbox is there; whether it has to be opened, for the first time or because it is new."""
        self._next_look = now + PRESENCE_SECONDS
        self._before = self._seen
        self._seen = mounts.presence(self._before.identity, mounts.identify(self._run.config.inbox.path))
        return self._seen.online and (self._seen.renewed or self._root is None)

    def open(self) -> None:
        """Open what is there, and learn what its file system can do. Raises OSError."""
        assert self._seen.identity is not None
        self.close()
        path = self._run.config.inbox.path
        self._root = open_root(path)
        mount = mounts.mount_at(path)
        self.network = mount.is_network if mount else False
        self.sync_each = mount.passes_no_syncfs if mount else False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def tell(self) -> bool:
        """Log what the last look has changed, and close what is gone; whether the inbox has come online."""
        before, seen = self._before, self._seen
        if not seen.online and (before.online or before.reason != seen.reason):
            self._log.warning("inbox_offline", error=seen.reason)
            self.close()
        elif seen.online and not before.online:
            self._log.info("inbox_online", filesystem=self.state.filesystem)
            return True
        return False

    # ------------------------------------------------------------------------------------------- what others are told

    def show(self, *, settling: int) -> None:
        """Tell the other threads how the inbox is. ``settling``: files that are waited for."""
        identity = self._seen.identity
        self.state = InboxState(
            online=self._seen.online,
            reason=self._seen.reason,
            filesystem=identity.fs_type if identity else "",
            sweep_seconds=self.sweep_seconds,
            last_sweep_ms=self.state.last_sweep_ms,
            swept_at=self.state.swept_at,
            settling=settling,
            events=self.events.complete,
        )
        self._requests.set_online(self._seen.online)

    def swept(self, took: float) -> None:
        """The whole inbox was swept, in ``took`` seconds."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.state = replace(self.state, last_sweep_ms=round(took * 1000, 1), swept_at=at)

    def _warn(self, sentence: str) -> None:
        self._log.warning("inbox_events_incomplete", reason=sentence)
