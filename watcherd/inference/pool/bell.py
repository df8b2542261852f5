"""A bell that one thread waits for and every other thread may ring."""

from __future__ import annotations

import os


class Bell:
    """Rung by any thread; answered by the one thread that it is for.

    It has a descriptor, so that its thread can wait for it and for a process or a connection at the same time. Rings
    that nobody has answered yet count as one.
    """

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable from a ring until the answer, for select(2) and its kin."""
        return self._descriptor

    def ring(self) -> None:
        """Wake the thread that waits, or else make its next wait return at once."""
        os.eventfd_write(self._descriptor, 1)

    def answer(self) -> None:
        """Take note of all rings so far. Raises `BlockingIOError` when there was none."""
        os.eventfd_read(self._descriptor)
