"""What a file is by its first bytes; names say nothing."""

from __future__ import annotations

import zlib

from watcherd.formats.isobmff import brands
from watcherd.formats.nifti import is_gzip
from watcherd.formats.table import FORMATS, OTHERS, VIDEO, Format, Sign

HEAD = 512
"""Bytes at the beginning of a file by which its format is told."""

UNPACKED = 1024
"""Bytes of what gzip has packed that are looked at."""


def known_format(head: bytes) -> Format | None:
    """The format of a file that begins with ``head`` (512 bytes are enough); None when it is none of ours."""
    found = next((row for sign in Sign for row in FORMATS if row.shows(sign, head)), None)
    if found is None or found.name != "GZIP":
        return found
    inner = known_format(_unpacked(head))
    return found if inner is not None and inner.packable else None


def image_format(head: bytes) -> str | None:
    """The name of `known_format`."""
    found = known_format(head)
    return found.name if found else None


def pictures(head: bytes) -> int:
    """Which version's picture is made of a file that begins with ``head`` (`Format.pictures`); 0 for none of ours."""
    found = known_format(head)
    return found.pictures if found is not None and found.changed(head) else 0


def _unpacked(head: bytes) -> bytes:
    """The beginning of what gzip has packed; empty for more gzip in it, and where it is damaged."""
    try:
        inner = zlib.decompressobj(31).decompress(head, UNPACKED)
    except zlib.error:
        return b""
    return b"" if is_gzip(inner) else inner


def describe(head: bytes) -> str:
    """What a file that is none of ours seems to be, as the rest of a sentence."""
    if found := brands(head):
        return next((other.says for other in OTHERS if found & other.brands), VIDEO.says)
    if is_gzip(head):
        inner = _unpacked(head)
        return f"is compressed with gzip, and what is in it {describe(inner)}" if inner else "is compressed with gzip"
    for other in OTHERS:
        if head.startswith(other.begins):
            return other.says
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    if all(sign.isprintable() or sign.isspace() for sign in text):
        return "is text"
    return f"begins with {head[:8].hex(' ')}, which is no format known here"
