"""The messages to systemd, read at the other end of a real socket."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watcherd.notify import systemd
from watcherd.notify.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A listening manager and its NOTIFY_SOCKET."""
    name = f"@watcherd-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield sock, name


def test_every_message_reaches_path_and_abstract_sockets(manager: tuple[socket.socket, str]) -> None:
    """Each call is one datagram with the assignments that sd_notify(3) names."""
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name}, monotonic_ns=lambda: 12_345_678_901)
    notifier.extend(90.5, "loading 3/7")
    notifier.ready("idle")
    notifier.status("2 queued")
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping("finishing 1 batch")
    assert [
        b"EXTEND_TIMEOUT_USEC=90500000\nSTATUS=loading 3/7",
        b"READY=1\nSTATUS=idle",
        b"STATUS=2 queued",
        b"RELOADING=1\nMONOTONIC_USEC=12345678",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=finishing 1 batch",
    ] == [sock.recv(4096) for _ in range(6)]


def test_a_status_cannot_smuggle_in_another_message(manager: tuple[socket.socket, str]) -> None:
    """Line ends and other control characters become blanks; what is not UTF-8 becomes a question mark."""
    sock, name = manager
    Notifier({"NOTIFY_SOCKET": name}).status("a\nMAINPID=1\x1b[2J\u2028\udcffb")
    assert b"STATUS=a MAINPID=1 [2J  b" == sock.recv(4096)


def test_without_a_manager_nothing_happens() -> None:
    """No NOTIFY_SOCKET, an unknown kind of address or a socket that is gone: silence, not an exception."""
    for environ in ({}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"NOTIFY_SOCKET": "/nonexistent/notify"}):
        notifier = Notifier(environ)
        notifier.ready("x")
        notifier.watchdog()
        assert environ.get("NOTIFY_SOCKET", "").startswith("/") == notifier.listening


def test_a_full_queue_costs_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that reads nothing delays the daemon by the time limit, not for ever."""
    monkeypatch.setattr(systemd, "SEND_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        queue_length = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        for _ in range(queue_length + 1):
            notifier.watchdog()
        started = time.monotonic()
        notifier.watchdog()
        assert 0.05 <= time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_systemd_names(environ: dict[str, str], seconds: float | None) -> None:
    """WATCHDOG_USEC counts for the process in WATCHDOG_PID, or for any where none is named."""
    assert seconds == Notifier(environ).watchdog_seconds
