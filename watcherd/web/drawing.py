"""Pictures for the page, made in an imaging worker: a scan's frames, a result's, and thumbnails.

Every file is opened by the hash that the history has of it: what is shown is what was taken in or delivered, and no
file that somebody has put under its name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from watcherd.errors import InputError, LostBytesError
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.verified import verified

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from watcherd.imaging.limits import DecodeLimits

THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""
MOST_PIXELS = 1 << 26
"""Pixels of a picture in the page, which browsers draw; a larger one is shown smaller."""
QUALITY = 92
TWO_BYTES = 257
"""65535 / 255: from a probability's 16 bits to the 8 that a browser's canvas has."""

_LOST = "Its file is not there any more, or holds other bytes."
_AGAIN = "Have the job done again."

Where = tuple[str, str, int]
"""A file, its hash and its size in bytes: where the bytes may lie that are meant."""


def scan_frame(places: Iterable[Where], npy: Path, target: Path, frame: int, limits: DecodeLimits) -> None:
    """A frame of a scan as JPEG. ``npy``: where its decoded frames are, or are put. Raises `JobError`."""
    from watcherd.imaging.decode import decode

    if not npy.exists():
        made = npy.with_name(f"{npy.name}.{os.getpid()}.part")
        with verified(*_first(places)) as source:
            decode(source, made, limits)
        made.replace(npy)
    frames = FrameFile(npy)
    if not 0 <= frame < len(frames):
        raise InputError(f"There is no frame {frame + 1}: the scan has {len(frames)}.")
    _save(_fitting(Image.fromarray(frames[frame])), target, "JPEG", quality=QUALITY, subsampling=0)


def result_frame(place: Where, kind: str, target: Path, frame: int) -> None:
    """A frame of a mask or of a map of probabilities as PNG of 8 bits: label values, or 255 for certainty."""
    with verified(*_first([place])) as source:
        pixels = _result(source, place[0], frame)
    if kind == "probability" and pixels.dtype == np.uint16:
        pixels = (pixels // TWO_BYTES).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputError(f"The {kind} is no picture of one value for each pixel.")
    shown = Image.fromarray(pixels)
    way = Image.Resampling.NEAREST if kind == "mask" else Image.Resampling.BOX
    _save(_fitting(shown, way), target, "PNG", compress_level=1)


def thumbnail(place: Where, target: Path) -> None:
    """A result's picture, small."""
    with verified(*_first([place])) as source, Image.open(source) as picture:
        picture.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        small = picture.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        _save(small, target, "JPEG", quality=82)


def plain_file(path: str, size: int) -> Path:
    """The path, if a plain file of this size is there: a pipe would never end. Raises `LostBytesError`."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise LostBytesError(_LOST, hint=_AGAIN) from error
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise LostBytesError(_LOST, hint=_AGAIN)
    return Path(path)


def _first(places: Iterable[Where]) -> tuple[Path, str]:
    """The first of these files that is there with the bytes that are meant. Raises `LostBytesError`."""
    for path, sha256, size in places:
        try:
            with verified(plain_file(path, size), sha256):
                return Path(path), sha256
        except (LostBytesError, OSError):
            continue
    raise LostBytesError(_LOST, hint=_AGAIN)


def _result(source: Path, name: str, frame: int) -> NDArray[Any]:
    if name.endswith(".tif"):
        import tifffile

        with tifffile.TiffFile(source) as file:
            if frame >= len(file.pages):
                raise InputError(f"There is no frame {frame + 1}.")
            return np.asarray(file.pages[frame].asarray())
    if name.endswith(".nii.gz"):
        from watcherd.imaging.readers.nifti_scan import NiftiFile

        volume = NiftiFile(source)
        try:
            if frame >= volume.shape[2]:
                raise InputError(f"There is no frame {frame + 1}.")
            return np.ascontiguousarray(volume.turn.shown(volume.slice(frame))).astype(np.uint8)
        finally:
            volume.close()
    with Image.open(source) as picture:
        return np.asarray(picture)


def _fitting(picture: Image.Image, way: Image.Resampling = Image.Resampling.BOX) -> Image.Image:
    pixels = picture.width * picture.height
    if pixels <= MOST_PIXELS:
        return picture
    scale = (MOST_PIXELS / pixels) ** 0.5
    return picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))), way)


def _save(picture: Image.Image, target: Path, kind: str, **options: Any) -> None:
    """Whole under its name, or not at all."""
    made = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        picture.save(made, kind, **options)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
