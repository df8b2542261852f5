"""Where each format ends: tell a file that stops before that from one that is broken in another way.

Each check follows the container's own structure to its end mark, decodes nothing, and speaks up only when it is sure:
it is given a file that begins like one of its format and its size in bytes, and says whether it ends early. It may
raise `EndError` and `struct.error` for that, too (see `truncation`). Sources: the PNG specification (ISO/IEC 15948),
JPEG (ITU T.81 annex B), GIF89a, TIFF 6.0 and BigTIFF, the WebP container (RFC 9649), Microsoft's BITMAPINFOHEADER
(BMP), PKWARE's APPNOTE (zip).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO

from watcherd.formats.dicom import outline
from watcherd.formats.isobmff import cut_off

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 1 << 20
"""Bytes read at once where a whole file has to be searched."""

MOST_INFLATED = 1 << 26
"""Bytes of what gzip has packed that are unpacked to find its end; whether longer ones end is left to the decoder."""

MOST_DIRECTORIES = 10_000
"""Pages of a TIFF that are followed; a broken chain may be a ring."""


class EndError(Exception):
    """The file ended inside a structure."""


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EndError
    return data


def png(file: BinaryIO, size: int) -> bool:
    file.seek(8)
    while True:
        length, kind = struct.unpack(">I4s", _take(file, 8))
        if kind == b"IEND":
            return False
        if not kind.isalpha():
            return not kind.strip(b"\0")  # zeros: room that was made and not filled; else the decoder's to judge
        if file.seek(length + 4, 1) > size:
            return True


def jpeg(file: BinaryIO, size: int) -> bool:
    """Follow the segments to the first scan (a thumbnail inside them has an end mark of its own), then search for EOI:
    in compressed data every 0xFF is followed by 0 or a restart mark."""
    file.seek(2)
    while True:
        mark, kind = _take(file, 2)
        if mark != 0xFF:
            return not (mark or kind)
        if kind == 0xDA:
            return not _contains(file, b"\xff\xd9")
        if kind == 0xD9:
            return False
        if kind == 0xFF:  # a fill byte
            file.seek(-1, 1)
        elif kind != 0x01 and not 0xD0 <= kind <= 0xD8:
            length = int.from_bytes(_take(file, 2), "big")
            if file.seek(max(0, length - 2), 1) > size:
                return True


def _contains(file: BinaryIO, mark: bytes) -> bool:
    last = b""
    while block := file.read(BLOCK):
        if mark in last + block:
            return True
        last = block[1 - len(mark) :]
    return False


def gif(file: BinaryIO, _size: int) -> bool:
    file.seek(10)
    _skip_colours(file, _take(file, 3)[0])
    while (kind := _take(file, 1)) in (b"!", b","):
        if kind == b"!":
            _take(file, 1)
        else:
            _skip_colours(file, _take(file, 9)[8])
            _take(file, 1)
        while length := _take(file, 1)[0]:
            _take(file, length)
    return kind == b"\0"  # ";" is the end; zeros are room that was not filled


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _take(file, 3 << (flags & 7) + 1)


def webp(file: BinaryIO, size: int) -> bool:
    file.seek(4)
    return int.from_bytes(_take(file, 4), "little") + 8 > size


_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Lengths of the headers that BMP has had; the first has shorter fields."""

_BMP_END, _BMP_TAIL = b"\0\1", 8
"""The end of packed rows, which is at the end of the file but for some padding, whatever length is claimed."""

_BMP_PLAIN = frozenset({0, 3, 6})
"""Compressions of BMP that are none: their rows have a length that the header tells."""


def bmp(file: BinaryIO, size: int) -> bool:
    """Whether its rows do not all fit. The length that it claims counts only where rows have none that is known: some
    writers claim a wrong one."""
    claimed, offset, header = struct.unpack("<2xI4xII", _take(file, 18))
    if header not in _BMP_HEADERS:
        return False
    if header == 12:
        width, height, planes, bits = struct.unpack("<4H", _take(file, 8))
        compression, packed = 0, 0
    else:
        width, height, planes, bits = struct.unpack("<2i2H", _take(file, 12))
        compression, packed = struct.unpack("<2I", _take(file, 8)) if header > 16 else (0, 0)
    if planes != 1 or width <= 0 or not height:
        return False
    if compression not in _BMP_PLAIN:
        file.seek(max(0, size - _BMP_TAIL))
        return size < (offset + packed if packed else claimed) and _BMP_END not in file.read(_BMP_TAIL)
    row = (width * bits + 31) // 32 * 4
    return bool(size < offset + row * (abs(height) - 1) + (width * bits + 7) // 8)  # the last may lack its padding


_ZIP_END = struct.Struct("<4x4H2LH")
"""The end of a zip's central directory without its comment: disks, entries, length and place of the directory."""


def zip_archive(file: BinaryIO, size: int) -> bool:
    """Whether the directory, which writers put at the end, is missing. A whole zip inside a cut one does not count."""
    tail = min(size, _ZIP_END.size + 0xFFFF)
    file.seek(size - tail)
    end = (data := file.read(tail)).rfind(b"PK\x05\x06")
    if end < 0 or len(data) - end < _ZIP_END.size:
        return True
    entries, place = _ZIP_END.unpack_from(data, end)[3], _ZIP_END.unpack_from(data, end)[5]
    if place == 0xFFFFFFFF:
        return False  # zip64: written last, and found
    file.seek(place)
    return bool(entries) and file.read(4) != b"PK\x01\x02"


_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""TIFF field types that can hold offsets and counts, to their struct letters."""

_PIXELS = ((273, 279), (324, 325))
"""Tags of where the strips and the tiles begin, and how long each is."""


def tiff(file: BinaryIO, size: int) -> bool:
    """Whether a page's directory or pixels lie beyond the end.

    Writers fill in the first directory's place last: a 0 there is unfinished.
    """
    order = "<" if _take(file, 2) == b"II" else ">"
    big = struct.unpack(f"{order}H", _take(file, 2))[0] == 43
    file.seek(8 if big else 4)
    (offset,) = struct.unpack(f"{order}{'Q' if big else 'I'}", _take(file, 8 if big else 4))
    if not offset:
        return True
    for _ in range(MOST_DIRECTORIES):
        if not offset:
            return False
        if offset >= size:
            return True
        file.seek(offset)
        entries, offset = _directory(file, order, big=big)
        if any(end > size for end in _ends(file, order, entries, big=big)):
            return True
    return False


def _directory(file: BinaryIO, order: str, *, big: bool) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """A directory's fields by tag (type, count, value or its offset) and where the next directory is."""
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", _take(file, 8 if big else 2))
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    if count > 0xFFFF:
        return {}, 0
    raw = _take(file, entry.size * count)
    (following,) = struct.unpack(f"{order}{'Q' if big else 'I'}", _take(file, 8 if big else 4))
    return {tag: (kind, number, value) for tag, kind, number, value in entry.iter_unpack(raw)}, following


def _ends(file: BinaryIO, order: str, entries: dict[int, tuple[int, int, bytes]], *, big: bool) -> Iterator[int]:
    """Where each strip or tile of a page ends."""
    for places, lengths in _PIXELS:
        if places in entries and lengths in entries:
            starts = _numbers(file, order, entries[places], big=big)
            counts = _numbers(file, order, entries[lengths], big=big)
            yield from map(sum, zip(starts, counts, strict=False))


def _numbers(file: BinaryIO, order: str, field: tuple[int, int, bytes], *, big: bool) -> tuple[int, ...]:
    kind, count, value = field
    if kind not in _WHOLE_NUMBERS or count > BLOCK:
        return ()
    numbers = struct.Struct(f"{order}{count}{_WHOLE_NUMBERS[kind]}")
    if numbers.size <= len(value):
        return numbers.unpack(value[: numbers.size])
    file.seek(struct.unpack(f"{order}{'Q' if big else 'I'}", value)[0])
    return numbers.unpack(_take(file, numbers.size))


def dicom(file: BinaryIO, size: int) -> bool:
    return outline(file, size).early


def jpeg_2000_code(file: BinaryIO, _size: int) -> bool:
    """Search for the end mark: in packed data 0xFF is followed by nothing above 0x8F (T.800 B.10.1)."""
    return not _contains(file, b"\xff\xd9")


def jpeg_2000(file: BinaryIO, size: int) -> bool:
    return cut_off(file, size, frozenset({b"jp2c"})) or jpeg_2000_code(_from_start(file), size)


def jpeg_xl(file: BinaryIO, size: int) -> bool:
    return cut_off(file, size, frozenset({b"jxlc", b"jxlp"}))


def avif(file: BinaryIO, size: int) -> bool:
    return cut_off(file, size, frozenset({b"mdat", b"idat", b"meta"}))


def _from_start(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def packed(file: BinaryIO, _size: int) -> bool:
    """Whether what is packed has no end, as far as `MOST_INFLATED` bytes of it say."""
    inflater = zlib.decompressobj(31)
    count, data = 0, b""
    while count < MOST_INFLATED:
        if not data and not (data := file.read(BLOCK)):
            return True
        try:
            count += len(inflater.decompress(data, BLOCK))
        except zlib.error:
            return False  # broken otherwise
        if inflater.eof:
            return False
        data = inflater.unconsumed_tail
    return False
