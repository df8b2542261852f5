"""A scan's own bytes and no others: its copy is checked against the hash that the history has, and then read."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import LostBytesError

if TYPE_CHECKING:
    from collections.abc import Iterator

HINT = "Drop the scan into the inbox again."


@contextmanager
def verified(source: Path, sha256: str) -> Iterator[Path]:
    """A path to the open file whose bytes have this hash, good inside the block.

    It leads to the file and not to its name: another file under the name is not what is read. A file that was
    written to meanwhile is found at the end. Raises `LostBytesError` for a missing file and for other bytes.
    """
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise LostBytesError("The copy of the scan is missing from the spool.", hint=HINT) from None
    with os.fdopen(descriptor, "rb") as file:
        before = _state(descriptor)
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise LostBytesError("The copy of the scan in the spool holds other bytes than were dropped.", hint=HINT)
        yield Path(f"/proc/self/fd/{descriptor}")
        if _state(descriptor) != before:
            raise LostBytesError("The copy of the scan in the spool changed while it was read.", hint=HINT)


def _state(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
