"""Scans that Pillow can open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageCms

from watcherd.errors import InputError
from watcherd.formats.table import by_pillow
from watcherd.imaging.readers.calibration import grid_of_pages, told_by_tags
from watcherd.imaging.readers.jpeg_inside import check_jpeg_pages, damage_inside, damaged
from watcherd.imaging.readers.scan import Pixels, Told, bands, over_black, tried, turned

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.readers.scan import Scan

FORMATS: Final = by_pillow()

ORIENTATION, SUBFILE, BITS, SAMPLES, PHOTOMETRIC, DESCRIPTION = 274, 254, 258, 277, 262, 270
ACROSS, DOWN, UNIT, SAMPLE_FORMAT, DEPTH, EXTRA, PLANES = 282, 283, 296, 339, 32997, 338, 284
COMPRESSION, JPEG_TABLES = 259, 347
"""TIFF tags."""

PARTS = ((273, 279), (324, 325))
"""TIFF tags of where strips and tiles begin, and how many bytes each has."""

NO_FRAME = 1 | 4
"""Bits of NewSubfileType: a page that is a smaller copy of another, or its mask."""

UNSIGNED, SIGNED, FLOATS = 1, 2, 3
"""SampleFormat: whole numbers without a sign, and with one, which Pillow shows without it; floats, whose bytes Pillow
swaps once too often where they are stored with the high one first and compressed."""

ALPHA = (1, 2)
"""ExtraSamples: alpha, multiplied or not."""

SEPARATE = 2
"""PlanarConfiguration: each channel by itself."""

SHAPED = '{"shape":'
"""What tifffile's descriptions begin with: its planes may be frames."""

GREY_WITH_ALPHA = 4
"""The colour type of such a PNG."""

DEPTHS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}

AVIF_HEAD = 1 << 16
"""Bytes of an AVIF in which its configuration is looked for."""
HELD = {"1": 2, "L": 2, "P": 4, "I": 8, "F": 8, "RGB": 7, "RGBA": 8}
"""Bytes of a pixel that are held at once at least, by Pillow's mode: as Pillow has it, and as an array."""
HELD_OTHERWISE = 4

COARSE_LIMIT = 64
"""Of 16-bit colours Pillow hands out the upper 8 bits. Where these stay below this, most of the picture is lost."""


def opened(path: Path, limits: DecodeLimits) -> Scan:
    """The file through Pillow, or through tifffile where Pillow would lose some of it."""
    scan = PillowScan(path, limits)
    if not scan.needs_tifffile():
        return scan
    scan.close()
    from watcherd.imaging.readers.tifffile_scan import TifffileScan  # rarely needed, and slow to import

    return tried(TifffileScan, path, limits)


class PillowScan:
    """A file opened through Pillow. ``path``'s content chooses the reader, never its name."""

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._limits = limits
        # a file, not a path: given a path, Pillow 13 maps uncompressed TIFFs into memory and scrambles turned ones
        self._file = path.open("rb")
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._image = Image.open(self._file, formats=FORMATS)
        self._loses = False
        self.format = "JPEG" if self._image.format == "MPO" else str(self._image.format)
        # A JPEG's further pictures (MPO) are thumbnails, depth maps or another eye's view
        count = 1 if self.format == "JPEG" else getattr(self._image, "n_frames", 1)
        self._limits.check_frames(count)
        self._pages = self._full_pages(count) if self.format == "TIFF" else list(range(count))
        if count > 1 and self._image.info.get("default_image"):
            del self._pages[0]  # shown only where a PNG's animation cannot be
        self.frames = len(self._pages)
        self._durations: dict[int, float] = {}
        self._whole: set[int] = set()
        self._spacing, self._frame_ms = self._calibration()
        self._declared = self._declared_depth()
        self.bit_depth = self._declared or DEPTHS.get(self._image.mode, 8)

    def _full_pages(self, count: int) -> list[int]:
        """The TIFF's pages without thumbnails and masks of other pages."""
        pages = []
        for page in range(count):
            self._image.seek(page)
            if not int(self._tag(SUBFILE, 0)) & NO_FRAME:
                pages.append(page)
                self._loses = self._loses or self._would_lose()
        self._image.seek(0)
        return pages or [0]

    def _tag(self, number: int, default: Any = None) -> Any:
        return getattr(self._image, "tag_v2", {}).get(number, default)

    def _declared_depth(self) -> int | None:
        """The bits of a value as the file declares them, where the mode does not tell."""
        if self.format == "TIFF" and (bits := self._tag(BITS)):
            return int(max(np.atleast_1d(bits)))
        if self.format == "PNG":
            return os.pread(self._file.fileno(), 1, 24)[0]
        if self.format == "AVIF":
            return self._avif_depth()
        return None

    def _avif_depth(self) -> int:
        """By the first picture's configuration: a bit for more than 8, and one for 12 (AV1 in ISOBMFF, 2.3.3)."""
        head = os.pread(self._file.fileno(), AVIF_HEAD, 0)
        place = head.find(b"av1C")
        flags = head[place + 6] if 0 <= place < len(head) - 6 else 0
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8

    def _calibration(self) -> tuple[tuple[float, float] | None, float | None]:
        """Pixel size and time between frames, as far as a TIFF's first page says."""
        if self.format != "TIFF":
            return None, None
        across, down = (self._density(tag) for tag in (ACROSS, DOWN))
        spacing, frame_ms = told_by_tags(self._description(), across, down, self._tag(UNIT))
        if spacing and self._tag(ORIENTATION, 1) in (5, 6, 7, 8):
            spacing = spacing[::-1]
        return spacing, frame_ms if self.frames > 1 else None

    def _description(self) -> str:
        """As UTF-8 where it is that, as OME's is: Pillow takes the bytes for Latin-1."""
        text = str(self._tag(DESCRIPTION, ""))
        try:
            return text.encode("latin-1").decode("utf-8")
        except ValueError:
            return text

    def _density(self, tag: int) -> float | None:
        try:
            return float(self._tag(tag))
        except (TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def told(self) -> Told:
        """What is known when all frames have been read; the time between them is their mean."""
        durations = self._durations.values()
        known = len(durations) > 1 and all(duration > 0 for duration in durations)
        mean = sum(durations) / len(durations) if known else self._frame_ms
        grid = grid_of_pages(self._description(), self._spacing, self.frames) if self._spacing else None
        return Told(spacing_mm=self._spacing, frame_ms=mean, grid=grid)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame that was read last."""
        return self._image.size

    def needs_tifffile(self) -> bool:
        """Whether Pillow would open this TIFF and lose some of it: low bytes of 16-bit colours, signs, the upper half
        of 32 bits, white that is zero in more than 8 bits, floats of the other byte order, channels that are no colour,
        a volume's other slices, or the stack behind ImageJ's only directory. Of any page, for each has tags of its own.
        """
        return self._loses

    def _would_lose(self) -> bool:
        """Whether this is so of the page that is open."""
        bits = int(max(np.atleast_1d(self._tag(BITS, 1))))
        kinds = np.atleast_1d(self._tag(SAMPLE_FORMAT, UNSIGNED))
        alone, grey = self._tag(SAMPLES, 1) == 1, self._tag(PHOTOMETRIC) in (0, 1)
        description = self._description()
        return bool(
            description.startswith("ImageJ=")
            or (description.startswith(SHAPED) and self._tag(PLANES) == SEPARATE)
            or SIGNED in kinds
            or (bits == 32 and UNSIGNED in kinds)
            or (FLOATS in kinds and self._tag(COMPRESSION, 1) != 1 and os.pread(self._file.fileno(), 2, 0) == b"MM")
            or self._tag(DEPTH, 1) != 1
            or (bits > 8 and (not alone or self._tag(PHOTOMETRIC) == 0))
            or (not alone and (grey or self._has_extra_channels()))
        )

    def _has_extra_channels(self) -> bool:
        """Whether there is more beside the colours than one channel of alpha."""
        extra = np.atleast_1d(self._tag(EXTRA, ()))
        return bool(extra.size > 1 or (extra.size == 1 and extra[0] not in ALPHA))

    def read(self, index: int) -> Pixels:
        if self._image.tell() != self._pages[index]:
            self._image.seek(self._pages[index])
        self._limits.check_size(*self._image.size)
        self._limits.check_memory(*self._image.size, HELD.get(self._image.mode, HELD_OTHERWISE))
        self._image.load()
        if index not in self._whole:
            self._check_inside()
            self._whole.add(index)
        if self.frames > 1 and isinstance(duration := self._image.info.get("duration"), int | float):
            self._durations[index] = float(duration)
        numbers = self._deep(index) if self._is_deeper() else _numbers(self._image)
        pixels = turned(numbers, _orientation(self._image))
        if self._declared == 16 and pixels.dtype == np.uint8 and pixels.max() < COARSE_LIMIT:
            if self.format == "PNG" and self.frames == 1:
                return turned(self._deep(index), _orientation(self._image))
            raise InputError(
                "The scan is a 16-bit colour picture that uses only its lower bits, which this format's reader drops.",
                hint="Export it as a 16-bit grey PNG, a TIFF without LZW compression, or an 8-bit picture.",
            )
        return pixels

    def _is_deeper(self) -> bool:
        """Whether Pillow would keep 8 bits of more: of a PNG that is grey with alpha, of an AVIF of 10 or 12 bits. Of a
        PNG that calls one value of 16 bits transparent, it does not find the value."""
        if self.format == "AVIF":
            return self.bit_depth > 8
        if self.format != "PNG" or self._declared != 16 or self.frames > 1:
            return False
        kind = os.pread(self._file.fileno(), 1, 25)[0]
        return kind == GREY_WITH_ALPHA or "transparency" in self._image.info

    def _deep(self, index: int) -> Pixels:
        """A frame through imagecodecs, with all its bits."""
        import imagecodecs  # slow to import

        data = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0)
        decode = imagecodecs.png_decode if self.format == "PNG" else imagecodecs.avif_decode
        layers: Pixels = decode(data)
        if self.frames > 1:
            layers = layers[index]
        if layers.ndim == 2 or layers.shape[-1] == 3:
            return layers
        colours = layers[..., 0] if layers.shape[-1] == 2 else layers[..., :3]
        return over_black(colours, layers[..., -1])

    def _check_inside(self) -> None:
        """Raises `InputError` where a JPEG's decoder has filled what is missing of the frame that was loaded."""
        descriptor = self._file.fileno()
        if self.format == "JPEG":
            damaged("The JPEG", damage_inside(os.pread(descriptor, os.fstat(descriptor).st_size, 0)))
        elif self.format == "TIFF":
            tags = ([np.atleast_1d(self._tag(tag, ())) for tag in pair] for pair in PARTS)
            places = [place for starts, counts in tags for place in zip(starts, counts, strict=False)]
            check_jpeg_pages(descriptor, self._tag(COMPRESSION), places, self._tag(JPEG_TABLES, b""))

    def close(self) -> None:
        self._file.close()


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded frame. Pillow has turned a TIFF itself and removed the tag by then."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _numbers(image: Image.Image) -> Pixels:
    """A loaded frame as an array; palettes and colour models become RGB, transparency is laid over black."""
    layers = _in_bands(image)
    if image.mode == "LA":
        return over_black(layers[..., 0], layers[..., 1])
    return over_black(layers[..., :3], layers[..., 3]) if layers.ndim == 3 and layers.shape[2] == 4 else layers


def _in_bands(image: Image.Image) -> Pixels:
    """`_layers` of all rows. Pillow's way from a picture to an array holds two more copies of what it is given."""
    pieces = list(bands(image.height, image.width))
    if len(pieces) == 1:
        return _layers(image)
    found: Pixels | None = None
    for rows in pieces:
        layers = _layers(image.crop((0, rows.start, image.width, rows.stop)))
        if found is None:
            found = np.empty((image.height, *layers.shape[1:]), layers.dtype)
        found[rows] = layers
    assert found is not None
    return found


def _layers(image: Image.Image) -> Pixels:
    """A picture as an array; with transparency as the last layer, where there is any."""
    mode = image.mode
    if mode == "1":
        return np.asarray(image, np.uint8) * np.uint8(255)
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return np.asarray(image)
    if mode in ("I", "F") or mode.startswith("I;16"):
        return np.asarray(image)
    if mode == "LA":
        return np.asarray(image)
    if mode == "LAB":
        image = (
            ImageCms.profileToProfile(
                image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            or image
        )
        return np.asarray(image)
    if mode in ("RGBA", "RGBa", "La", "PA") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
