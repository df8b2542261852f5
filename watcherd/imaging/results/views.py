"""A frame as people look at it: brought to a size, with its mask drawn on it and words beside it. Pure.

Large frames are shrunk before anything is drawn and small ones are enlarged, so that lines and letters have about the
same size in every picture, and a run of large frames costs no more than one of small ones.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from watcherd.imaging.results.overlay import overlay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

PAPER = (22, 22, 22)
INK = (235, 235, 235)
"""Around pictures: dark, as the rooms are in which scans are read."""

SMALLEST_LETTERS = 11
LETTERS = 1 / 26
"""Height of letters as a part of a picture's longer side."""


def scan_of(pixels: Pixels, side: int, least: int = 0) -> Image.Image:
    """A frame without its mask, as `overlay_of` has it."""
    image = Image.fromarray(pixels)
    size = _size(image.size, side, least)
    how = Image.Resampling.BICUBIC if size[0] > image.width else Image.Resampling.BILINEAR
    return image.resize(size, how, reducing_gap=1.1).convert("RGB")


def overlay_of(pixels: Pixels, labels: Pixels, side: int, least: int = 0) -> Image.Image:
    """A frame with its mask drawn on it: its longer side has at most ``side`` pixels and at least ``least``.

    ``pixels``: (height, width) or (height, width, 3). ``labels``: (height, width), 0 for background.
    """
    height, width = labels.shape
    size = _size((width, height), side, least)
    if size[0] > width:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        labels = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        return Image.fromarray(overlay(pixels, labels))
    factor = max(height, width) // side
    if factor > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
        labels = _strongest(labels, factor)
    shrinks = round(max(labels.shape) / max(size) + 0.2)
    drawn = Image.fromarray(overlay(pixels, labels, thickness=shrinks if shrinks > 1 else None))
    return drawn if drawn.size == size else drawn.resize(size, Image.Resampling.BILINEAR)


def _size(size: tuple[int, int], side: int, least: int) -> tuple[int, int]:
    """Width and height within the bounds, in the same proportion."""
    longer = max(size)
    scale = side / longer if longer > side else max(1.0, min(side, least) / longer)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _strongest(labels: Pixels, factor: int) -> Pixels:
    """The highest label of each block, as `Image.reduce` cuts them: a vessel of one pixel is not lost between two."""
    height, width = labels.shape
    padded = np.pad(labels, ((0, -height % factor), (0, -width % factor)))
    rows = reduce(np.maximum, (padded[start::factor] for start in range(factor)))
    return reduce(np.maximum, (rows[:, start::factor] for start in range(factor)))


def letters_for(side: int) -> int:
    """Height in pixels of letters that can be read in a picture of this longer side."""
    return max(SMALLEST_LETTERS, round(side * LETTERS))


@cache
def font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(height)


def numbered(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a few words in its lower left corner, on a dark plate."""
    height = letters_for(max(picture.size))
    pen = ImageDraw.Draw(picture, "RGBA")
    margin = max(2, height // 3)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font(height))
    corner = (margin, picture.height - margin - height - margin)
    plate = (corner[0], corner[1], corner[0] + right - left + 2 * margin, picture.height - margin)
    pen.rounded_rectangle(plate, radius=margin, fill=(0, 0, 0, 150))
    middle = (corner[1] + picture.height - margin) / 2
    pen.text((corner[0] + margin - left, middle - (top + bottom) / 2), text, font=font(height), fill=INK)
    return picture
