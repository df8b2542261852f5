"""What the headers of a PNM file say: PBM, PGM and PPM, as numbers or as text, PAM, and PFM with its floats.

Cheap and safe enough for the main process. Sources: Netpbm's pages pbm(5), pgm(5), ppm(5), pam(5) and pfm(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["HEAD", "Picture", "looks_like_pnm", "picture", "pnm_ends_early"]

HEAD: Final = 4096
"""Bytes in which a header must end; comments may make it long."""

BLOCK: Final = 1 << 20

_GAP: Final = rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])+"
_NUMBERS: Final = re.compile(rb"P([1-6])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})")
_MOST: Final = re.compile(_GAP + rb"(\d{1,5})")
_FLOATS: Final = re.compile(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)[ \t\r]?\n")
_PAM: Final = re.compile(rb"P7\n(.*?\n)?ENDHDR[ \t]*\n", re.DOTALL)
_PAM_LINE: Final = re.compile(rb"^[ \t]*(WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)[ \t]+([^\r\n]*)", re.MULTILINE)
_BEGINS: Final = re.compile(
    rb"P(?:[1-6]" + _GAP + rb"\d|[Ff]\s+\d+\s+\d|7\n[ \t]*(?:#|WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE))"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture. ``most``: the value of white; 0: values are floats. ``start``: where they begin, in the file.

    ``text``: they are written as decimal numbers. ``bits``: eight stand in a byte, and 1 is black. ``alpha``: the last
    channel is that. ``big``: floats have their first byte first.
    """

    width: int
    height: int
    start: int
    channels: int = 1
    most: int = 255
    text: bool = False
    bits: bool = False
    alpha: bool = False
    big: bool = True

    @property
    def width_of_value(self) -> int:
        """Bytes of one value, where it has whole ones."""
        return 4 if not self.most else 1 if self.most < 256 else 2

    @property
    def end(self) -> int:
        """Where the values end, in the file; of text the least that they take."""
        count = self.width * self.height * self.channels
        if self.text:
            return self.start + (count if self.bits else 2 * count - 1)
        if self.bits:
            return self.start + (self.width + 7) // 8 * self.height
        return self.start + count * self.width_of_value


def looks_like_pnm(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is PNM: letters, and numbers or words behind them."""
    return _BEGINS.match(head) is not None


def picture(file: BinaryIO, start: int = 0) -> Picture | None:
    """The picture whose header begins at ``start``; None where there is none. Raises OSError as reading does."""
    file.seek(start)
    head = file.read(HEAD)
    if head[:2] == b"P7":
        return _pam(head, start)
    if head[:2] in (b"PF", b"Pf"):
        return _floats(head, start)
    return _numbers(head, start)


def _numbers(head: bytes, start: int) -> Picture | None:
    found = _NUMBERS.match(head)
    if found is None:
        return None
    kind, width, height = (int(word) for word in found.groups())
    place, most = found.end(), 1
    if kind not in (1, 4):
        limit = _MOST.match(head, place)
        if limit is None or not 0 < int(limit[1]) < 1 << 16:
            return None
        place, most = limit.end(), int(limit[1])
    if kind > 3:  # in text the gap that follows may be of any length, also none
        if not head[place : place + 1].isspace():
            return None
        place += 1
    return Picture(
        width=width,
        height=height,
        start=start + place,
        channels=3 if kind in (3, 6) else 1,
        most=most,
        text=kind < 4,
        bits=kind in (1, 4),
    )


def _floats(head: bytes, start: int) -> Picture | None:
    found = _FLOATS.match(head)
    if found is None:
        return None
    return Picture(
        width=int(found[2]),
        height=int(found[3]),
        start=start + found.end(),
        channels=3 if found[1] == b"F" else 1,
        most=0,
        big=float(found[4]) > 0,
    )


def _pam(head: bytes, start: int) -> Picture | None:
    found = _PAM.match(head)
    said = dict(_PAM_LINE.findall(found[1] or b"")) if found else {}
    try:
        width, height, channels, most = (int(said[word]) for word in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        return None
    if found is None or min(width, height, channels) < 0 or not 0 < most < 1 << 16:
        return None
    return Picture(
        width=width,
        height=height,
        start=start + found.end(),
        channels=channels,
        most=most,
        alpha=said.get(b"TUPLTYPE", b"").strip().endswith(b"_ALPHA"),
    )


def pnm_ends_early(file: BinaryIO, size: int) -> bool:
    """Whether ``file``, of ``size`` bytes, is sure to stop before the end of its first picture. Raises OSError."""
    found = picture(file)
    if found is None:
        return False
    return size < found.end or (found.text and _lacks_values(file, found))


def _lacks_values(file: BinaryIO, found: Picture) -> bool:
    """Whether the text has fewer values than the picture: numbers, or digits of 0 and 1 with gaps or without."""
    wanted = found.width * found.height * found.channels
    file.seek(found.start)
    cut = False
    while wanted > 0 and (block := file.read(BLOCK)):
        if found.bits:
            wanted -= block.count(b"0") + block.count(b"1")
            continue
        words = len(block.split())
        wanted -= words - (cut and not block[:1].isspace())
        cut = not block[-1:].isspace()
    return wanted > 0
