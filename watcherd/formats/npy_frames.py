"""Frames in an ``.npy`` file, written and read one at a time.

Plain reads and writes, not a memory map: a map of a long run would count against a worker's address space, and a full
disk would end the process with SIGBUS, a replica with its loaded model too, in place of an error that names the reason.
"""

from __future__ import annotations

import io
import mmap
import os
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from watcherd.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray


PREFIX = 12
"""Bytes before an ``.npy`` file's header, which is a line of text: the magic number, the version, the length."""
LONGEST_HEADER = 4096


def write_frames(path: Path, frames: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write ``frames``, each of ``shape[1:]``, as one array of ``shape``. On failure no file remains.

    Raises `TransientError` when the file cannot be written (a full disk passes), and what ``frames`` raises.
    """
    writer = FrameWriter(path, shape, dtype)
    try:
        for index, frame in enumerate(frames):
            writer.write(index, frame)
        writer.close()
    except BaseException:
        writer.discard()
        raise


class FrameWriter:
    """An ``.npy`` file of ``shape`` (frames, ...) whose frames may come in any order.

    The file is complete once every frame has been written. Turns this file's errors, and no others, into
    `TransientError`: a full disk passes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path = path
        self._shape, self._dtype = shape, np.dtype(dtype)
        header = io.BytesIO()
        npy.write_array_header_1_0(
            header, {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        )
        self._start = header.tell()
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._put(header.getbuffer(), 0)
        except BaseException:
            self.discard()
            raise

    def write(self, index: int, frame: NDArray[Any]) -> None:
        """Put ``frame``, of ``shape[1:]``, at its place."""
        if frame.shape != self._shape[1:]:
            raise ValueError(f"a frame of {frame.shape} does not go into {self._shape}")
        content = np.ascontiguousarray(frame, self._dtype).reshape(-1).view(np.uint8)
        self._put(content.data, self._start + index * content.nbytes)

    def close(self) -> None:
        """Raises `TransientError` when the disk says only now that it has no room (network file systems)."""
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        """Close and remove the file, whatever state it is in."""
        with suppress(OSError):  # the error that led here is the one to report
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _put(self, content: memoryview, offset: int) -> None:
        try:
            while content:
                written = os.pwrite(self._file.fileno(), content, offset)
                content, offset = content[written:], offset + written
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TransientError:
        return TransientError(
            f"{self.path} cannot be written: {error.strerror}.",
            hint="Make room in the run folder; the job is tried again.",
        )


class FrameFile:
    """The frames of an ``.npy`` file of shape (frames, height, width) or (frames, height, width, 3)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            beginning = file.read(LONGEST_HEADER)
        self.shape, fortran, self.dtype, self._start = _header(beginning[: beginning.index(b"\n", PREFIX) + 1])
        if fortran:
            raise ValueError(f"{path} is in Fortran order")

    def mapped(self) -> NDArray[Any]:
        """All frames as one read-only array, whose pages are read when they are used."""
        with self._path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, self.dtype, int(np.prod(self.shape)), self._start).reshape(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shape = self.shape[1:]
        count = int(np.prod(shape))
        offset = self._start + index * count * self.dtype.itemsize
        return np.fromfile(self._path, self.dtype, count, offset=offset).reshape(shape)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))


@lru_cache
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, dtype, and where the content starts.

    numpy parses it as Python, which takes longer than to read a small frame; most scans are of the same few sizes.
    """
    file = io.BytesIO(header)
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    return *read(file), file.tell()
