"""A run of frames as a small moving picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from watcherd.imaging.overlay import overlay

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.frames import FrameFile

LONGEST_SIDE = 512
MOST_FRAMES = 100
"""Longer runs are thinned out evenly, and play as long as they did."""

FRAME_MS = 67
"""15 frames a second, usual for coronary runs; the files people drop do not say."""


def write_preview(path: Path, pixels: FrameFile, labels: FrameFile) -> None:
    """Write the overlays of a run as an animated WebP, at most `LONGEST_SIDE` pixels wide and high."""
    count = len(pixels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
    pictures = [_small(overlay(pixels[int(index)], labels[int(index)])) for index in chosen]
    duration = round(FRAME_MS * count / len(chosen))
    pictures[0].save(
        path, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=75, method=1
    )


def _small(picture: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    return image
