"""A run of frames as a small moving picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.imaging.results.sheets import evenly
from watcherd.imaging.results.views import numbered, overlay_of

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.formats.npy_frames import FrameFile

LONGEST_SIDE = 512
LEAST_SIDE = 256
MOST_FRAMES = 100
"""Frames of a preview, at most: longer runs are thinned out evenly, and play for as long."""

FRAME_MS = 67
"""Milliseconds of a frame where the file does not say: 15 a second are usual for coronary runs."""

SHORTEST_MS = 20
"""Milliseconds of a frame, at least: browsers slow down animations that claim less."""


def write_preview(path: Path, pixels: FrameFile, labels: FrameFile, frame_ms: float | None = None) -> None:
    """Write the overlays of a run, each with its number, as an animated WebP of at most `LONGEST_SIDE` pixels a side.

    ``frame_ms``: from one frame to the next; None: `FRAME_MS`.
    """
    count = len(pixels)
    chosen = evenly(count, MOST_FRAMES)
    pictures = [
        numbered(overlay_of(pixels[index], labels[index], LONGEST_SIDE, LEAST_SIDE), f"{index + 1} / {count}")
        for index in chosen
    ]
    duration = max(SHORTEST_MS, round((frame_ms or FRAME_MS) * count / len(chosen)))
    pictures[0].save(
        path, "WEBP", save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=75, method=1
    )
