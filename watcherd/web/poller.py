"""One look at the service for all who watch: as long as somebody does, and no longer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

EVERY_SECONDS = 1.0
"""Seconds between two looks, at least."""
REST = 10
"""A look that takes long is followed by this many times as long a rest: a busy disk is left alone."""


class Poller:
    """Looks, and tells everybody what has changed. ``look``: reads the files of the state folder, in a thread.

    For one event loop.
    """

    def __init__(self, look: Callable[[], str], *, every: float = EVERY_SECONDS) -> None:
        self._look = look
        self._every = every
        self._latest: str | None = None
        self._changed = asyncio.Condition()
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.looks = 0
        """How often it has looked, whoever watched."""

    async def watch(self) -> AsyncIterator[str]:
        """What there is to see, then each time that it has changed; ends when the page stops."""
        self._watchers += 1
        seen = None
        try:
            if self._task is None or self._task.done():
                self._latest = None
                self._task = asyncio.create_task(self._go_on())
            while not self._closed:
                if self._latest is not None and self._latest != seen:
                    seen = self._latest
                    yield seen
                    continue
                async with self._changed:
                    await self._changed.wait()
        finally:
            self._watchers -= 1

    async def close(self) -> None:
        """Let everybody go."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    async def _go_on(self) -> None:
        while self._watchers and not self._closed:
            began = time.monotonic()
            found = await asyncio.to_thread(self._look)
            self.looks += 1
            async with self._changed:
                if found != self._latest:
                    self._latest = found
                    self._changed.notify_all()
            await asyncio.sleep(max(self._every, REST * (time.monotonic() - began)))
