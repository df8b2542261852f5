"""Reach files below a folder without ever leaving it: every step by descriptor, no symbolic link followed.

A path is only a wish: somebody may put a symbolic link in a folder's place between two looks at it. So folders are
opened one component at a time with O_NOFOLLOW, and files are named relative to the folder's descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Self

from watcherd.file_names import check_relative

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening gives when the thing is gone or something else has taken its place."""


def open_root(root: Path) -> int:
    """A descriptor of a folder that the configuration names; it may itself be reached through links."""
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path below the inbox as its folder (empty for the inbox itself) and its name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def open_below(root_fd: int, folder: bytes, *, create: bool = False) -> int:
    """A descriptor of ``folder`` below ``root_fd``; empty means the root itself. The caller closes it.

    ``create`` makes what is missing. Raises OSError, with one of `VANISHED` where it is gone or a link stands in its
    place; ValueError for a path that would lead out.
    """
    if folder:
        check_relative(folder)
    descriptor = os.open(b".", _FOLDER, dir_fd=root_fd)
    for part in folder.split(b"/") if folder else ():
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            deeper = os.open(part, _FOLDER, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor


class OpenFolders:
    """Descriptors of folders below a root, kept open while a batch is worked on.

    At most ``limit`` at a time: a batch may touch more folders than the process may have files open.
    """

    def __init__(self, root_fd: int, *, create: bool = False, limit: int = 64) -> None:
        self._root_fd = root_fd
        self._create = create
        self._limit = limit
        self._open: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close them all."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getitem__(self, folder: bytes) -> int:
        """The descriptor of ``folder``, good until the next one is asked for. Raises OSError as `open_below`."""
        descriptor = self._open.get(folder)
        if descriptor is None:
            if len(self._open) >= self._limit:
                self.close()
            descriptor = self._open[folder] = open_below(self._root_fd, folder, create=self._create)
        return descriptor
