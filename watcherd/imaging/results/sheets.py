"""Several views on one sheet: a scan beside its overlay, and a run at a glance. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from watcherd.imaging.results.views import INK, PAPER, font, letters_for, numbered, overlay_of, scan_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watcherd.formats.npy_frames import FrameFile

PANEL_SIDE = 1600
PANEL_LEAST = 480
"""Bounds of the longer side of each of a panel's two pictures."""

WIDE = 1.8
"""Ratio of width to height from which the two pictures stand one above the other."""

MOST_TILES = 30
TILE_SIDE = 320
TILE_LEAST = 200
SHEET_SHAPE = 4 / 3
"""Ratio of width to height that a contact sheet aims at."""


def panel(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], *, frame: int = 1, frames: int = 1) -> Image.Image:
    """The scan beside itself with its mask, with a line of words below. ``frame``: of a run, from 1."""
    plain = scan_of(pixels, PANEL_SIDE, PANEL_LEAST)
    drawn = overlay_of(pixels, labels, PANEL_SIDE, PANEL_LEAST)
    share = np.count_nonzero(labels) / labels.size
    which = f"frame {frame} of {frames}" if frames > 1 else "scan"
    return _beside(plain, which, drawn, f"mask: {share:.1%} of the {'frame' if frames > 1 else 'scan'}")


def _beside(first: Image.Image, words: str, second: Image.Image, other_words: str) -> Image.Image:
    """Two pictures of one size and their words, side by side, or wide ones one above the other."""
    height = letters_for(max(first.size)) * 3 // 4 if max(first.size) > PANEL_LEAST else letters_for(PANEL_LEAST)
    line, gap = 2 * height, max(2, height // 2)
    step = (0, first.height + line) if first.width > WIDE * first.height else (first.width + gap, 0)
    sheet = Image.new("RGB", (step[0] + first.width, step[1] + first.height + line), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (picture, text) in enumerate(((first, words), (second, other_words))):
        left, top = number * step[0], number * step[1]
        sheet.paste(picture, (left, top))
        pen.text((left + height // 2, top + first.height + line // 2), text, font=font(height), fill=INK, anchor="lm")
    return sheet


def contact_sheet(pixels: FrameFile, labels: FrameFile) -> Image.Image:
    """Evenly picked frames of a run with their masks and numbers, at most `MOST_TILES`, row by row."""
    chosen = evenly(len(pixels), MOST_TILES)
    first, *_ = tiles = [
        numbered(overlay_of(pixels[index], labels[index], TILE_SIDE, TILE_LEAST), str(index + 1)) for index in chosen
    ]
    gap = max(2, TILE_SIDE // 80)
    wide = math.sqrt(len(tiles) * SHEET_SHAPE * first.height / first.width)
    columns = min(len(tiles), max(1, round(wide)))
    rows = math.ceil(len(tiles) / columns)
    across, down = first.width + gap, first.height + gap
    sheet = Image.new("RGB", (columns * across + gap, rows * down + gap), PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (gap + place % columns * across, gap + place // columns * down))
    return sheet


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to ``count`` - 1, the first and the last among them, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))
