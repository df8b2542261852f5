"""TIFF files that Pillow cannot open, or opens with a loss: 16-bit colours, ImageJ stacks, doubles, odd layouts, and
pages compressed in ways that it does not know. tifffile reads the container, imagecodecs what is compressed in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from watcherd.errors import InputError
from watcherd.imaging.readers.calibration import grid_of_pages, told_by_tags
from watcherd.imaging.readers.jpeg_inside import check_jpeg_pages
from watcherd.imaging.readers.scan import Pixels, Told, over_black, turned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.imaging.limits import DecodeLimits

ORIENTATION, ACROSS, DOWN, UNIT = 274, 282, 283, 296
"""TIFF tags."""

MULTIPLIED = 1
"""ExtraSamples: alpha with which the colours have been multiplied."""

WITH_PREDICTOR = frozenset({5, 8, 32946, 34925, 34926, 50000, 50013})
"""Compressions before which values may be turned into differences: LZW, deflate, LZMA, Zstandard."""

DAMAGED = "It is damaged. Open it with another program, and save the picture anew."

ALPHA = (MULTIPLIED, 2)
"""ExtraSamples: alpha of any kind."""

COLOURS_UNDONE = frozenset({6, 7, 34892, 33007, 50001, 34927, 50002, 52546})
"""Compressions whose decoders turn YCbCr into RGB by themselves: JPEG, WebP and JPEG XL under all their numbers."""


class TifffileScan:
    """A file opened through tifffile."""

    format = "TIFF"

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._limits = limits
        self._path = path
        # a file, not a path: tifffile would look for a name where there may be none, as for a member of a zip
        self._handle = path.open("rb")
        self._whole: set[int] = set()
        try:
            self._file = tifffile.TiffFile(self._handle)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        pages = [page.aspage() for page in within(self._file.pages, self._limits)]
        self._pages = [page for page in pages if not page.is_reduced and not page.is_mask]
        if not self._pages:
            raise InputError("The TIFF holds no picture.", hint="Export the scan again.")
        first = self._pages[0]
        _check_planes(first)
        self._limits.check_size(first.imagewidth, first.imagelength)
        self._stack = self._hidden_stack(first)
        self.frames = self._stack or len(self._pages)
        self._limits.check_frames(self.frames)
        self.bit_depth = int(first.bitspersample)
        self.told = self._calibration(first)

    def _calibration(self, first: tifffile.TiffPage) -> Told:
        """Pixel size and time between frames, as far as the file says."""
        across, down = (_density(first, tag) for tag in (ACROSS, DOWN))
        unit = first.tags.get(UNIT)
        spacing, frame_ms = told_by_tags(first.description, across, down, int(unit.value) if unit else None)
        tag = first.tags.get(ORIENTATION)
        if spacing and tag and int(tag.value) in (5, 6, 7, 8):
            spacing = spacing[::-1]
        return Told(
            spacing_mm=spacing,
            frame_ms=frame_ms if self.frames > 1 else None,
            grid=grid_of_pages(first.description, spacing, self.frames),
        )

    def _hidden_stack(self, first: tifffile.TiffPage) -> int:
        """How many frames ImageJ has put behind one directory; 0 where each frame has its own."""
        if len(self._pages) > 1 or not self._file.is_imagej:
            return 0
        series = self._file.series[0]
        count = int(series.size // max(1, first.size))
        if count > 1 and series.dataoffset is None:
            raise InputError("The ImageJ stack is stored in pieces.", hint="Save it as a plain multi-page TIFF.")
        return count if count > 1 else 0

    def read(self, index: int) -> Pixels:
        if self._stack:
            page = self._pages[0]
            self._check_memory(page)
            offset = self._file.series[0].dataoffset or 0
            kind = np.dtype(page.dtype).newbyteorder("<" if self._file.byteorder == "<" else ">")
            values: NDArray[Any] = np.fromfile(self._path, kind, page.size, offset=offset + index * page.nbytes)
            values = values.reshape(page.shape)
        else:
            page = self._pages[index]
            self._limits.check_size(page.imagewidth, page.imagelength)
            self._check_memory(page)
            values = _unpacked(page)
            self._check_inside(index, page)
        if page.imagedepth != 1 or values.dtype.kind not in "iubf":
            raise InputError("The TIFF holds volumes or complex numbers, no pictures.", hint="Save it as plain pages.")
        tag = page.tags.get(ORIENTATION)
        shown = _stretched(page, _bright_is_high(page, _channels_last(page, values)))
        return turned(shown, int(tag.value) if tag else 1)

    def _check_inside(self, index: int, page: tifffile.TiffPage) -> None:
        """Raises `InputError` where a JPEG's decoder has filled what is missing; each page is asked once."""
        if index in self._whole:
            return
        places = zip(page.dataoffsets, page.databytecounts, strict=False)
        check_jpeg_pages(self._handle.fileno(), int(page.compression), places, page.jpegtables or b"")
        self._whole.add(index)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first frame."""
        return self._pages[0].imagewidth, self._pages[0].imagelength

    def _check_memory(self, page: tifffile.TiffPage) -> None:
        """A frame is held as it is stored, and as 8 bits."""
        stored = np.dtype(page.dtype or np.uint8).itemsize * int(page.samplesperpixel)
        self._limits.check_memory(page.imagewidth, page.imagelength, stored + 1)

    def close(self) -> None:
        self._handle.close()


def within(
    pages: Iterable[tifffile.TiffPage | tifffile.TiffFrame], limits: DecodeLimits
) -> Iterator[tifffile.TiffPage | tifffile.TiffFrame]:
    """The pages, as far as limits allow: a chain of pages that leads back into itself has no end.

    Raises `InputError` behind as many as may be frames and as many again, and for a page that comes twice.
    """
    seen: set[int] = set()
    for page in pages:
        if page.offset in seen:
            raise InputError("The TIFF's pages refer to each other in a ring.", hint=DAMAGED)
        seen.add(page.offset)
        limits.check_frames(-(-len(seen) // 2))  # beside each frame a smaller copy of it may stand
        yield page


def _density(page: tifffile.TiffPage, number: int) -> float | None:
    """A resolution tag's fraction as pixels for a unit."""
    tag = page.tags.get(number)
    try:
        above, below = tag.value if tag else (0, 0)
        return above / below if below else None
    except (TypeError, ValueError):
        return None


def _unpacked(page: tifffile.TiffPage) -> NDArray[Any]:
    """The page's values. Raises `InputError` where nothing here undoes its compression, and what decoders raise."""
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError:
        raise InputError(
            f"The TIFF is compressed with {_named(page)}, which cannot be read here.",
            hint="Save it without compression, or with LZW or deflate.",
        ) from None
    if page.compression not in WITH_PREDICTOR:
        page.predictor = tifffile.PREDICTOR.NONE  # the tag means nothing then, as libtiff takes it
    return page.asarray(maxworkers=1)


def _named(page: tifffile.TiffPage) -> str:
    return str(getattr(page.compression, "name", page.compression))


def _channels_last(page: tifffile.TiffPage, values: NDArray[Any]) -> NDArray[Any]:
    """The page as (height, width) or (height, width, channels), in the machine's own byte order."""
    values = values.reshape(page.shape).astype(values.dtype.newbyteorder("="), copy=False)
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise InputError(f"The TIFF's axes are {page.axes}, not those of a picture.", hint="Save it as plain pages.")
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    return values


def _bright_is_high(page: tifffile.TiffPage, values: NDArray[Any]) -> Pixels:
    """Colours and grey values as they are displayed, whatever the photometric interpretation."""
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    if photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return np.moveaxis(page.colormap[:, values], 0, -1)
    if photometric == tifffile.PHOTOMETRIC.SEPARATED and values.ndim == 3 and values.shape[2] >= 4:
        full = float(np.iinfo(values.dtype).max)
        ink = values.astype(np.float32) / full
        return np.rint((1 - ink[..., :3]) * (1 - ink[..., 3:4]) * full).astype(values.dtype)
    kinds = tifffile.PHOTOMETRIC
    undone = photometric == kinds.YCBCR and page.compression in COLOURS_UNDONE
    if photometric not in (kinds.MINISWHITE, kinds.MINISBLACK, kinds.RGB, kinds.CFA) and not undone:
        raise InputError(
            f"The TIFF's colours are stored as {photometric.name}, which is not supported.",
            hint="Save it as RGB or grey.",
        )
    values = _without_alpha(page, values)
    if photometric == kinds.MINISWHITE:
        return (
            -values if values.dtype.kind == "f" else np.subtract(_white(page, values.dtype), values, dtype=values.dtype)
        )
    return values


def _stretched(page: tifffile.TiffPage, values: Pixels) -> Pixels:
    """Values of fewer than 8 bits so that the largest of these is 255; others as they are."""
    if values.dtype != np.uint8 or not 1 < page.bitspersample < 8 or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return values
    most = (1 << int(page.bitspersample)) - 1
    return ((values.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)


def _white(page: tifffile.TiffPage, dtype: np.dtype[Any]) -> int:
    return -1 if dtype.kind == "i" else (1 << int(page.bitspersample)) - 1


def _check_planes(page: tifffile.TiffPage) -> None:
    """Raises `InputError` where nothing says how channels are stored, and for what tifffile has stored as the planes of
    one coloured picture, without being told that they are colours: 3 or 4 grey frames look so too."""
    if page.planarconfig not in (tifffile.PLANARCONFIG.CONTIG, tifffile.PLANARCONFIG.SEPARATE):
        raise InputError("The TIFF does not say rightly how its channels are stored.", hint=DAMAGED)
    planes = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.photometric == tifffile.PHOTOMETRIC.RGB
    if planes and page.is_shaped:
        raise InputError(
            f"The TIFF's {page.samplesperpixel} planes may be the colours of one picture or as many frames:"
            " its writer, tifffile, takes the one for the other.",
            hint="Write frames with photometric='minisblack', colours as (height, width, 3).",
        )


def _without_alpha(page: tifffile.TiffPage, values: NDArray[Any]) -> Pixels:
    """One or three channels; an extra one is laid under them where the file says that it is alpha.

    Raises `InputError` for channels that are neither colour nor alpha: which of them is the picture, nothing says.
    """
    if values.ndim == 2:
        return values
    kinds = tifffile.PHOTOMETRIC
    colours = 1 if page.photometric in (kinds.MINISWHITE, kinds.MINISBLACK) else 3
    channels = values.shape[2]
    alpha = channels == colours + 1 and bool(page.extrasamples) and page.extrasamples[0] in ALPHA
    spare = colours == 3 and channels == 4 and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
    if channels != colours and not alpha and not spare:
        raise InputError(
            f"The TIFF's pictures have {channels} channels, and the file says of {colours} what it shows.",
            hint="Save each channel, or each frame, as a page of its own.",
        )
    shown = values[..., :3] if colours == 3 else values[..., 0]
    if alpha:
        return over_black(shown, values[..., colours], multiplied=page.extrasamples[0] == MULTIPLIED)
    return shown
