"""Whether a JPEG that can be decoded is whole inside.

libjpeg warns where a scan's data end before its picture does, or go on behind it, fills up with grey, and its callers
do not hear of it. So we ask by what it makes of other bytes. A reader that has had enough does not look at
what else stands before the next marker: bytes that are put there change the picture only where some are missing. And
bytes that are replaced at the end of the last scan change it, unless more stands there than the picture needs. It is
the same for JPEGs in DICOM files and for the strips and tiles of a TIFF.

Sources: ITU-T T.81 B.1 (markers), F.1.2 and G.1.2 (Huffman codes), G.1.1 (the scans of progressive pictures), H.1.2
(lossless pictures); Adobe's TIFF Technical Note 2 (JPEGs in TIFF, and their tables).
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from watcherd.errors import InputError
from watcherd.imaging.readers.jpeg2000_inside import zeros_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from watcherd.imaging.readers.scan import Pixels

PROGRESSIVE: Final = 0xC2
LOSSLESS: Final = 0xC3
HUFFMAN: Final = frozenset({0xC0, 0xC1, PROGRESSIVE, LOSSLESS})
"""Second bytes of the markers of pictures that are looked into: those with Huffman codes."""

START: Final = b"\xff\xd8"
START_OF_SCAN, END, TABLES, INTERVAL = 0xDA, 0xD9, 0xC4, 0xDD
RESTARTS: Final = range(0xD0, 0xD8)
BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Second bytes of markers without a length."""

SPARE: Final = 512
"""Bytes that are put before each marker, and that no picture may have to spare at its end: two blocks of 64 values,
each with another mean, cannot take more. Some writers pad with a few."""

LEAST_SPARE: Final = 16
MOST_MORE: Final = 1 << 25
"""Bytes that are put before all markers together, but for `LEAST_SPARE` before each."""

ZEROS: Final = 64
"""Zero bytes in a row that only flat pictures have, and only with codes made for them."""

COARSE, FINE = 8, 2
"""Parts of the size at which pictures are compared: sequential ones by their blocks' means, progressive ones finer, for
a scan of theirs may hold fine detail only."""

LAST_COEFFICIENT: Final = 63

IN_TIFF: Final = frozenset({7, 33007, 34892})
"""TIFF's numbers for JPEG. That of old, 6, stores the parts of one in several ways, and is not looked into."""

JPEG_2000_IN_TIFF: Final = frozenset({34712, 33003, 33004, 33005})
"""TIFF's numbers for JPEG 2000."""

CORNER: Final = 8
"""Rows and columns at a picture's end that are not compared where it is decoded as a whole: writers leave out bits."""

REFUSALS: Final = (OSError, RuntimeError)
"""What Pillow and imagecodecs raise over a picture."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scan:
    """A scan. ``pieces``: of its data between restart marks, each as (start, end); ``restarts``: these marks' second
    bytes; ``interval``: how many units stand between two of them, or 0. ``components``: their names. ``first`` to
    ``last`` coefficient, down to ``low_bit``. ``flat``: zero bytes may say that nothing changes."""

    pieces: tuple[tuple[int, int], ...]
    components: tuple[int, ...]
    first: int
    last: int
    low_bit: int
    flat: bool
    interval: int
    restarts: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """A picture's header. ``components``: (name, samples across, samples down) of each. ``precision``: bits of one."""

    kind: int
    precision: int
    height: int
    width: int
    components: tuple[tuple[int, int, int], ...]

    @property
    def unit(self) -> int:
        """Rows and columns of what a component is coded in: blocks, or single values."""
        return 1 if self.kind == LOSSLESS else 8

    @property
    def is_pillows(self) -> bool:
        """Whether Pillow decodes it, and in a small size, for less."""
        return self.kind != LOSSLESS and self.precision == 8


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outline:
    frame: _Frame
    scans: tuple[_Scan, ...]


def damage_inside(data: bytes) -> str:
    """What is wrong inside a JPEG that can be decoded, as the rest of a sentence; empty where nothing is known of it.

    ``data``: the file's bytes; what stands behind its first picture does not count. Arithmetic codes, which may end
    early, are not looked into.
    """
    try:
        return _damage(data, _outline(data))
    except (IndexError, ValueError, *REFUSALS):
        return ""  # broken otherwise: for the decoder to judge


def damaged(what: str, damage: str) -> None:
    """Raises `InputError` where there is any damage; ``what``: has it, as the beginning of a sentence."""
    if damage:
        raise InputError(
            f"{what} is damaged inside: {damage}. The picture would be whole in part only.",
            hint="Copy it again from where it came from; if it is so there too, its picture is lost.",
        )


def check_jpeg_pages(descriptor: int, compression: int, places: Iterable[tuple[int, int]], tables: bytes = b"") -> None:
    """Look into the strips or tiles of a TIFF's page; nothing is known of those in another
    ``compression`` than JPEG and JPEG 2000.

    ``places``: where each begins and how many bytes it has. ``tables``: the page's JPEGTables, which they go without.
    Raises `InputError` for the first one that is damaged.
    """
    if compression not in IN_TIFF | JPEG_2000_IN_TIFF:
        return
    for start, count in places:
        part = os.pread(descriptor, int(count), int(start))
        if not part:
            continue  # left out: of nothing but the value 0
        if compression in JPEG_2000_IN_TIFF:
            damaged("A JPEG 2000 in the TIFF", zeros_inside(part))
            continue
        if tables.startswith(START) and part.startswith(START):
            part = tables.removesuffix(bytes((0xFF, END))) + part[len(START) :]
        damaged("A JPEG in the TIFF", damage_inside(part + bytes((0xFF, END))))  # some go without an end


def _damage(data: bytes, found: _Outline | None) -> str:
    if found is None or not found.scans:
        return ""
    if not all(_has_its_pieces(found.frame, scan) for scan in found.scans):
        return "its parts are not as many as they should be, or in another order"
    if any(not scan.flat and _holds_zeros(data, scan) for scan in found.scans):
        return "a part of its data are zeros"
    if _lacks_scans(found):
        return "its last scans are missing"
    shown = _shown(data, found.frame)
    if not _is_shown(shown, _with_more(data, found), found.frame, else_=True):
        return "its data end before the picture does"
    start, end = found.scans[-1].pieces[-1] if found.scans[-1].pieces else (0, 0)
    if end - start <= 2 * SPARE:
        return ""

    def changes(place: int) -> bool:
        return not _is_shown(shown, _replaced(data, place), found.frame, else_=False)

    # where no other bytes make another picture, as in a flat one with a single code, nothing is known
    return "its data go on behind the picture's end" if not changes(end - SPARE) and changes(start) else ""


def _outline(data: bytes) -> _Outline | None:
    """The scans of the first picture. Raises IndexError and ValueError where the file ends or is no JPEG."""
    frame = None
    interval = 0
    scans: list[_Scan] = []
    tables: dict[int, bytes] = {}
    for place, marker in _markers(data, 2):
        body = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        if marker in HUFFMAN:
            frame = _frame(marker, body)
        elif 0xC0 <= marker < 0xD0 and marker not in (TABLES, 0xC8, 0xCC):
            return None
        elif marker == TABLES:
            tables |= dict(_tables(body))
        elif marker == INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif marker == START_OF_SCAN:
            scans.append(_scan(data, place, tables, interval, lossless=frame is not None and frame.kind == LOSSLESS))
    return _Outline(frame=frame, scans=tuple(scans)) if frame else None


def _frame(kind: int, body: bytes) -> _Frame:
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    components = tuple((body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * body[5], 3))
    if not all(across and down for _, across, down in components):
        raise ValueError("a component without samples")
    return _Frame(kind=kind, precision=body[0], height=height, width=width, components=components)


def _markers(data: bytes, place: int) -> Iterator[tuple[int, int]]:
    """The markers up to the picture's end: where what follows them begins, and which they are."""
    while found := _MARKER.search(data, place):
        marker = found[1][0]
        place = found.end()
        if marker == END:
            return
        if marker in BARE:
            continue
        yield place, marker
        place += int.from_bytes(data[place : place + 2], "big")


def _tables(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Huffman tables by class and number; of each its counts of codes and its first symbol."""
    place = 0
    while place + 17 <= len(body):
        counts = body[place + 1 : place + 17]
        yield body[place], counts + body[place + 17 : place + 18]
        place += 17 + sum(counts)


def _scan(data: bytes, place: int, tables: dict[int, bytes], interval: int, *, lossless: bool) -> _Scan:
    """The scan whose header begins at ``place``."""
    body = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
    count = body[0]
    first, last, bits = body[1 + 2 * count : 4 + 2 * count]
    used = {body[2 + 2 * index] for index in range(count)}
    coded = (0, 0) if lossless else (first, last)  # a difference for each value; its header names a predictor
    pieces = tuple(_pieces(data, place + 2 + len(body)))
    return _Scan(
        pieces=pieces,
        components=tuple(body[1 : 1 + 2 * count : 2]),
        first=first,
        last=last,
        low_bit=bits & 15,
        flat=bits >> 4 != 0 or all(_zeros_are_flat(tables, number, *coded) for number in used),
        interval=interval,
        restarts=bytes(data[start - 1] for start, _ in pieces[1:]),
    )


def _zeros_are_flat(tables: dict[int, bytes], number: int, first: int, last: int) -> bool:
    """Whether zero bits say again and again that nothing changes: in each table the code 00... is for 0.

    In the mean's table 0 is no difference, in the other one the end of a block, or of several.
    """
    wanted = ([number >> 4] if first == 0 else []) + ([0x10 | (number & 15)] if last else [])
    return all(tables.get(table, b"\0")[-1] & 15 == 0 for table in wanted)


def _pieces(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    place = start
    while found := _MARKER.search(data, place):
        yield start, found.start()
        start = place = found.end()
        if found[1][0] not in RESTARTS:
            return


def _has_its_pieces(frame: _Frame, scan: _Scan) -> bool:
    """Whether there are as many restart marks as the picture needs, counted up as they should be."""
    if not scan.interval or not frame.height:
        return True
    count = -(-_units(frame, scan) // scan.interval) - 1
    return scan.restarts == bytes(RESTARTS[number % 8] for number in range(count))


def _units(frame: _Frame, scan: _Scan) -> int:
    """Of what a scan is made: blocks of a component by itself, else of groups of blocks (A.2.2 and A.2.3); of lossless
    ones values in their place."""
    unit = frame.unit
    most_across = max(across for _, across, _ in frame.components)
    most_down = max(down for _, _, down in frame.components)
    across, down = unit * most_across, unit * most_down
    if len(scan.components) == 1:
        own = next((own for name, *own in frame.components if name == scan.components[0]), [1, 1])
        columns, rows = -(-frame.width * own[0] // most_across), -(-frame.height * own[1] // most_down)
        return -(-columns // unit) * -(-rows // unit)
    return -(-frame.width // across) * -(-frame.height // down)


def _holds_zeros(data: bytes, scan: _Scan) -> bool:
    return any(data.find(bytes(ZEROS), start, end) >= 0 for start, end in scan.pieces)


def _lacks_scans(found: _Outline) -> bool:
    """Whether some coefficient of a progressive picture was not sent down to its lowest bit, or a component at all."""
    if found.frame.kind == LOSSLESS:
        named = {name for name, _, _ in found.frame.components}
        return named != {name for scan in found.scans for name in scan.components}
    progressive = found.frame.kind == PROGRESSIVE
    wanted = range(LAST_COEFFICIENT + 1 if progressive else 1)
    sent = {
        (component, place)
        for scan in found.scans
        if scan.low_bit == 0
        for component in scan.components
        for place in (range(scan.first, scan.last + 1) if progressive else wanted)
    }
    return any((component, place) not in sent for component, _, _ in found.frame.components for place in wanted)


def _with_more(data: bytes, found: _Outline) -> bytes:
    """The file with other bytes at the end of each piece of its scans."""
    pieces = [piece for scan in found.scans for piece in scan.pieces]
    more = _noise(max(LEAST_SPARE, min(SPARE, MOST_MORE // max(1, len(pieces)))))
    parts: list[bytes] = []
    last = 0
    for _, end in pieces:
        parts += [data[last:end], more]
        last = end
    return b"".join([*parts, data[last:]])


def _replaced(data: bytes, place: int) -> bytes:
    """The file with other bytes in place of `SPARE` of a scan's."""
    kept = data[:place].rstrip(b"\xff")  # half of an escaped 0xFF would be a marker
    return kept + _noise(SPARE + place - len(kept)) + data[place + SPARE :]


def _noise(count: int) -> bytes:
    """Bytes that are no marker, and that no picture goes on with."""
    return np.random.default_rng(0).integers(1, 0xFF, count, np.uint8).tobytes()


def _is_shown(shown: Pixels, data: bytes, frame: _Frame, *, else_: bool) -> bool:
    """Whether other bytes make the same picture; ``else_`` where they make none, from which nothing follows for it."""
    try:
        return np.array_equal(shown, _shown(data, frame))
    except REFUSALS:
        return else_


def _shown(data: bytes, frame: _Frame) -> Pixels:
    """The picture, small where Pillow decodes it. Raises `REFUSALS`."""
    if not frame.is_pillows:
        return _whole(data, len(frame.components))
    part = FINE if frame.kind == PROGRESSIVE else COARSE
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(image.mode, (max(1, image.width // part), max(1, image.height // part)))
        return np.asarray(image)


def _whole(data: bytes, components: int) -> Pixels:
    """The picture as it is, but for its last corner."""
    import imagecodecs  # slow to import

    colours = "RGB" if components == 3 else None  # from RGB to RGB: nothing is converted
    values: Pixels = imagecodecs.jpeg8_decode(data, colorspace=colours, outcolorspace=colours)
    values[-CORNER:, -CORNER:] = 0
    return values
