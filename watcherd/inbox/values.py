"""What the parts of the inbox tell each other: plain values, paths in bytes and relative to the inbox."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watcherd.values import Signature

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A regular file that is not on the ignore list, as it was last seen.

    ``ctime_ns`` changes with every write and with permissions, and cannot be set back: two equal candidates mean
    that nothing has happened to the file in between. ``blocks``: 512-byte blocks that it occupies.
    """

    path: bytes
    signature: Signature
    ctime_ns: int
    blocks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignored:
    """Something in the inbox that is no scan, with the reason and, where there is any, what to do about it.

    Look at it again when ``ctime_ns`` changes: permissions are part of it, and not of the signature.
    """

    path: bytes
    signature: Signature
    ctime_ns: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """A scan whose bytes lie in the spool, synced, under their own hash.

    ``note``: what looked unfinished about it when it was taken nevertheless; empty for all others.
    ``ctime_ns``: of the file when it was taken. ``pictures``: which version's picture is made of it
    (`watcherd.job.Options`).
    """

    path: bytes
    signature: Signature
    sha256: str
    size_bytes: int
    note: str = ""
    ctime_ns: int = 0
    pictures: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NotYet:
    """A file that cannot be taken yet, and why.

    ``patience``: seconds without a change after which it is to be taken as it is; None: the settler's own limit.
    ``seen``: what the file looked like, where that was another file than expected.
    """

    path: bytes
    reason: str
    patience: float | None = None
    seen: Candidate | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """There is nothing at this path any more."""

    path: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder; what is in it is for a sweep to say."""

    path: bytes


Outcome = Ingested | NotYet | Ignored | Gone
"""What came of taking one candidate."""

Seen = Candidate | Ignored | Folder | Gone
"""What one look at a path showed."""


def in_64_bits(time_ns: int) -> int:
    """A file's time as 64 bits hold it, in two's complement: some file systems know times after the year 2262."""
    return (time_ns + 2**63) % 2**64 - 2**63


def signature_of(status: os.stat_result) -> Signature:
    """The signature in the result of an lstat or fstat."""
    mtime_ns = in_64_bits(status.st_mtime_ns)
    return Signature(size=status.st_size, mtime_ns=mtime_ns, device=status.st_dev, inode=status.st_ino)


def candidate_of(path: bytes, status: os.stat_result) -> Candidate:
    """The candidate that an lstat or fstat of a regular file shows."""
    ctime_ns = in_64_bits(status.st_ctime_ns)
    return Candidate(path=path, signature=signature_of(status), ctime_ns=ctime_ns, blocks=status.st_blocks)


def is_still(candidate: Candidate, status: os.stat_result) -> bool:
    """Whether an lstat or fstat shows ``candidate`` as it was: `candidate_of` would give an equal one."""
    seen = candidate.signature
    return (
        status.st_size == seen.size
        and in_64_bits(status.st_ctime_ns) == candidate.ctime_ns
        and in_64_bits(status.st_mtime_ns) == seen.mtime_ns
        and status.st_ino == seen.inode
        and status.st_dev == seen.device
        and status.st_blocks == candidate.blocks
    )


def ignored_of(path: bytes, status: os.stat_result, reason: str) -> Ignored:
    """Something that is no scan, as an lstat or fstat shows it."""
    return Ignored(path=path, signature=signature_of(status), ctime_ns=in_64_bits(status.st_ctime_ns), reason=reason)


_KINDS = {
    stat.S_IFLNK: "a symbolic link; put the file itself here",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def reason_not_regular(mode: int) -> str:
    """Why something that is neither a file nor a folder is ignored; ``mode`` as in ``st_mode``."""
    return f"is {_KINDS.get(stat.S_IFMT(mode), 'no file')}"
