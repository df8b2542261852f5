"""Follow a DICOM file from element to element, reading tags and lengths and skipping values.

Cheap and safe enough for the main process: nothing is decoded, a few short values are kept, and what a file can make
it do is bounded. Sources: DICOM PS3.5 (sections 7 and A), PS3.6 (UIDs) and PS3.10 (section 7.1).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["HEAD", "Outline", "has_preamble", "looks_like_dicom", "outline", "what_it_is", "without_pictures"]

HEAD: Final = 512
"""Bytes from a file's start that `looks_like_dicom` wants to see."""

PREAMBLE: Final = 132
MOST_ELEMENTS: Final = 200_000
DEEPEST: Final = 64
LONGEST_VALUE: Final = 128
INFLATED: Final = 1 << 20
"""Of a deflated file, so much is looked into."""

UNDEFINED: Final = 0xFFFFFFFF
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

MEDIA_CLASS, SYNTAX, SOP_CLASS, MODALITY, FRAMES = 0x0002_0002, 0x0002_0010, 0x0008_0016, 0x0008_0060, 0x0028_0008
KEPT: Final = frozenset({MEDIA_CLASS, SYNTAX, SOP_CLASS, MODALITY, FRAMES})
PIXELS: Final = frozenset({0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010})
ITEM, ITEM_END, SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD

LEADING: Final = (0x0002, 0x0008, 0x0010)
"""The groups that a file begins with."""

LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_KINDS: Final = (
    ("1.2.840.10008.1.3.10", "an index of other files (DICOMDIR); the pictures that it lists are found by themselves"),
    (f"{_STORAGE}88.", "a report"),
    (f"{_STORAGE}9.", "a waveform"),
    (f"{_STORAGE}11.", "a presentation state"),
    (f"{_STORAGE}104.", "an encapsulated document"),
    (f"{_STORAGE}481.3", "a set of structures (RT)"),
    (f"{_STORAGE}481.2", "a distribution of dose (RT)"),
    (f"{_STORAGE}481.", "a plan or record of radiotherapy (RT)"),
    (f"{_STORAGE}34.", "a plan or record of radiotherapy (RT)"),
    (f"{_STORAGE}66.1", "a registration"),
    (f"{_STORAGE}66.3", "a registration"),
    (f"{_STORAGE}66.4", "a segmentation"),
    (f"{_STORAGE}66.7", "a segmentation"),
    (f"{_STORAGE}66", "raw data or fiducials"),
    (f"{_STORAGE}67", "a mapping of values"),
    (f"{_STORAGE}68.", "a surface"),
    (f"{_STORAGE}78.", "a table of measurements"),
    (f"{_STORAGE}79.", "a table of measurements"),
    (f"{_STORAGE}4.2", "spectroscopy"),
    (f"{_STORAGE}30", "a parametric map"),
)
"""Beginnings of SOP class UIDs, the first that fits counts."""

RT_IMAGE: Final = f"{_STORAGE}481.1"
"""The only one of these that is a picture of a patient."""

_NO_SCANS: Final = {
    "SEG": "a segmentation", "RTDOSE": "a distribution of dose (RT)", "RTSTRUCT": "a set of structures (RT)",
    "RTPLAN": "a plan or record of radiotherapy (RT)", "RTRECORD": "a plan or record of radiotherapy (RT)",
    "PR": "a presentation state", "KO": "a report", "SR": "a report", "DOC": "an encapsulated document",
    "REG": "a registration", "RWV": "a mapping of values", "ECG": "a waveform", "AU": "a waveform",
}  # fmt: skip
"""What the attribute Modality says of objects of other classes, private ones for instance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """A file's shape. ``pixels``: whether it holds pictures; None where that could not be found out.

    ``early``: it is sure to stop before its end. ``sop_class``: the UID of what it is, ``modality``: its word for what
    made it; empty where it does not say.
    """

    pixels: bool | None = None
    early: bool = False
    sop_class: str = ""
    modality: str = ""


def has_preamble(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is DICOM for certain, whatever its first 128 bytes look like."""
    return head[128:132] == b"DICM"


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (`HEAD` bytes) is DICOM, with its preamble or without.

    Without, its elements are followed as far as they are there: three at least, in order, in groups that begin files.
    """
    if has_preamble(head):
        return True
    order = _order(head)
    implicit = head[4:6] not in LONG_VRS | SHORT_VRS
    position, last, seen = 0, -1, 0
    while order and position + 12 <= len(head):
        group, element = struct.unpack_from(f"{order}HH", head, position)
        tag = group << 16 | element
        found = _header(head[position : position + 12], order, implicit=implicit)
        if seen >= 3 and group > LEADING[-1]:
            return True
        if found is None or tag <= last or group not in LEADING or (seen == 0 and found[1] > HEAD):
            return False
        position, last, seen = position + found[0] + found[1], tag, seen + 1
    return seen >= 3


def _order(head: bytes) -> str:
    """The byte order of a file that begins with a group that files begin with; empty where it begins otherwise."""
    return {b"\x02\0": "<", b"\x08\0": "<", b"\0\x08": ">"}.get(head[:2], "")


def what_it_is(sop_class: str) -> str:
    """In words, what a file without pictures is, by its SOP class UID."""
    return next((words for start, words in _KINDS if sop_class.startswith(start)), "its pixel data were left out")


def outline(file: BinaryIO, size: int) -> Outline:
    """Look through ``file``, which `looks_like_dicom` accepted and which has ``size`` bytes.

    Raises OSError as reading does. Whatever is in the file, it raises nothing else.
    """
    file.seek(0)
    head = file.read(PREAMBLE)
    preamble = head[128:] == b"DICM"
    order = "<" if preamble else _order(head) or "<"
    walk = _Walk(file, PREAMBLE if preamble else 0, size, order=order, implicit=None)
    try:
        return walk.outline()
    except (_BrokenError, zlib.error):
        return Outline(sop_class=walk.sop_class)


def no_scan(found: Outline) -> str:
    """In words, what a file with pixels is that are no picture of a patient; empty for one that may be a scan."""
    if found.sop_class == RT_IMAGE:
        return ""
    by_class = next((words for start, words in _KINDS if found.sop_class.startswith(start)), "")
    return by_class or _NO_SCANS.get(found.modality.strip().upper(), "")


def without_pictures(file: BinaryIO) -> str:
    """Why ``file`` is no scan although it is whole: a DICOM object without pixels, or one whose pixels are none of a
    scan (segmentations, doses, presentation states); empty for every other file.

    Of a file that is no DICOM only the first `HEAD` bytes are read. Raises OSError as reading does.
    """
    file.seek(0)
    if not looks_like_dicom(file.read(HEAD)):
        return ""
    found = outline(file, file.seek(0, 2))
    if found.pixels and (what := no_scan(found)):
        return f"is DICOM that is no scan: {what}"
    return f"is DICOM without a picture: {what_it_is(found.sop_class)}" if found.pixels is False else ""


class _BrokenError(Exception):
    """What follows is no DICOM as we know it: for the decoder to judge."""


class _EndError(Exception):
    """The file ended inside an element."""


def _header(data: bytes, order: str, *, implicit: bool) -> tuple[int, int, bytes] | None:
    """Of an element that begins with these (up to 12) bytes: length of its header, of its value, and the VR."""
    if implicit:
        return 8, struct.unpack_from(f"{order}I", data, 4)[0], b""
    vr = data[4:6]
    if vr in SHORT_VRS:
        return 8, struct.unpack_from(f"{order}H", data, 6)[0], vr
    if vr in LONG_VRS and len(data) >= 12:
        return 12, struct.unpack_from(f"{order}I", data, 8)[0], vr
    return None


class _Walk:
    """One pass over a file. ``implicit``: whether elements come without their VR; None: find out."""

    def __init__(self, file: BinaryIO, start: int, size: int, *, order: str, implicit: bool | None) -> None:
        self._file = file
        self._position = start
        self._size = size
        self._order = order
        self._implicit = implicit
        self._nested: list[bool] = []
        self._kept: dict[int, str] = {}
        self._count = 0
        self._found = False

    @property
    def sop_class(self) -> str:
        return self._kept.get(SOP_CLASS) or self._kept.get(MEDIA_CLASS, "")

    def _outline(self, *, pixels: bool | None, early: bool = False) -> Outline:
        return Outline(pixels=pixels, early=early, sop_class=self.sop_class, modality=self._kept.get(MODALITY, ""))

    def outline(self) -> Outline:
        try:
            pixels = self._meta() or self._data()
        except _EndError:
            return Outline(early=True, sop_class=self.sop_class)
        return pixels

    def _meta(self) -> Outline | None:
        """The group that says how all others are written, always explicit and little-endian; it may be missing."""
        while self._position < self._size:
            tag = self._tag(self._peek(8))
            if tag >> 16 != 2:
                break
            self._element(implicit=False)
        syntax = self._kept.get(SYNTAX, "")
        if syntax == DEFLATED:
            return self._deflated()
        if syntax == BIG_ENDIAN:
            self._order = ">"
        if self._position < self._size:
            self._implicit = self._peek(8)[4:6] not in LONG_VRS | SHORT_VRS  # whatever the syntax promises
        return None

    def _deflated(self) -> Outline:
        self._file.seek(self._position)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = inflater.decompress(self._file.read(INFLATED), INFLATED)
        walk = _Walk(io.BytesIO(inflated), 0, len(inflated), order="<", implicit=False)
        walk._kept = self._kept
        try:
            pixels = bool(walk._data().pixels)
            known = pixels or inflater.eof
        except _EndError:  # of what was looked into, at least
            pixels = known = walk._found
        everything = self._size - self._position <= INFLATED and len(inflated) < INFLATED
        return self._outline(pixels=pixels if known else None, early=everything and not inflater.eof)

    def _data(self) -> Outline:
        while self._position < self._size:
            tag = self._element(implicit=bool(self._implicit))
            if tag is not None:
                return self._outline(pixels=True)
        if self._nested:
            raise _EndError
        return self._outline(pixels=False)

    def _element(self, *, implicit: bool) -> int | None:
        """Go past one element; its tag if it holds the pictures."""
        self._count += 1
        if self._count > MOST_ELEMENTS:
            raise _BrokenError
        start = self._peek(12 if self._size - self._position >= 12 else 8)
        tag = self._tag(start)
        if tag in (ITEM, ITEM_END, SEQUENCE_END):
            self._item(tag, struct.unpack_from(f"{self._order}I", start, 4)[0])
            return None
        if tag == 0 and not start.strip(b"\0"):
            raise _EndError  # room that was made and not filled
        found = _header(start, self._order, implicit=self._nested[-1] if self._nested else implicit)
        if found is None:
            raise _BrokenError
        header, length, vr = found
        self._position += header
        if self._nested:
            self._skip(length, nested_implicit=vr == b"UN" or self._nested[-1])
            return None
        if tag in PIXELS:
            return self._pixels(tag, length)
        if tag in KEPT and length <= LONGEST_VALUE:
            self._kept[tag] = self._peek(length).rstrip(b"\0 ").decode("ascii", "replace")
        self._skip(length, nested_implicit=vr == b"UN" or implicit)
        return None

    def _skip(self, length: int, *, nested_implicit: bool) -> None:
        if length == UNDEFINED:
            if len(self._nested) >= DEEPEST:
                raise _BrokenError
            self._nested.append(nested_implicit)
            return
        self._position += length
        if self._position > self._size:
            raise _EndError

    def _item(self, tag: int, length: int) -> None:
        """Items of undefined length are a level of their own; what is in others is skipped."""
        if not self._nested:
            raise _BrokenError
        self._position += 8
        if tag == ITEM:
            self._skip(length, nested_implicit=self._nested[-1])
        else:
            self._nested.pop()

    def _pixels(self, tag: int, length: int) -> int | None:
        """The pictures: plain, or in items each of which must be there."""
        if length == 0:
            return None
        self._found = True
        if length != UNDEFINED:
            self._skip(length, nested_implicit=False)
            return tag
        items = 0
        while self._position < self._size:
            start = self._peek(8)
            found, size = self._tag(start), struct.unpack_from(f"{self._order}I", start, 4)[0]
            if found == SEQUENCE_END:
                return tag
            if found != ITEM:
                if not start.strip(b"\0"):
                    raise _EndError
                raise _BrokenError
            self._position += 8
            self._skip(size, nested_implicit=False)
            items += 1
        if items <= self._frames():  # the first item is the table of offsets
            raise _EndError
        return tag  # only the end mark is missing, and no picture

    def _frames(self) -> int:
        text = self._kept.get(FRAMES, "").strip()
        return int(text) if text.isdecimal() else 1

    def _peek(self, count: int) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(count)
        if len(data) < count:
            raise _EndError
        return data

    def _tag(self, start: bytes) -> int:
        group, element = struct.unpack_from(f"{self._order}HH", start)
        return int(group) << 16 | int(element)
