"""What the main process and the bridge say to each other, and how: framed messages through a Unix socket.

The bridge has a network and the main process has none. So the main process unpickles nothing but the classes that are
listed here, whatever the bridge sends. Paths cross, pixels do not: both are on one machine. Each replica has a
connection of its own, so what comes too late from one that was given up has nowhere to arrive.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.messages import FromReplica, ReplicaSpec, WorkItem

SEND_SECONDS = 10.0
"""Seconds that the other side may leave a message unread before it counts as gone."""
MOST_BYTES = 64 * 2**20
"""Of one message: a sentence of the replica's, or the paths of a batch. More is no message."""
_LENGTH = struct.Struct("!I")
_PIECE = 1 << 16

_KNOWN = {
    "watcherd.inference.cluster.wire": {"Started", "NoRoom", "Said", "Over", "Gone", "Nodes"},
    "watcherd.inference.cluster.nodes": {"Node"},
    "watcherd.inference.machine.devices": {"Device"},
    "watcherd.inference.messages": {
        "Segmented", "NotSegmented", "Marked", "Ready", "LoadFailed", "BatchEnded", "Poisoned", "Worn",
    },
    "watcherd.inference.base": {"ModelInfo"},
    "watcherd.values": {"DeviceUse", "_made"},
    "watcherd.job": {"ErrorClass"},
    "pathlib": {"PosixPath"},
}  # fmt: skip
"""What the bridge may send, by module. ``_made`` makes values of these classes, and of no others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """To the bridge, first on a replica's connection: start a process on this node. ``cards``: UUIDs there."""

    spec: ReplicaSpec
    ship: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AskNodes:
    """To the bridge: which machines are there? As often as one likes on one connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """To the bridge: a batch."""

    items: tuple[WorkItem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AskStack:
    """To the bridge: have the process write down what its threads are doing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """To the bridge: end the process now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """To the bridge: end the process in good order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """From the bridge: every machine that Ray has, those that are refused too."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoRoom:
    """From the bridge: no process can be started there at the moment."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """From the bridge: the process runs, with this pid on its machine."""

    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """From the bridge: what the process says. The results that it speaks of are on this machine already."""

    messages: tuple[FromReplica, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """From the bridge: the process has ended. ``lost``: its machine cannot be reached, and nobody knows more."""

    reason: str
    stack: str = ""
    lost: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """From the bridge, last: what was to be ended has ended, and its memory is free; or (``lost``) its machine did not
    answer, and it ends when that does."""

    stack: str = ""
    lost: bool = False


class _Known(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"the bridge sent {module}.{name}, which is none of its messages")
        return super().find_class(module, name)


class Channel:
    """One end of a connection. One thread receives; any thread sends or closes.

    ``trusting``: take any pickle. The bridge does, from the main process, to which alone its socket is open.
    """

    def __init__(self, connection: socket.socket, *, trusting: bool = False) -> None:
        self._socket = connection
        self._socket.settimeout(SEND_SECONDS)
        self._trusting = trusting
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._whole: deque[Any] = deque()

    def fileno(self) -> int:
        """For select(2) and its kin; what was received together with something else is in `waiting`."""
        return self._socket.fileno()

    @property
    def waiting(self) -> deque[Any]:
        """Messages that have been received and not been taken."""
        return self._whole

    def send(self, message: object) -> None:
        """Raises `OSError` when nobody is there to read it."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(content)) + content)

    def receive(self) -> None:
        """Read what has come into `waiting`, which may be less than a message. Raises `EOFError` at its end, `OSError`
        when it is broken, `pickle.UnpicklingError` for what is no message."""
        piece = self._socket.recv(_PIECE)
        if not piece:
            raise EOFError
        self._buffer += piece
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MOST_BYTES:
                raise pickle.UnpicklingError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            self._whole.append(pickle.loads(content) if self._trusting else _known(content))  # noqa: S301

    def shut(self) -> None:
        """Nothing comes or goes any more; both sides notice at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it was shut already

    def close(self) -> None:
        """Give the descriptor back; for the receiving thread, last."""
        self.shut()
        self._socket.close()


def _known(content: bytes) -> Any:
    try:
        return _Known(io.BytesIO(content)).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # of what only looks like a message: anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def connect(path: Path) -> Channel:
    """A connection to the bridge. Raises `OSError` when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(SEND_SECONDS)
        with short(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        raise
    return Channel(connection)


def listen(path: Path) -> socket.socket:
    """The bridge's socket, which only this user may open; one that a dead bridge left is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    path.unlink(missing_ok=True)
    with short(path) as name:
        before = os.umask(0o177)
        try:
            listener.bind(name)
        finally:
            os.umask(before)
    listener.listen(128)
    return listener


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a socket's path, which may have 107 bytes at most: through its folder's descriptor (proc(5))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
