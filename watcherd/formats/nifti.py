"""What a NIfTI file's first bytes say: the size of its volume, and whether the file is long enough for it.

Cheap and safe enough for the main process. Sources: the headers ``nifti1.h`` and ``nifti2.h`` of the NIfTI Data Format
Working Group, and RFC 1952 (gzip).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["HEAD", "Volume", "is_gzip", "looks_like_nifti", "nifti_ends_early", "volume"]

HEAD: Final = 512
"""Bytes from a file's start that are looked at, packed or not; headers are shorter (348 and 540)."""

FIRST_VALUE: Final = {1: 352, 2: 544}
"""Bytes before the values of a file without extensions, by version: the header, and four that say that none follow.
Some writers leave the header's own word for it 0."""

MOST_INFLATED: Final = 1 << 28
"""Of a packed file that may have been cut off, so much is unpacked to be sure; longer ones are left to the decoder."""

BLOCK: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """``shape``: the header's dimensions, the fastest first; ``sides``: of a voxel in these, in the header's units, as
    they stand there. ``offset``: where the values begin, never inside the header; ``bits`` of each. ``version``: of
    NIfTI, 1 or 2."""

    version: int
    shape: tuple[int, ...]
    sides: tuple[float, ...]
    bits: int
    offset: int

    @property
    def end(self) -> int:
        """Bytes that the file must have, once unpacked."""
        count = 1
        for side in self.shape:
            count *= side
        return self.offset + (count * self.bits + 7) // 8


def is_gzip(head: bytes) -> bool:
    """Whether a file that begins so is packed with gzip."""
    return head[:3] == b"\x1f\x8b\x08"


def looks_like_nifti(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (`HEAD` bytes) is a single-file NIfTI, packed or not."""
    return volume(head) is not None


def volume(head: bytes) -> Volume | None:
    """The volume that a file beginning with ``head`` claims to hold; None for one that is no NIfTI."""
    if is_gzip(head):
        try:
            head = zlib.decompressobj(31).decompress(head[:HEAD], 2 * HEAD)
        except zlib.error:
            return None
    if head[344:347] == b"n+1" and (order := _order(head, 348)):
        version = 1
        dimensions = struct.unpack_from(f"{order}8h", head, 40)
        sides = struct.unpack_from(f"{order}8f", head, 76)
        (bits,) = struct.unpack_from(f"{order}h", head, 72)
        (offset,) = struct.unpack_from(f"{order}f", head, 108)
    elif head[4:7] == b"n+2" and (order := _order(head, 540)) and len(head) >= 176:
        version = 2
        dimensions = struct.unpack_from(f"{order}8q", head, 16)
        sides = struct.unpack_from(f"{order}8d", head, 104)
        (bits,) = struct.unpack_from(f"{order}h", head, 14)
        (offset,) = struct.unpack_from(f"{order}q", head, 168)
    else:
        return None
    shape = tuple(max(0, side) for side in dimensions[1 : 1 + min(7, max(0, dimensions[0]))])
    start = int(offset) if 0 <= offset < 2**62 else 2**62
    return Volume(
        version=version,
        shape=shape,
        sides=sides[1 : 1 + len(shape)],
        bits=max(0, bits),
        offset=max(start, FIRST_VALUE[version]),
    )


def _order(head: bytes, size: int) -> str:
    """The byte order, by the header's own size that every header begins with; empty where that is wrong."""
    return next((order for order in "<>" if struct.unpack_from(f"{order}i", head)[0] == size), "")


def nifti_ends_early(file: BinaryIO, size: int) -> bool:
    """Whether ``file``, of ``size`` bytes, is sure to stop before the end of its volume. Raises OSError."""
    file.seek(0)
    head = file.read(HEAD)
    claimed = volume(head)
    if claimed is None:
        return False
    if not is_gzip(head):
        return size < claimed.end
    file.seek(max(0, size - 4))
    if file.read(4) == struct.pack("<I", claimed.end % 2**32):
        return False  # what gzip writes last is the length of what it has packed
    return claimed.end <= MOST_INFLATED and _unpacks_to_less(file, claimed.end)


def _unpacks_to_less(file: BinaryIO, expected: int) -> bool:
    """Whether the packed data end before ``expected`` bytes have come out; a broken stream is not an early end."""
    file.seek(0)
    inflater = zlib.decompressobj(31)
    count, data = 0, b""
    while count < expected:
        if not data and not (data := file.read(BLOCK)):
            return True
        try:
            count += len(inflater.decompress(data, BLOCK))
        except zlib.error:
            return False
        data = inflater.unconsumed_tail
        if inflater.eof:  # several streams may stand one behind the other
            data, inflater = inflater.unused_data, zlib.decompressobj(31)
    return False
