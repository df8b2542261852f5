"""JPEG 2000 and JPEG XL files, and JPEGs of rare kinds, decoded by imagecodecs. Their headers say their size before
anything is decoded.

Sources: ITU-T T.800 A.5.1 (SIZ) and I.5.3 (boxes of a JP2 header); ISO/IEC 18181-1 (size of a JPEG XL) and 18181-2 (its
container).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from watcherd.errors import InputError
from watcherd.formats.isobmff import boxes
from watcherd.imaging.readers.dicom_codecs import read_code
from watcherd.imaging.readers.jpeg2000_inside import zeros_inside
from watcherd.imaging.readers.jpeg_inside import damage_inside, damaged
from watcherd.imaging.readers.scan import Pixels, over_black

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.imaging.limits import DecodeLimits

CODESTREAM: Final = b"\xff\x4f\xff\x51"
JXL_CODESTREAM: Final = b"\xff\x0a"

OPACITY: Final = frozenset({1, 2})
"""What a channel is in a JP2's list of them: alpha, plain or multiplied into the colours."""

MULTIPLIED: Final = 2
CMYK: Final = 12

RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height of a JPEG XL that says so in place of a width."""

DAMAGED: Final = "It is damaged or of a rare kind. Save it as PNG or TIFF."


class Jpeg2000Scan:
    """A picture: a codestream by itself, or in the boxes of JP2."""

    format = "JPEG2000"
    frames = 1

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._data = path.read_bytes()
        start = _start_of_code(self._data)
        right, bottom, left, top = struct.unpack_from(">4I", self._data, start + 8)
        limits.check_size(right - left, bottom - top)
        (channels,) = struct.unpack_from(">H", self._data, start + 40)
        depths = self._data[start + 42 : start + 42 + 3 * channels : 3]
        self.bit_depth = max(depth & 0x7F for depth in depths) + 1
        self._header = self._data[:start]

    def read(self, _index: int) -> Pixels:
        import imagecodecs  # slow to import

        damaged("The JPEG 2000", zeros_inside(self._data))
        values: Pixels = imagecodecs.jpeg2k_decode(self._data, numthreads=1, planar=False)
        if self._colours() == CMYK:
            raise InputError("The JPEG 2000's colours are CMYK, which is not supported.", hint="Save it as RGB.")
        return _shown(_stretched(values, self.bit_depth), self._alpha(), "JPEG 2000")

    def _colours(self) -> int | None:
        """The number of the colour space, where the header names one."""
        place = self._header.find(b"colr\x01")
        return int.from_bytes(self._header[place + 7 : place + 11], "big") if place >= 0 else None

    def _alpha(self) -> int | None:
        """How the last channel is alpha, if it is."""
        place = self._header.find(b"cdef")
        if place < 0:
            return None
        (count,) = struct.unpack_from(">H", self._header, place + 4)
        kinds = [struct.unpack_from(">3H", self._header, place + 6 + 6 * index)[1] for index in range(count)]
        return next((kind for kind in kinds if kind in OPACITY), None)

    def close(self) -> None:
        self._data = b""


def _start_of_code(data: bytes) -> int:
    """Where the codestream begins, which may stand in a box."""
    places = [0] if data.startswith(CODESTREAM) else [start for kind, start, _ in boxes(data) if kind == b"jp2c"]
    if len(places) > 1:
        raise InputError(
            f"The JPEG 2000 file holds {len(places)} pictures, and decoders here give the first.",
            hint="Save each picture as a file of its own.",
        )
    if not places or not data.startswith(CODESTREAM, places[0]):
        raise InputError("The JPEG 2000 file holds no picture.", hint=DAMAGED)
    return places[0]


class JpegScan:
    """A JPEG that Pillow does not know: of more than 8 bits, or JPEG-LS. Raises ValueError for others: what is left of
    a damaged one would be filled."""

    format = "JPEG"
    frames = 1

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._data = path.read_bytes()
        code = read_code(self._data)
        self._is_ls = code.is_ls
        if code.precision <= 8 and not code.is_ls:
            raise ValueError("a JPEG of 8 bits")
        limits.check_size(code.width, code.height)
        limits.check_memory(code.width, code.height, code.samples * 2 + 1)
        self.bit_depth = code.precision

    def read(self, _index: int) -> Pixels:
        import imagecodecs  # slow to import

        if self._is_ls:
            values: Pixels = imagecodecs.jpegls_decode(self._data)
        else:
            values = imagecodecs.jpeg8_decode(self._data)
            damaged("The JPEG", damage_inside(self._data))
        return _shown(_stretched(values, self.bit_depth), None, "JPEG")

    def close(self) -> None:
        self._data = b""


class JpegXlScan:
    """A picture or an animation, upright as its decoder makes it. All frames of an animation are held in memory."""

    format = "JXL"

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        import imagecodecs  # slow to import

        data = path.read_bytes()
        width, height = jxl_size(_codestream(data))
        limits.check_size(width, height)
        values: Pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
        self._frames = _frames_of(values, {(height, width), (width, height)})
        self.frames = len(self._frames)
        limits.check_frames(self.frames)
        self.bit_depth = values.dtype.itemsize * 8

    def read(self, index: int) -> Pixels:
        values = self._frames[index]
        alpha = 1 if values.ndim == 3 and values.shape[-1] in (2, 4) else None
        return _shown(values, alpha, "JPEG XL")

    def close(self) -> None:
        self._frames = np.empty(0)


def _frames_of(values: Pixels, sizes: set[tuple[int, int]]) -> Pixels:
    """The frames of what was decoded, as a first axis. ``sizes``: (height, width), upright or as stored."""
    if values.ndim < 4 and values.shape[:2] in sizes:
        return values[np.newaxis]
    if values.shape[1:3] in sizes:
        return values
    raise InputError("The JPEG XL file holds a picture of another size than it says.", hint=DAMAGED)


def _stretched(values: Pixels, bits: int) -> Pixels:
    """Numbers of fewer than 8 bits so that 255 is white; others as they are."""
    if bits >= 8 or values.dtype != np.uint8:
        return values
    most = (1 << bits) - 1
    return ((values.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)


def _shown(values: Pixels, alpha: int | None, what: str) -> Pixels:
    """Grey or colours. Raises `InputError` for channels that are neither these nor alpha."""
    channels = values.shape[-1] if values.ndim == 3 else 1
    if values.ndim == 3 and channels == 1:
        return values[..., 0]
    if channels in (1, 3):
        return values
    if channels not in (2, 4) or alpha is None:
        raise InputError(
            f"The {what} picture has {channels} channels that are no colours.",
            hint="Save each channel as a picture of its own.",
        )
    colours = values[..., 0] if channels == 2 else values[..., :3]
    return over_black(colours, values[..., -1], multiplied=alpha == MULTIPLIED)


# ------------------------------------------------------------------------------------------------- size of a JPEG XL


def _codestream(data: bytes) -> bytes:
    """The beginning of the picture's own code, which may stand in boxes."""
    if data.startswith(JXL_CODESTREAM):
        return data[:64]
    for kind, start, end in boxes(data):
        if kind == b"jxlc":
            return data[start : min(end, start + 64)]
        if kind == b"jxlp":  # the first of several parts, with its number before it
            return data[start + 4 : min(end, start + 68)]
    raise InputError("The JPEG XL file holds no picture.", hint=DAMAGED)


class _Bits:
    """Reads numbers from the lowest bit up."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise InputError("The JPEG XL file ends within its header.", hint=DAMAGED)
        value = self._value & (1 << count) - 1
        self._value >>= count
        return value


def jxl_size(codestream: bytes) -> tuple[int, int]:
    """Width and height by a codestream's header. Raises `InputError` where it ends too early."""
    bits = _Bits(codestream[len(JXL_CODESTREAM) :])
    small = bits.take(1)
    height = _side(bits, small=small)
    if ratio := bits.take(3):
        across, down = RATIOS[ratio - 1]
        return height * across // down, height
    return _side(bits, small=small), height


def _side(bits: _Bits, *, small: int) -> int:
    if small:
        return 8 * (bits.take(5) + 1)
    return 1 + bits.take((9, 13, 18, 30)[bits.take(2)])
