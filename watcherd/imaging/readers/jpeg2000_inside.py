"""Whether a JPEG 2000 that can be decoded has a hole of zeros inside: its decoder takes them for a picture.

Data that end early are an error to the decoder already. Zeros are data of no coder; but a packet of nothing is one zero
byte, so that a flat picture may have as many of these in a row as it has packets.

Sources: ITU-T T.800 A.4 (markers of tiles), A.5.1 (SIZ), A.6.1 (COD), B.6 (precincts), B.10.3 (empty packets).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CODESTREAM: Final = b"\xff\x4f\xff\x51"
SIZE, CODING, TILE, DATA = 0xFF51, 0xFF52, 0xFF90, 0xFF93
OTHERWISE: Final = frozenset({CODING, 0xFF53, 0xFF5F, 0xFF50, 0xFF60, 0xFF61})
"""Markers (COD, COC, POC, CAP, PPM, PPT) after which a tile, or a component, is coded in a way that is not looked into;
the first of them stands once in every file."""

RAW: Final = 1
"""Bit of the code blocks' style: some bits stand as they are, zeros among them."""

OWN_PRECINCTS: Final = 1
LARGEST: Final = 15
"""Power of two of a precinct's sides where a file says none."""

ZEROS: Final = 64
"""Zero bytes in a row that no coder writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """Of a tile, at most, and how many components there are."""

    width: int
    height: int
    components: int


def zeros_inside(data: bytes) -> str:
    """What is wrong inside, as the rest of a sentence; empty where nothing is known of it.

    ``data``: a codestream, by itself or in boxes.
    """
    start = data.find(CODESTREAM)
    try:
        most = _packets(data, start) if start >= 0 else None
        if most is None:
            return ""
        hole = bytes(most + ZEROS)
        return "a part of its data are zeros" if any(hole in part for part in _parts(data, start)) else ""
    except (struct.error, IndexError):
        return ""  # broken otherwise: for the decoder to judge


def _packets(data: bytes, start: int) -> int | None:
    """How many packets a tile may have, at most; None where its zeros mean nothing."""
    size: _Size | None = None
    most: int | None = None
    for marker, body in _segments(data, start + 2):
        if marker == SIZE:
            size = _size(body)
        elif marker == CODING and size is not None and most is None:
            most = _most(body, size)
        elif marker in OTHERWISE:
            return None
        elif marker == TILE:
            return most
    return None


def _segments(data: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """The markers of a header, each with what it says."""
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        yield marker, data[place + 4 : place + 2 + length]
        place += 2 + length


def _size(body: bytes) -> _Size:
    right, bottom, left, top, width, height = struct.unpack_from(">6I", body, 2)
    (components,) = struct.unpack_from(">H", body, 34)
    return _Size(width=min(width, right - left), height=min(height, bottom - top), components=components)


def _most(body: bytes, size: _Size) -> int | None:
    """By COD: one for each layer, component and precinct of each resolution."""
    layers, levels, style = int.from_bytes(body[2:4], "big"), body[5], body[8]
    if style & RAW:
        return None
    precincts = 0
    for resolution in range(levels + 1):
        powers = body[10 + resolution] if body[0] & OWN_PRECINCTS else LARGEST << 4 | LARGEST
        reduced = levels - resolution
        across = (size.width >> reduced >> (powers & 15)) + 2  # one may begin, and one end, within a tile
        down = (size.height >> reduced >> (powers >> 4)) + 2
        precincts += across * down
    return layers * size.components * precincts


def _parts(data: bytes, start: int) -> Iterator[bytes]:
    """The data of each part of a tile. Raises IndexError for a tile with a header of a kind that is not looked into."""
    place = start + 2
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        if marker != TILE:
            if marker == 0xFFD9:
                return
            place += 2 + length
            continue
        (whole,) = struct.unpack_from(">I", data, place + 6)
        end = place + whole if whole else len(data)
        inside = place + 2 + length
        while (marker := struct.unpack_from(">H", data, inside)[0]) != DATA:
            if marker in OTHERWISE:
                raise IndexError("a tile coded in its own way")
            inside += 2 + struct.unpack_from(">H", data, inside + 2)[0]
        yield data[inside + 2 : end]
        place = end
