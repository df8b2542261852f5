"""PNM files: PBM, PGM, PPM, PAM and PFM. A file of several pictures, one behind the other, is a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from watcherd.errors import InputError
from watcherd.formats.pnm import Picture, looks_like_pnm, picture
from watcherd.imaging.readers.scan import Pixels, TruncatedError, over_black

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from watcherd.imaging.limits import DecodeLimits

LONGEST_NUMBER: Final = 64
"""Bytes that a value may take in text, with the gap before it."""


class PnmScan:
    """A file's pictures. Values up to 255 are stretched to that, where white is another one; larger ones are kept."""

    format = "PNM"

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._size = path.stat().st_size
            self._pictures = self._found(limits)
        except BaseException:
            self.close()
            raise
        self.frames = len(self._pictures)
        most = self._pictures[0].most
        self.bit_depth = most.bit_length() if most else 32

    def _found(self, limits: DecodeLimits) -> list[Picture]:
        """All pictures, by their headers, each within the limits."""
        found: list[Picture] = []
        start = 0
        while (one := picture(self._file, start)) is not None:
            limits.check_size(one.width, one.height)
            if one.channels not in ((2, 4) if one.alpha else (1, 3)):
                raise InputError(
                    f"The PNM's picture has {one.channels} channels that are no colours.",
                    hint="Save each channel as a picture of its own.",
                )
            found.append(one)
            limits.check_frames(len(found))
            if one.text:
                break  # of these a file has one
            start = self._behind(one)
        if not found:
            raise InputError(
                "The PNM's header cannot be understood.", hint="It is damaged or of a rare kind. Save it as PNG."
            )
        return found

    def _behind(self, one: Picture) -> int:
        """Where the next picture may begin: some writers put a line's end between them."""
        self._file.seek(one.end)
        rest = self._file.read(16)
        gap = len(rest) - len(rest.lstrip())
        return one.end + (gap if looks_like_pnm(rest[gap:] + self._file.read(64)) else 0)

    def read(self, index: int) -> Pixels:
        one = self._pictures[index]
        if one.end > self._size:
            raise _early()
        values = self._text(one) if one.text else self._numbers(one)
        if not one.most:
            return values[::-1]  # the lowest row comes first
        if one.bits:
            return (1 - values) * np.uint8(255)
        shown = _stretched(values, one.most)
        return _over_black(shown, one) if one.alpha else shown

    def _numbers(self, one: Picture) -> Pixels:
        self._file.seek(one.start)
        data = self._file.read(one.end - one.start)
        if one.bits:
            rows = np.frombuffer(data, np.uint8).reshape(one.height, -1)
            return np.unpackbits(rows, axis=1, count=one.width)
        letter = "f" if not one.most else "u"
        values = np.frombuffer(data, f"{'>' if one.big else '<'}{letter}{one.width_of_value}")
        return _shaped(values.astype(values.dtype.newbyteorder("=")), one)

    def _text(self, one: Picture) -> Pixels:
        count = one.width * one.height * one.channels
        self._file.seek(one.start)
        text = self._file.read(LONGEST_NUMBER * count)
        if one.bits:  # no gap need stand between these
            values = np.frombuffer(text, np.uint8)
            values = values[(values == ord("0")) | (values == ord("1"))][:count] - np.uint8(ord("0"))
        else:
            words = text.split(maxsplit=count)[:count]
            if any(not word.isdigit() or len(word) > LONGEST_NUMBER for word in words):
                raise InputError("The PNM's text holds something that is no value.", hint="Save it as PNG.")
            numbers = np.fromiter((min(int(word), one.most) for word in words), np.int64, len(words))
            values = numbers.astype(f"u{one.width_of_value}")
        if values.size < count:
            raise _early()
        return _shaped(values, one)

    def close(self) -> None:
        self._file.close()


def _early() -> TruncatedError:
    return TruncatedError(
        "The file is truncated: the PNM's values end before its picture does.",
        hint="The copy was interrupted; drop the file again.",
    )


def _shaped(values: Pixels, one: Picture) -> Pixels:
    shape = (one.height, one.width, one.channels) if one.channels > 1 else (one.height, one.width)
    return values.reshape(shape)


def _stretched(values: Pixels, most: int) -> Pixels:
    """Values that fit into 8 bits, so that 255 is white; others as they are. None is above ``most``."""
    values = np.minimum(values, values.dtype.type(most))
    if most >= 255:
        return values
    return ((values.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)


def _over_black(values: Pixels, one: Picture) -> Pixels:
    colours = values[..., 0] if one.channels == 2 else values[..., :3]
    alpha = values[..., -1]
    if one.most > 255:  # opaque is what the header calls white
        share = alpha / one.most
        laid = np.rint(colours * (share[..., np.newaxis] if colours.ndim == 3 else share))
        return laid.astype(values.dtype) if alpha.any() else colours
    return over_black(colours, alpha)
