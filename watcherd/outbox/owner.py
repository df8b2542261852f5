"""Whose an outbox is: one service's, which its marker file names, and which holds the marker's lock while it runs.

Two services in one outbox would take each other's staged files and give out each other's names. An outbox without a
marker, as earlier versions left it, belongs to the first that starts with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from watcherd.errors import BusyError, UnavailableError
from watcherd.file_names import show
from watcherd.files import write_durably
from watcherd.outbox.deliver import STAGING

if TYPE_CHECKING:
    from types import TracebackType

MARKER = ".watcherd-owner"
"""Name of the marker, in the outbox."""
ID = "id"
"""Name of the file in the state folder that tells one from all others, wherever it is moved."""
MACHINE_ID = Path("/etc/machine-id")

_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What flock(2) gives on file systems that have none; the marker itself must do there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A service, as the marker names it. ``id``: its state folder's own; ``state``: where that is, as it is shown."""

    id: str
    machine: str
    host: str
    state: str

    @classmethod
    def here(cls, state: Path) -> Self:
        """The service of this machine with this state folder, which gets its id if it has none."""
        file = state / ID
        if not file.exists():
            write_durably(file, secrets.token_hex(8).encode() + b"\n")
        return cls(
            id=file.read_text().strip(),
            machine=MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else "",
            host=socket.gethostname(),
            state=show(os.fsencode(state)),
        )

    @property
    def short(self) -> str:
        """What names in the staging folder begin with."""
        return self.id[:8]

    def is_same(self, other: Owner) -> bool:
        """Whether both are one service: a state folder that was moved, or one that was made anew in its place."""
        here = (self.machine or self.host, self.state) == (other.machine or other.host, other.state)
        return here or self.id == other.id

    def __str__(self) -> str:
        return f"the state folder {self.state} on {self.host}"


class Ownership:
    """The right to an outbox, held until `release`. ``root``: the outbox, which must be there."""

    def __init__(self, root: Path, owner: Owner) -> None:
        self._root = root
        self._owner = owner
        self._marker: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def claim(self) -> None:
        """Own the outbox, if nobody else does; may be repeated.

        Raises `BusyError` that names both, and OSError when the outbox cannot be written.
        """
        if self._marker is not None:
            return
        marker = self._open()
        try:
            self._own(marker)
        except BaseException:
            os.close(marker)
            raise
        self._marker = marker

    def _open(self) -> int:
        """The marker, made if it is missing. Raises `BusyError` where it may only be read, and is another's."""
        path = self._root / MARKER
        try:
            marker = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except PermissionError:
            with contextlib.suppress(OSError):
                if (other := owner_of(self._root)) is not None and not other.is_same(self._owner):
                    raise self._refused(other, "whose user is another one") from None
            raise
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise self._no_file() from error
        if not stat.S_ISREG(os.fstat(marker).st_mode):
            os.close(marker)
            raise self._no_file()
        return marker

    def _no_file(self) -> UnavailableError:
        return UnavailableError(f"{self._root / MARKER} is no file.", hint="Take away what is there.")

    def _own(self, marker: int) -> None:
        before = _read(marker)
        if not _lock(marker):
            raise self._refused(before, "which is running")
        if before is not None and not before.is_same(self._owner):
            raise self._refused(before, "even while that is not running")
        _write(marker, self._owner)

    def _refused(self, other: Owner | None, how: str) -> BusyError:
        return BusyError(
            f"The outbox {self._root} belongs to {other or 'another service'}, {how}; this is {self._owner}.",
            hint="Give each service an outbox of its own (outbox.path). If the other one is gone for good: "
            "watcherd outbox take-over.",
        )

    def take_over(self) -> tuple[Owner | None, int]:
        """Own the outbox whoever owned it; its owner until now, and how many half-finished results of his were removed.

        Raises `BusyError` while that one runs.
        """
        self._marker = marker = self._open()
        before = _read(marker)
        if not _lock(marker):
            raise BusyError(
                f"The outbox {self._root} is in use by {before or 'another service'}.", hint="Stop that one first."
            )
        _write(marker, self._owner)
        if before is None or before.is_same(self._owner):
            return before, 0
        return before, _discard(self._root / STAGING, before)

    def release(self) -> None:
        """Let go of the lock; the outbox stays ours."""
        if self._marker is not None:
            os.close(self._marker)
            self._marker = None


def owner_of(root: Path) -> Owner | None:
    """Whose an outbox is; None when it is nobody's. Raises OSError when it cannot be read."""
    try:
        marker = os.open(root / MARKER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return _read(marker)
    finally:
        os.close(marker)


def _read(marker: int) -> Owner | None:
    try:
        values: dict[str, Any] = json.loads(os.pread(marker, 1 << 16, 0))
        return Owner(**values)
    except (ValueError, TypeError):  # new, or its writing was cut short: the lock says whether somebody is there
        return None


def _write(marker: int, owner: Owner) -> None:
    content = json.dumps(asdict(owner), indent=2).encode() + b"\n"
    if os.pread(marker, len(content) + 1, 0) == content:
        return
    os.pwrite(marker, content, 0)
    os.ftruncate(marker, len(content))
    os.fsync(marker)


def _lock(marker: int) -> bool:
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _discard(staging: Path, owner: Owner) -> int:
    with contextlib.suppress(FileNotFoundError):
        folders = [path for path in staging.iterdir() if path.name.startswith(f"{owner.short}-")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return len(folders)
    return 0
