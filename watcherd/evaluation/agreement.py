"""A scan with two masks of it: where they agree, and what only one of them has. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from watcherd.imaging.results.views import INK, PAPER, font, letters_for, scan_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

SIDE = 1600
LEAST = 640
DIM = 0.55
"""What remains of the scan's brightness, so that it does not compete with the colours."""

COLOURS = {"agreed": (86, 180, 233), "missed": (240, 228, 66), "invented": (213, 94, 0)}
"""Three of those of M. Okabe and K. Ito ("Color Universal Design", 2008) that also differ in brightness."""

TRUTH = {name: name for name in COLOURS}
"""What they are called where one mask is the truth."""


def agreement(
    pixels: NDArray[np.uint8],
    mask: Mask,
    truth: Mask,
    counted: Mask | None = None,
    *,
    title: str = "",
    names: Mapping[str, str] = TRUTH,
) -> Image.Image:
    """The grey scan with the three colours, what is not judged darkened, and a legend with ``title`` below.

    ``pixels``: (height, width) or (height, width, 3); the masks (height, width). ``names``: what each of `COLOURS` is
    called in the legend.
    """
    grey = Image.fromarray(pixels).convert("L")
    scan = np.asarray(scan_of(np.asarray(grey), SIDE, LEAST), np.float32) * np.float32(DIM)
    size = (scan.shape[1], scan.shape[0])
    if counted is None:
        counted = np.ones_like(mask)
    scan *= (0.4 + 0.6 * _cover(counted, size))[..., np.newaxis]
    for name, where in (("agreed", mask & truth), ("missed", truth & ~mask), ("invented", mask & ~truth)):
        share = _cover(where & counted, size)[..., np.newaxis]
        scan = scan * (1 - share) + share * np.array(COLOURS[name], np.float32)
    return _with_legend(Image.fromarray(np.asarray(scan + 0.5, np.uint8)), title, names)


def _cover(area: Mask, size: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each pixel of a picture of ``size`` belongs to the area, 0 to 1."""
    shown = Image.fromarray(area.astype(np.uint8) * np.uint8(255))
    how = Image.Resampling.NEAREST if size[0] > shown.width else Image.Resampling.BILINEAR
    return np.asarray(shown.resize(size, how), np.float32) / np.float32(255)


def _with_legend(picture: Image.Image, title: str, names: Mapping[str, str]) -> Image.Image:
    height = letters_for(LEAST) if max(picture.size) <= LEAST else letters_for(max(picture.size)) * 3 // 4
    line = 2 * height
    lines = 2 if title else 1
    sheet = Image.new("RGB", (picture.width, picture.height + lines * line), PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    left, middle = height // 2, picture.height + line // 2
    for name, colour in COLOURS.items():
        pen.rectangle((left, middle - height // 2, left + height, middle + height // 2), fill=colour)
        pen.text((left + height * 3 // 2, middle), names[name], font=font(height), fill=INK, anchor="lm")
        left += height * 2 + round(pen.textlength(names[name], font=font(height))) + height
    if title:
        pen.text((height // 2, middle + line), title, font=font(height), fill=INK, anchor="lm")
    return sheet
