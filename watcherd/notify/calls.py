"""Calling somebody else: a program with text on its stdin, or a web server with a POST; each within a deadline.

Both raise `CallFailedError` with what went wrong in words, and `StoppedCallError` when ``stopping`` was set first.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from http.client import HTTPConnection

TICK_SECONDS = 0.1
"""Between two looks whether a call must end; the end of a program is seen at once."""
TAIL_BYTES = 2000
"""Bytes kept of the end of an answer."""


class CallFailedError(Exception):
    """The call failed; ``tail``: the end of what was said in return."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.tail = tail


class StoppedCallError(Exception):
    """The call was cut short because this program ends; nothing is known about it."""


def run_program(
    command: Sequence[str],
    *,
    content: bytes,
    environment: Mapping[str, str],
    seconds: float,
    stopping: threading.Event,
) -> None:
    """Run a program with ``content`` on its stdin; exit status 0 is success.

    At the deadline it is killed with its whole process group. What it writes is read and thrown away but for the end.
    """
    try:
        with _as_file(content) as stdin:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CallFailedError(f"{command[0]} cannot be started: {what}") from error
    with process:
        tail = bytearray()
        try:
            _watch(process, tail, time.monotonic() + seconds, stopping)
        except TimeoutError:
            raise CallFailedError(f"it took longer than {seconds:g} s and was killed", _text(tail)) from None
        finally:
            if process.poll() is None:
                _kill_group(process)
    if process.returncode:
        raise CallFailedError(_ending(process.returncode), _text(tail))


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    """A descriptor to read ``content`` from: unlike a pipe it never waits for a program that does not read."""
    descriptor = os.memfd_create("watcherd")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _watch(process: subprocess.Popen[bytes], tail: bytearray, deadline: float, stopping: threading.Event) -> None:
    """Read until the program itself has ended, whoever else still holds its output. Raises TimeoutError."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    os.set_blocking(output, False)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while process.poll() is None:
        if time.monotonic() > deadline:
            _read(output, tail)
            raise TimeoutError
        if stopping.is_set():
            raise StoppedCallError
        if poll.poll(TICK_SECONDS * 1000) and not _read(output, tail):
            poll.unregister(output)  # it has closed its output; from here on only its end is waited for
            poll = select.poll()
    _read(output, tail)


def _read(output: int, tail: bytearray) -> bool:
    """Take in what there is; False at the end."""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(output, 1 << 16):
            tail += piece
            del tail[:-TAIL_BYTES]
        return False
    return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(returncode: int) -> str:
    if returncode > 0:
        return f"it ended with exit status {returncode}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-returncode).name}"
    return f"it was ended by signal {-returncode}"


def _text(tail: bytes | bytearray) -> str:
    """As one line that can be shown anywhere."""
    text = tail.decode(errors="replace")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def post(url: str, *, content: bytes, headers: Mapping[str, str], seconds: float, stopping: threading.Event) -> None:
    """POST ``content``; an answer of 200 to 299 is success. Redirects are not followed: they would lose the body."""
    import http.client

    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with _cut_off(connection, seconds, stopping) as cut:
            connection.request("POST", target, body=content, headers=dict(headers))
            response = connection.getresponse()
            tail = b"" if 200 <= response.status < 300 else response.read(TAIL_BYTES)
    except (OSError, http.client.HTTPException) as error:
        if stopping.is_set():
            raise StoppedCallError from error
        if cut.is_set() or isinstance(error, TimeoutError):
            raise CallFailedError(f"no answer within {seconds:g} s") from error
        raise CallFailedError(_words(error)) from error
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise CallFailedError(f"it answered {response.status} {response.reason}".rstrip(), _text(tail))


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


@contextlib.contextmanager
def _cut_off(connection: HTTPConnection, seconds: float, stopping: threading.Event) -> Iterator[threading.Event]:
    """Close the connection under whoever waits for it when time is up: a socket's own timeout begins anew with each
    byte that comes. The event that is yielded tells that this has happened."""
    done, cut = threading.Event(), threading.Event()
    deadline = time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(TICK_SECONDS):
            if stopping.is_set() or time.monotonic() > deadline:
                cut.set()
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(2)
                    return

    watcher = NamedThread(target=watch, name="hook-deadline", daemon=True)
    watcher.start()
    try:
        yield cut
    finally:
        done.set()
        watcher.join()
