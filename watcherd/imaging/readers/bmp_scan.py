"""BMP files that Pillow refuses: colours in bits of any number and place, and palettes of more colours than they need.

Sources: Microsoft's BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER, BITMAPCOREHEADER of OS/2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from watcherd.errors import InputError
from watcherd.imaging.readers.scan import Pixels, TruncatedError, bands, over_black

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from watcherd.imaging.limits import DecodeLimits

OLD, COMMON, OS_2 = 12, 40, 64
"""Lengths of headers: OS/2's first, with short fields; the one that most files have; OS/2's second."""

HEADERS: Final = frozenset({OLD, 16, COMMON, 52, 56, OS_2, 108, 124})

PLAIN, MASKED, MASKED_WITH_ALPHA = 0, 3, 6
"""Compressions that are none."""

PACKED: Final = {4: "JPEG", 5: "PNG"}
"""Compressions of BMPs for printers: a file of another format stands in place of the rows."""

MASKS: Final = 54
"""Byte of the file in which the masks of red, green, blue and alpha begin: in the header, or behind the common one."""

USUAL: Final = {
    16: (0x7C00, 0x03E0, 0x001F, 0),
    24: (0xFF0000, 0x00FF00, 0x0000FF, 0),
    32: (0xFF0000, 0x00FF00, 0x0000FF, 0),
}
"""Masks of files that bring none, by the bits of a pixel."""

WITH_PALETTE: Final = frozenset({1, 2, 4, 8})
ANOTHER: Final = "Save it as PNG."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """``start``: of the rows in the file. ``from_top``: the first row is the uppermost. ``palette``: (colours, 3), red
    first; empty where ``masks`` say which bits of a pixel are red, green, blue and alpha."""

    width: int
    height: int
    bits: int
    start: int
    from_top: bool
    palette: NDArray[np.uint8]
    masks: tuple[int, ...]

    @property
    def row(self) -> int:
        """Bytes of a row, which is filled up to whole words of 32 bits."""
        return (self.width * self.bits + 31) // 32 * 4


class BmpScan:
    """A picture whose rows are not compressed. Channels of any number of bits become 8, so that the largest is 255."""

    format = "BMP"
    frames = 1
    bit_depth = 8

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._limits = limits
        self._file: BinaryIO = path.open("rb")
        try:
            self._layout = _layout(self._file)
            limits.check_size(self._layout.width, self._layout.height)
            limits.check_memory(self._layout.width, self._layout.height, self._layout.bits // 8 + 4)
        except struct.error:
            self.close()
            raise TruncatedError("The file is truncated: it ends in its header.", hint="Drop it again.") from None
        except BaseException:
            self.close()
            raise

    def read(self, _index: int) -> Pixels:
        layout = self._layout
        self._file.seek(layout.start)
        data = self._file.read(layout.row * layout.height)
        data += bytes(max(0, min(3, layout.row * layout.height - len(data))))  # the last row may lack its padding
        if len(data) < layout.row * layout.height:
            raise TruncatedError("The file is truncated: it is a BMP shorter than its rows.", hint="Drop it again.")
        rows = np.frombuffer(data, np.uint8).reshape(layout.height, layout.row)
        rows = rows if layout.from_top else rows[::-1]
        if layout.masks:
            return _coloured(_words(rows, layout), layout.masks)
        return np.asarray(np.take(layout.palette, _places(rows, layout), axis=0))

    def close(self) -> None:
        self._file.close()


def _layout(file: BinaryIO) -> _Layout:
    """By the header. Raises `InputError` for what is not read here, and struct.error where it ends."""
    head = file.read(MASKS + 16)
    start, header = struct.unpack_from("<II", head, 10)
    if header not in HEADERS:
        raise InputError(f"The BMP's header has {header:,} bytes, which no kind of BMP has.", hint=ANOTHER)
    compression = used = 0
    if header == OLD:
        width, height, planes, bits = struct.unpack_from("<4H", head, 18)
    else:
        width, height, planes, bits = struct.unpack_from("<2i2H", head, 18)
        if header >= COMMON:
            compression, used = struct.unpack_from("<I12xI", head, 30)
    if compression in PACKED:
        raise InputError(f"The BMP holds a {PACKED[compression]}, and no rows.", hint=ANOTHER)
    if planes != 1 or width <= 0 or height == 0 or not (bits in WITH_PALETTE or bits in USUAL):
        raise InputError(
            f"The BMP's header says {width} x {height} pixels of {bits} bits in {planes} planes, which cannot be.",
            hint="It is damaged. Save it anew.",
        )
    own_masks = compression in (MASKED, MASKED_WITH_ALPHA) and bits in USUAL and header != OS_2
    if compression != PLAIN and not own_masks:
        raise InputError(
            f"The BMP is compressed (method {compression} in {bits} bits), which cannot be read here.", hint=ANOTHER
        )
    masks = _masks(head, header, compression, bits) if own_masks else USUAL.get(bits, ())
    behind = 14 + header
    colours = 0 if masks else min(used or 1 << bits, 1 << bits)
    size = 3 if header == OLD else 4
    return _Layout(
        width=width,
        height=abs(height),
        bits=bits,
        start=start if start > behind or masks else behind + colours * size,  # some say that rows come first
        from_top=height < 0,
        palette=_palette(file, behind, (colours, size), bits),
        masks=masks,
    )


def _masks(head: bytes, header: int, compression: int, bits: int) -> tuple[int, ...]:
    """Raises `InputError` for masks whose bits do not stand together, or share some."""
    with_alpha = compression == MASKED_WITH_ALPHA or header >= 56
    masks = struct.unpack_from("<4I" if with_alpha else "<3I", head, MASKS) + (() if with_alpha else (0,))
    apart = sum(masks) == masks[0] | masks[1] | masks[2] | masks[3]
    together = all(mask == 0 or (_largest(mask) & (_largest(mask) + 1)) == 0 for mask in masks)
    if not (apart and together and any(masks[:3]) and max(masks) < 1 << bits):
        raise InputError(
            f"The BMP's masks ({', '.join(f'{mask:x}' for mask in masks)}) are not those of colours.", hint=ANOTHER
        )
    return masks


def _lowest(mask: int) -> int:
    """The place of a mask's lowest bit."""
    return (mask & -mask).bit_length() - 1


def _largest(mask: int) -> int:
    """The largest number that fits a mask."""
    return mask >> _lowest(mask)


def _palette(file: BinaryIO, place: int, shape: tuple[int, int], bits: int) -> NDArray[np.uint8]:
    """The colours behind the header; ``shape``: how many, and how many bytes each has. Those that are missing are
    black."""
    count, size = shape
    file.seek(place)
    stored = np.frombuffer(file.read(count * size), np.uint8)
    colours = stored[: len(stored) // size * size].reshape(-1, size)
    palette = np.zeros((1 << min(bits, 8), 3), np.uint8)
    palette[: len(colours)] = colours[:, 2::-1]
    return palette


def _places(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[np.uint8]:
    """The number of each pixel's colour, the first pixel in a byte's highest bits."""
    if layout.bits == 8:
        return rows[:, : layout.width]
    shifts = np.arange(8 - layout.bits, -1, -layout.bits, dtype=np.uint8)
    split = (rows[..., np.newaxis] >> shifts) & np.uint8((1 << layout.bits) - 1)
    return split.reshape(layout.height, -1)[:, : layout.width]


def _words(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[Any]:
    """Each pixel as a number."""
    used = rows[:, : layout.width * layout.bits // 8]
    if layout.bits != 24:
        return np.ascontiguousarray(used).view(f"<u{layout.bits // 8}")
    parts = used.reshape(layout.height, layout.width, 3).astype(np.uint32)
    return parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16


def _coloured(words: NDArray[Any], masks: tuple[int, ...]) -> Pixels:
    channels = 4 if masks[3] else 3
    layers = np.zeros((*words.shape, channels), np.uint8)
    for rows in bands(*words.shape):
        for channel, mask in enumerate(masks[:channels]):
            if mask:
                values = (words[rows].astype(np.uint32) & np.uint32(mask)) >> np.uint32(_lowest(mask))
                layers[rows, :, channel] = np.rint(values * (255 / _largest(mask)))
    return over_black(layers[..., :3], layers[..., 3]) if channels == 4 else layers
