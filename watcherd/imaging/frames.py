"""Frames in an ``.npy`` file, written and read one at a time.

Plain reads and writes, not a memory map: a map of a long run would count against the worker's address space, and a
full disk would end the process with SIGBUS in place of an error that names the reason.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from watcherd.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray


def write_frames(path: Path, frames: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write ``frames``, each of ``shape[1:]``, as one array of ``shape``. On failure no file remains.

    Raises `TransientError` when the file cannot be written (a full disk passes), and what ``frames`` raises.
    """
    writer = _Writer(path)
    try:
        writer.header({"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape})
        for frame in frames:
            writer.write(np.ascontiguousarray(frame, dtype))
        writer.close()
    except BaseException:
        writer.discard()
        raise


class _Writer:
    """Turns this file's errors, and no others, into `TransientError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise self._failed(error) from error

    def header(self, header: dict[str, Any]) -> None:
        npy.write_array_header_1_0(self._file, header)

    def write(self, frame: NDArray[Any]) -> None:
        try:
            self._file.write(frame.data)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def discard(self) -> None:
        with suppress(OSError):  # the error that led here is the one to report
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> TransientError:
        return TransientError(
            f"{self._path} cannot be written: {error.strerror}.",
            hint="Make room in the run folder; the job is tried again.",
        )


class FrameFile:
    """The frames of an ``.npy`` file of shape (frames, height, width) or (frames, height, width, 3)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, fortran, self.dtype = read(file)
            self._start = file.tell()
        if fortran:
            raise ValueError(f"{path} is in Fortran order")

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
