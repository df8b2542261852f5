"""Scans that Pillow can open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageCms

from watcherd.errors import InputError
from watcherd.imaging.calibration import from_tags, is_ome
from watcherd.imaging.scan import Pixels, Told, bands, over_black, turned

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.imaging.limits import DecodeLimits

FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
"""Pillow is not asked for others: EPS would start Ghostscript, and tiny BLP files ask for 600 MB."""

ORIENTATION, REDUCED, BITS, SAMPLES, PHOTOMETRIC, DESCRIPTION = 274, 254, 258, 277, 262, 270
ACROSS, DOWN, UNIT, SAMPLE_FORMAT, DEPTH = 282, 283, 296, 339, 32997
"""TIFF tags."""

SIGNED = 2
"""SampleFormat: whole numbers with a sign, which Pillow shows without it."""

DEPTHS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}

HELD = {"1": 2, "L": 2, "P": 4, "I": 8, "F": 8, "RGB": 7, "RGBA": 8}
"""Bytes of a pixel that are held at once at least, by Pillow's mode: as Pillow has it, and as an array."""
HELD_OTHERWISE = 4

COARSE_LIMIT = 64
"""Of 16-bit colours Pillow hands out the upper 8 bits. Where these stay below this, most of the picture is lost."""


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
        self.format = "JPEG" if self._image.format == "MPO" else str(self._image.format)
        # A JPEG's further pictures (MPO) are thumbnails, depth maps or another eye's view
        count = 1 if self.format == "JPEG" else getattr(self._image, "n_frames", 1)
        self._limits.check_frames(count)
        self._pages = self._full_pages(count) if self.format == "TIFF" else list(range(count))
        if count > 1 and self._image.info.get("default_image"):
            del self._pages[0]  # shown only where a PNG's animation cannot be
        self.frames = len(self._pages)
        self._durations: dict[int, float] = {}
        self._spacing = self._pixel_size()
        self._declared = self._declared_depth()
        self.bit_depth = self._declared or DEPTHS.get(self._image.mode, 8)

    def _full_pages(self, count: int) -> list[int]:
        """The TIFF's pages without thumbnails of other pages."""
        pages = []
        for page in range(count):
            self._image.seek(page)
            if not int(self._tag(REDUCED, 0)) & 1:
                pages.append(page)
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
        return None

    def _pixel_size(self) -> tuple[float, float] | None:
        if self.format != "TIFF":
            return None
        across, down, unit = (self._tag(tag) for tag in (ACROSS, DOWN, UNIT))
        try:
            spacing = from_tags(float(across), float(down), unit)
        except (TypeError, ValueError, ZeroDivisionError):
            return None
        return spacing[::-1] if spacing and self._tag(ORIENTATION, 1) in (5, 6, 7, 8) else spacing

    @property
    def told(self) -> Told:
        """What is known when all frames have been read; the time between them is their mean."""
        durations = self._durations.values()
        known = len(durations) > 1 and all(duration > 0 for duration in durations)
        return Told(spacing_mm=self._spacing, frame_ms=sum(durations) / len(durations) if known else None)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame that was read last."""
        return self._image.size

    def needs_tifffile(self) -> bool:
        """Whether Pillow would open this TIFF and lose some of it: low bytes of 16-bit colours, signs, white that is
        zero in more than 8 bits, a volume's other slices, the stack behind ImageJ's only directory, or what ImageJ and
        OME say of its calibration."""
        if self.format != "TIFF":
            return False
        deep = max(np.atleast_1d(self._tag(BITS, 1))) > 8
        signed = SIGNED in np.atleast_1d(self._tag(SAMPLE_FORMAT, 1))
        description = str(self._tag(DESCRIPTION, ""))
        return (
            description.startswith("ImageJ=")
            or is_ome(description)
            or signed
            or self._tag(DEPTH, 1) != 1
            or (deep and (self._tag(SAMPLES, 1) != 1 or self._tag(PHOTOMETRIC) == 0))
        )

    def read(self, index: int) -> Pixels:
        if self._image.tell() != self._pages[index]:
            self._image.seek(self._pages[index])
        self._limits.check_size(*self._image.size)
        self._limits.check_memory(*self._image.size, HELD.get(self._image.mode, HELD_OTHERWISE))
        self._image.load()
        if self.frames > 1 and isinstance(duration := self._image.info.get("duration"), int | float):
            self._durations[index] = float(duration)
        pixels = turned(_numbers(self._image), _orientation(self._image))
        if self._declared == 16 and pixels.dtype == np.uint8 and pixels.max() < COARSE_LIMIT:
            raise InputError(
                "The scan is a 16-bit colour picture that uses only its lower bits, which this format's reader drops.",
                hint="Export it as a 16-bit grey PNG, a TIFF without LZW compression, or an 8-bit picture.",
            )
        return pixels

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
