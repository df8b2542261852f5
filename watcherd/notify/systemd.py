"""What the daemon tells systemd about itself: the protocol of sd_notify(3), with the standard library alone.

Without ``NOTIFY_SOCKET`` every call does nothing, and no call ever raises: a daemon that cannot reach its manager goes
on with its work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SEND_SECONDS = 1.0
"""Seconds that a message waits for a manager whose queue is full; then it is given up."""


class Notifier:
    """Sends messages to the service manager named in ``environ``. Any thread may call it."""

    def __init__(
        self, environ: Mapping[str, str] = os.environ, *, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._monotonic_ns = monotonic_ns
        self.watchdog_seconds = _watchdog_seconds(environ)
        """systemd kills us when `watchdog` was not called for this long; None: nobody waits for pings."""

    @property
    def listening(self) -> bool:
        """Whether there is a manager to talk to."""
        return self._address is not None

    def ready(self, status: str = "") -> None:
        """Started, or done with reloading: ``systemctl start`` and ``reload`` return."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_one_line(text)}")

    def extend(self, seconds: float, status: str = "") -> None:
        """Ask for this many seconds more, from now on, to finish starting, reloading or stopping."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}", *_status(status))

    def reloading(self, status: str = "") -> None:
        """The configuration is being read again; `ready` ends it. The time is what ``Type=notify-reload`` asks for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}", *_status(status))

    def stopping(self, status: str = "") -> None:
        """The service is on its way down."""
        self._send("STOPPING=1", *_status(status))

    def watchdog(self) -> None:
        """Still making progress. Call it from the loop that does the work, at least twice in `watchdog_seconds`."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # A socket for each message: nothing to lock between threads, nothing to lose when the manager restarts.
        # It is connected so that a full queue is waited for by poll, and for a bounded time.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_SECONDS)
            sock.connect(self._address)
            sock.send("\n".join(lines).encode("utf-8", "replace"))


def _address(value: str) -> str | None:
    """The socket's address: a path, or after ``@`` a name in the abstract namespace; None for any other kind."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # inherited from a parent: its pings are asked for, not ours
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1_000_000 if microseconds > 0 else None


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={_one_line(text)}",) if text else ()


def _one_line(text: str) -> str:
    """``text`` without characters that would end the line: what follows one would be read as another message."""
    return "".join(character if character.isprintable() else " " for character in text)
