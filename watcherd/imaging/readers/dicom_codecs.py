"""Compressed pictures in DICOM files, decoded by imagecodecs: a plug-in for pydicom's decoders.

`decoder_of` gives pydicom's decoder for a transfer syntax with this plug-in in it, and `PLUGIN` names it to them. What
a picture's own code says of its size is compared with the header before anything is decoded.

Sources: DICOM PS3.5 8.1.1 (bits), 8.2 (compressed pictures); ITU-T T.81 B.1 and B.2 (JPEG's markers), T.87 C.1
(JPEG-LS), T.800 A.4 and A.5 (JPEG 2000), T.814 A.3 (High-Throughput).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from watcherd.imaging.readers.jpeg2000_inside import zeros_inside
from watcherd.imaging.readers.jpeg_inside import damage_inside

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

    from watcherd.imaging.readers.scan import Pixels

PLUGIN: Final = "imagecodecs"
"""The name under which pydicom knows this module."""

JPEG: Final = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_2000: Final = (uid.JPEG2000, uid.JPEG2000Lossless)
LOSSY: Final = (uid.JPEG2000, uid.HTJ2K, uid.JPEGLSNearLossless)
"""Syntaxes whose values may come out a little above what was put in."""

SYNTAXES: Final = frozenset(
    {*JPEG, *LOSSY, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL}
)

DECODER_DEPENDENCIES: Final = dict.fromkeys(SYNTAXES, ("imagecodecs",))
"""pydicom asks each plug-in for this."""

OVERSHOOT: Final = 16
"""A lossy value above the largest by no more than this part of it is the largest: it has no bits of something else."""

LS: Final = 0xF7
SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {LS}
"""Second bytes of the markers of JPEG and JPEG-LS that say how large a picture is."""

END: Final = b"\xff\xd9"
"""The marker at the end of a picture of any kind."""

LAST: Final = 16
"""Bytes at a picture's end, zeros not counted, in which its `END` is looked for."""

BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Second bytes of markers without a length."""


def is_available(syntax: str) -> bool:
    """Whether this plug-in decodes a transfer syntax; pydicom asks each plug-in for this."""
    return syntax in SYNTAXES


def decoder_of(syntax: uid.UID) -> Any:
    """pydicom's decoder for a transfer syntax. Raises NotImplementedError where it knows none."""
    decoder = get_decoder(syntax)
    if syntax in SYNTAXES and PLUGIN not in decoder.available_plugins:
        decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))
    return decoder


class CodeError(ValueError):
    """A compressed picture that is not to be decoded; the text says why, and quotes nothing of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """What a compressed picture says of itself. ``height`` may be 0 in JPEG: it is told at the end then."""

    width: int
    height: int
    samples: int
    precision: int
    high_throughput: bool = False
    is_ls: bool = False


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray:
    """One picture as pydicom wants it from a plug-in: its values, and what they are in ``runner``'s options.

    Options of ours: ``high_bit`` is the header's HighBit; ``whole`` a set, in which it is kept which pictures have been
    found whole, so that each is asked once. Values come out as numbers of BitsStored bits.

    Raises `CodeError` for a code that cannot be right, also as the last of the list that the option ``reasons`` is, for
    pydicom raises an error of its own then; and what imagecodecs raises.
    """
    try:
        code = read_code(source)
        _check(source, code, runner)
        _check_inside(source, runner)
    except CodeError as error:
        runner.get_option("reasons", []).append(str(error))
        raise
    values = _decoded(source, code, runner)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", values.dtype.itemsize * 8)
    if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):  # undone with the rest
        runner.set_option("photometric_interpretation", "RGB")
    return bytearray(_of_bits_stored(values, code, runner).tobytes())  # pydicom writes into it


def _check(source: bytes, code: Code, runner: DecodeRunner) -> None:
    said = (runner.columns, runner.rows, runner.samples_per_pixel)
    found = (code.width, code.height or runner.rows, code.samples)
    if said != found:
        first, second = (f"{width} x {height} with {samples}" for width, height, samples in (found, said))
        raise CodeError(f"it is {first} values a pixel, and the header says {second}")
    if (runner.transfer_syntax in JPEG or code.high_throughput) and END not in source.rstrip(b"\0")[-LAST:]:
        raise CodeError("it has no end, and what decodes it would fill what is missing")


def _check_inside(source: bytes, runner: DecodeRunner) -> None:
    """Raises `CodeError` for a picture of which a part is missing, where what decodes it would fill that."""
    whole: set[int] = runner.get_option("whole", set())
    key = hash(source)
    if key in whole:
        return
    if runner.transfer_syntax in JPEG:
        damage = damage_inside(source)
    else:
        damage = zeros_inside(source) if runner.transfer_syntax in JPEG_2000 else ""
    if damage:
        raise CodeError(damage)
    whole.add(key)


def _decoded(source: bytes, code: Code, runner: DecodeRunner) -> Pixels:
    """(height, width) or (height, width, samples), as the code has them: colours are not converted but JPEG 2000's."""
    import imagecodecs  # slow to import

    syntax = runner.transfer_syntax
    if syntax in JPEG:
        colours = "RGB" if code.samples == 3 else None  # from RGB to RGB: nothing is converted
        values: Pixels = imagecodecs.jpeg8_decode(source, colorspace=colours, outcolorspace=colours)
    elif syntax in uid.JPEGLSTransferSyntaxes:
        values = imagecodecs.jpegls_decode(source)
    else:  # High-Throughput too: its own decoder, htj2k_decode, makes a picture of any half of one
        values = imagecodecs.jpeg2k_decode(source, numthreads=1)
    if values.ndim == 3 and values.shape[0] == code.samples != values.shape[-1]:
        values = np.moveaxis(values, 0, -1)
    return values


def _of_bits_stored(values: Pixels, code: Code, runner: DecodeRunner) -> Pixels:
    """Values without what stands in the bits that do not belong to them, such as overlays."""
    stored = runner.bits_stored
    high = int(runner.get_option("high_bit", stored - 1)) if code.precision > stored else stored - 1
    signed = bool(runner.pixel_representation)
    if runner.transfer_syntax in LOSSY and not signed and high == stored - 1 and values.dtype.kind == "u":
        largest = (1 << stored) - 1
        values = np.where((values > largest) & (values <= largest + largest // OVERSHOOT), largest, values).astype(
            values.dtype
        )
    return significant(values, stored=stored, high_bit=high, signed=signed)


def significant(values: Pixels, *, stored: int, high_bit: int, signed: bool) -> Pixels:
    """The numbers of ``stored`` bits, the highest at place ``high_bit``, in whole words; of the same width.

    PS3.5 8.1.1: the other bits of a word may hold anything.
    """
    allocated = values.dtype.itemsize * 8
    if stored >= allocated or not stored - 1 <= high_bit < allocated:
        return values
    words = values.view(f"{values.dtype.byteorder}{'i' if signed else 'u'}{values.dtype.itemsize}")
    moved: Pixels = np.left_shift(words, allocated - 1 - high_bit)
    return np.right_shift(moved, allocated - stored)


# ------------------------------------------------------------------------------------------------- what the code says


def read_code(source: bytes) -> Code:
    """What a JPEG, JPEG-LS or JPEG 2000 picture says of itself. Raises `CodeError` where it says nothing."""
    start = source.find(b"\xff\x4f\xff\x51", 0, 4096)  # may stand in boxes, as in a file of its own
    try:
        return _jpeg2000(source, start) if start >= 0 and source[:2] != b"\xff\xd8" else _jpeg(source)
    except (struct.error, IndexError):
        raise CodeError("it ends within its header") from None


def _jpeg(source: bytes) -> Code:
    place = source.find(b"\xff\xd8") + 2
    if place < 2:
        raise CodeError("it is no JPEG")
    while True:
        while source[place] == 0xFF and source[place + 1] == 0xFF:  # fill bytes
            place += 1
        marker = source[place + 1]
        if source[place] != 0xFF or marker == 0xDA:
            raise CodeError("it does not say how large it is")
        if marker in SOF:
            precision, height, width, samples = struct.unpack_from(">BHHB", source, place + 4)
            is_ls = marker == LS
            return Code(width=width, height=height, samples=samples, precision=precision, is_ls=is_ls)
        place += 2 if marker in BARE else 2 + struct.unpack_from(">H", source, place + 2)[0]


def _jpeg2000(source: bytes, start: int) -> Code:
    length, _, right, bottom, left, top = struct.unpack_from(">HHIIII", source, start + 4)
    samples, depth = struct.unpack_from(">HB", source, start + 40)
    return Code(
        width=right - left,
        height=bottom - top,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        high_throughput=source[start + 4 + length : start + 6 + length] == b"\xff\x50",
    )
