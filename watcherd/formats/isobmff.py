"""The boxes that JPEG 2000, JPEG XL, AVIF and HEIC files are made of. Pure. Source: ISO/IEC 14496-12, 4.2."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["AVIF", "boxes", "brands", "cut_off"]

AVIF: Final = frozenset({b"avif", b"avis"})
"""Brands of AVIF, of one picture and of several."""

MOST_BOXES: Final = 10_000
"""Of one file that are followed."""


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The boxes at the top: the kind, and where its content begins and ends. It ends at one that cannot be."""
    place = 0
    for _ in range(MOST_BOXES):
        if place + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, place)
        start = place + 8
        if length == 1 and place + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = place + length if length else len(data)
        if end < start:
            return
        yield kind, start, end
        place = end


def brands(head: bytes) -> frozenset[bytes]:
    """What a file that begins with ``head`` says it can be read as; empty where it has no such box."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return frozenset(head[place : place + 4] for place in (8, *range(16, end - 3, 4)))


def cut_off(file: BinaryIO, size: int, wanted: frozenset[bytes]) -> bool:
    """Whether a box reaches beyond the file's ``size`` bytes, or none of the ``wanted`` kinds is there."""
    place, found = 0, False
    for _ in range(MOST_BOXES):
        if place >= size:
            return place > size or not found
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return True
        length, kind = struct.unpack_from(">I4s", head)
        if not kind.strip(b"\0"):
            return not found  # room that was made and not filled
        found = found or kind in wanted
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        if length == 0:
            return False  # to the end of the file, wherever that is
        if length < 8:
            return False  # broken otherwise: for the decoder to judge
        place += length
    return False
