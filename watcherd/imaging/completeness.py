"""Tell a file that ends too early from one that is broken: the first may still be on its way.

Decoders do not: a preallocated JPEG whose second half is still zeros decodes to grey without a complaint. Each check
follows the container's own structure to its end mark and reads no pixels.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

ZERO_TAIL = 512
"""A broken file that ends with this many zero bytes has been preallocated and not filled yet."""

BLOCK = 1 << 20


def ends_early(path: Path, format_name: str) -> bool:
    """Whether the file stops before its format's end mark.

    ``format_name``: ``PNG``, ``JPEG``, ``GIF``, ``WEBP`` or ``TIFF``; others have no mark and are never early.
    """
    check = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff}.get(format_name)
    if check is None:
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return check(file, size)
        except _EndOfFileError:
            return True


def ends_in_zeros(path: Path) -> bool:
    """Whether the last `ZERO_TAIL` bytes are zero: not written yet, as far as one can see."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - ZERO_TAIL))
        return size >= ZERO_TAIL and not file.read().strip(b"\0")


class _EndOfFileError(Exception):
    """The file ended inside a structure."""


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise _EndOfFileError
    return data


def _png(file: BinaryIO, size: int) -> bool:
    file.seek(8)
    while True:
        length, kind = struct.unpack(">I4s", _take(file, 8))
        if kind == b"IEND":
            return False
        if not kind.isalpha():
            return not kind.strip(b"\0")  # zeros: preallocated; anything else is the decoder's to judge
        if file.seek(length + 4, 1) > size:
            return True


def _jpeg(file: BinaryIO, size: int) -> bool:
    """Follow the segments to the first scan (a thumbnail inside them has an end mark of its own), then look for EOI,
    which cannot occur in the compressed data: there every 0xFF is followed by a 0 or a restart mark."""
    file.seek(2)
    while True:
        mark, kind = _take(file, 2)
        if mark != 0xFF:
            return not (mark or kind)
        if kind == 0xDA:
            break
        if kind == 0xFF:  # fill byte
            file.seek(-1, 1)
        elif kind != 0x01 and not 0xD0 <= kind <= 0xD8:
            length = int.from_bytes(_take(file, 2), "big")
            if file.seek(length - 2, 1) > size:
                return True
    last = b""
    while block := file.read(BLOCK):
        if b"\xff\xd9" in last + block:
            return False
        last = block[-1:]
    return True


def _gif(file: BinaryIO, _size: int) -> bool:
    file.seek(10)
    _skip_colours(file, _take(file, 3)[0])
    while True:
        kind = _take(file, 1)
        if kind == b"!":
            _take(file, 1)
        elif kind == b",":
            _skip_colours(file, _take(file, 9)[8])
            _take(file, 1)
        else:
            return kind == b"\0"  # ";" is the end mark
        while length := _take(file, 1)[0]:
            _take(file, length)


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _take(file, 3 << (flags & 7) + 1)


def _webp(file: BinaryIO, size: int) -> bool:
    file.seek(4)
    return int.from_bytes(_take(file, 4), "little") + 8 > size


def _tiff(file: BinaryIO, size: int) -> bool:
    """Only the first directory's place: writers put it last, and a copy that lacks it lacks the end."""
    order = "<" if _take(file, 2) == b"II" else ">"
    big = bool(struct.unpack(f"{order}H", _take(file, 2))[0] == 43)
    if big:
        _take(file, 4)
    offset = int(struct.unpack(f"{order}{'Q' if big else 'I'}", _take(file, 8 if big else 4))[0])
    return offset >= size or offset == 0
