"""A mask as NIfTI in its source's own geometry: the same shape, affine and header, label values as uint8."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from watcherd.imaging.readers.nifti_scan import NiftiFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.formats.npy_frames import FrameFile

COMPRESSION: Final = 1

FREE_TEXT: Final = ("descrip", "aux_file", "db_name", "intent_name", "data_type")
"""Fields of the header that people write into: they may hold a patient's name."""

NUMBERS: Final = {
    "scl_slope": 1, "scl_inter": 0, "cal_min": 0, "cal_max": 0, "glmin": 0, "glmax": 0, "intent_code": 0,
    "intent_p1": 0, "intent_p2": 0, "intent_p3": 0,
}  # fmt: skip
"""Fields that speak of the source's values, set to what says nothing."""


def write_nifti_mask(path: Path, source: Path, labels: FrameFile) -> None:
    """Write ``labels`` (frames, height, width), as displayed, back onto the voxels of ``source``, packed with gzip.

    Label values as they are, 1 for a single class, as programs for volumes expect. Free text of the header and
    its extensions are left out. The same mask gives the same bytes. Memory holds one slice at a time.

    Raises `InputError` as reading the source does, and OSError.
    """
    volume = NiftiFile(source)
    try:
        with path.open("wb") as raw, gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as file:
            file.write(_header(volume.header))
            for index in range(volume.shape[2]):
                file.write(_slice(volume, labels[index]))
    finally:
        volume.close()


def _header(source: Any) -> bytes:
    """The source's header for values of uint8, and the four bytes that say that no extension follows."""
    header = source.copy()
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    for name in FREE_TEXT:
        if name in header:
            header[name] = b""
    for name, value in NUMBERS.items():
        if name in header:
            header[name] = value
    header["vox_offset"] = header.sizeof_hdr + 4
    return bytes(header.binaryblock) + bytes(4)


def _slice(volume: NiftiFile, picture: NDArray[np.uint8]) -> bytes:
    """One slice in the order of the file: the first axis is the fastest."""
    stored = volume.turn.stored(picture)
    if stored.shape != volume.shape[:2]:
        raise ValueError(f"the mask's slice has the shape {stored.shape}, the volume's {volume.shape[:2]}")
    return stored.tobytes(order="F")
