"""Take settled files: look once more whether they are finished, and copy them into the spool.

Everything is asked of the open file, never of its path: whatever somebody puts in its place meanwhile, what is hashed
and copied is the regular file that was opened, below the inbox, and it is refused when it changed under the copy.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import stat
from typing import TYPE_CHECKING, BinaryIO

from watcherd.crash_points import crash_point
from watcherd.errors import EXHAUSTED, TransientError
from watcherd.formats.dicom import without_pictures
from watcherd.formats.sniff import HEAD, pictures
from watcherd.formats.truncation import ends_early
from watcherd.inbox.durable import Durable
from watcherd.inbox.folders import VANISHED, OpenFolders, split
from watcherd.inbox.litter import is_probe
from watcherd.inbox.spool import BLOCK, Batch, Copy, Spool
from watcherd.inbox.values import (
    Gone,
    Ignored,
    Ingested,
    NotYet,
    Outcome,
    candidate_of,
    ignored_of,
    is_still,
    reason_not_regular,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watcherd.inbox.settle import Settled

BATCH = 256
"""Files that one sync makes durable together (FACTS: 4,695 small files a second at this size, 116 one by one)."""

NOBODY_WRITES = 60.0
"""Seconds that an unfinished file is waited for when it is known that nobody has it open, as between two pages."""

UNFILLED = 300.0
"""The same for gaps where it is not known who writes. No longer: some file systems store zeros as gaps."""

OPEN_FOR_WRITING = "is open for writing"

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def take(
    settled: Sequence[Settled], root_fd: int, spool: Spool, *, leases: bool = True, sync_each: bool = False
) -> list[Outcome]:
    """Copy settled files into the spool; one outcome for each, in order. Copies and files are durable then.

    ``root_fd``: descriptor of the inbox. ``leases``: whether its file system's leases tell the truth about writers
    (network file systems' do not). ``sync_each``: whether it syncs single files only (see `Durable`). Raises
    `TransientError` when the spool cannot be written or the inbox not be synced; then nothing was taken and nothing
    half-written is left.
    """
    crash_point("ingest.begun")
    with spool.batch() as batch, OpenFolders(root_fd) as folders:
        durable = Durable(root_fd, folders, files=len(settled), each=sync_each)
        taken = [_Taking(item, folders, batch, durable, leases=leases).outcome() for item in settled]
        batch.publish([copy for _, copy in taken if copy is not None])
        durable.batch([outcome.path for outcome, copy in taken if copy is not None], spool)
    return [outcome for outcome, _ in taken]


class _SourceError(Exception):
    """The inbox's file system failed to give a file's bytes."""


class _Taking:
    """One file on its way into a batch."""

    def __init__(self, settled: Settled, folders: OpenFolders, batch: Batch, durable: Durable, *, leases: bool) -> None:
        self._candidate = settled.candidate
        self._path = settled.candidate.path
        self._overdue = settled.overdue
        self._folders = folders
        self._batch = batch
        self._durable = durable
        self._leases = leases

    def outcome(self) -> tuple[Outcome, Copy | None]:
        try:
            descriptor = self._open()
        except OSError as error:
            return self._cannot_open(error), None
        try:
            return self._examine(descriptor)
        except (OSError, _SourceError) as error:
            return NotYet(path=self._path, reason=f"cannot be read: {error}"), None
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        folder, name = split(self._path)
        parent = self._folders[folder]
        try:
            return os.open(name, _OPEN | os.O_NOATIME, dir_fd=parent)
        except PermissionError:  # O_NOATIME is for the file's owner
            return os.open(name, _OPEN, dir_fd=parent)

    def _cannot_open(self, error: OSError) -> Outcome:
        if error.errno in EXHAUSTED:
            raise TransientError(f"Files of the inbox cannot be opened: {error.strerror}.") from error
        if error.errno in VANISHED or error.errno == errno.ENXIO:
            return Gone(path=self._path)
        if error.errno in (errno.EACCES, errno.EPERM):
            return Ignored(
                path=self._path,
                signature=self._candidate.signature,
                ctime_ns=self._candidate.ctime_ns,
                reason=f"may not be read by the service's user (uid {os.geteuid()}); give that user read permission",
            )
        return NotYet(path=self._path, reason=f"cannot be opened: {error.strerror}")

    def _examine(self, descriptor: int) -> tuple[Outcome, Copy | None]:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                return Gone(path=self._path), None
            return ignored_of(self._path, status, reason_not_regular(status.st_mode)), None
        if not is_still(self._candidate, status):
            return self._changed(status), None
        if status.st_size == 0 and is_probe(split(self._path)[1]):
            return ignored_of(
                self._path, status, "is empty, and called like the files by which editors try a folder"
            ), None
        content = _Content(descriptor, self._candidate.signature.size)
        note = unfinished(content, self._path, leases=self._leases)
        if note is not None and not self._overdue:
            return note, None
        with content.file() as file:
            if reason := without_pictures(file):
                return ignored_of(self._path, status, reason), None
            file.seek(0)
            revision = pictures(file.read(HEAD))
        return self._copy(content, note.reason if note else "", revision)

    def _changed(self, status: os.stat_result) -> NotYet:
        seen = candidate_of(self._path, status)
        return NotYet(path=self._path, reason="changed since it was last looked at", seen=seen)

    def _copy(self, content: _Content, note: str, revision: int) -> tuple[Outcome, Copy | None]:
        copy = self._batch.copy(content.blocks())
        status = os.fstat(content.descriptor)
        if not is_still(self._candidate, status) or copy.size_bytes != status.st_size:
            self._batch.drop(copy)
            return self._changed(status), None
        try:
            self._durable.file(content.descriptor)
        except OSError as error:
            self._batch.drop(copy)
            return NotYet(path=self._path, reason=f"cannot be made durable: {error.strerror}"), None
        ingested = Ingested(
            path=self._path,
            signature=self._candidate.signature,
            sha256=copy.sha256,
            size_bytes=copy.size_bytes,
            note=note,
            ctime_ns=self._candidate.ctime_ns,
            pictures=revision,
        )
        return ingested, copy


class _Content:
    """The bytes of an open file of ``size`` bytes. Those of a small one are read once, to be looked at and copied."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._whole: bytes | None = None

    def file(self) -> BinaryIO:
        """To look through. Raises OSError as reading does."""
        if self.size > BLOCK:
            return open(self.descriptor, "rb", closefd=False)
        if self._whole is None:
            self._whole = b"".join(self._read())
        return io.BytesIO(self._whole)

    def blocks(self) -> Iterator[bytes]:
        """To be copied. Raises `_SourceError`, to be told from errors of where they are written."""
        if self._whole is not None:
            yield self._whole
            return
        try:
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            yield from self._read()
        except OSError as error:
            raise _SourceError(error.strerror) from error

    def _read(self) -> Iterator[bytes]:
        """From where it stands to ``size``, and a byte more where the file has grown: it is not followed for ever."""
        count = 0
        while count < self.size and (block := os.read(self.descriptor, min(BLOCK, self.size + 1 - count))):
            count += len(block)
            yield block


def unfinished(content: _Content, path: bytes, *, leases: bool) -> NotYet | None:
    """What speaks for a file's being unfinished, if anything. Raises OSError as reading does."""
    writers = open_for_writing(content.descriptor) if leases else None
    if writers:
        return NotYet(path=path, reason=OPEN_FOR_WRITING)
    if content.size == 0:
        return NotYet(path=path, reason="is empty", patience=NOBODY_WRITES)
    nobody = writers is False
    with content.file() as file:
        early = ends_early(file)
    if early:
        return NotYet(path=path, reason=f"looks unfinished: {early}", patience=NOBODY_WRITES if nobody else None)
    if has_gaps(content.descriptor, content.size):
        reason = "has room that is not filled yet"
        return NotYet(path=path, reason=reason, patience=NOBODY_WRITES if nobody else UNFILLED)
    return None


def open_for_writing(descriptor: int) -> bool | None:
    """Whether any process of this machine has the file open for writing; None where that cannot be known.

    A read lease (fcntl(2)) is granted only while nobody has; it is given back at once. It is refused with EACCES
    for other users' files, without CAP_LEASE. Should a writer come in this very moment, the kernel tells us by a signal
    whose default kills: another one is chosen, which is ignored by default.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


def has_gaps(descriptor: int, size: int) -> bool:
    """Whether some part of the file was never written: made long by truncate or fallocate, then not filled.

    lseek(2) with SEEK_HOLE finds both; file systems that know no holes say that there are none.
    """
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    except OSError:
        return False
