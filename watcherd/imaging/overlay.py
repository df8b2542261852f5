"""Draw a mask onto its scan: a tint, an outline and a dark halo around it. Pure.

The outline lies just outside the mask and the tint is light, so that the vessel itself stays visible. The colours are
told apart with every kind of colour vision (M. Okabe and K. Ito, "Color Universal Design", 2008); the halo separates
them from bright scans, their own brightness from dark ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = (
    (0, 200, 255),
    (240, 228, 66),
    (230, 159, 0),
    (0, 200, 140),
    (255, 130, 200),
    (213, 94, 0),
    (86, 130, 255),
)
"""For label values 1, 2, ...; used again from the start when there are more."""

TINT = 0.3
HALO = 0.35
"""What remains of the scan's brightness beside the outline."""

PIXELS_PER_LINE = 700
"""The outline is one pixel wide for every so many pixels of the scan's longer side."""


def overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], *, thickness: int | None = None, tint: float = TINT
) -> NDArray[np.uint8]:
    """The scan as RGB, (height, width, 3), with the labels drawn on it.

    ``pixels``: (height, width) grey or (height, width, 3) RGB. ``labels``: (height, width), 0 for background.
    ``thickness``: of the outline in pixels; None: by the size. ``tint``: how much of the colour lies on the mask.
    """
    drawn = pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)
    line = thickness or max(1, round(max(labels.shape) / PIXELS_PER_LINE))
    box = _box(labels != 0, margin=2 * line + 1)
    if box is None:
        return drawn
    canvas, labels = drawn[box], labels[box]
    found = labels != 0
    ring = np.zeros_like(labels)
    for value in np.flatnonzero(np.bincount(labels[found])).tolist():
        area = labels == value
        colour = np.array(COLOURS[(value - 1) % len(COLOURS)])
        canvas[area] = canvas[area] * (1 - tint) + colour * tint + 0.5
        ring[grown(area, line) & ~found] = value
    halo = grown(found, 2 * line) & ~found & (ring == 0)
    canvas[halo] = canvas[halo] * HALO
    colours = np.array(COLOURS, np.uint8)
    edge = ring != 0
    canvas[edge] = colours[(ring[edge] - 1) % len(COLOURS)]
    return drawn


def grown(area: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The area and all within ``radius`` pixels of it, nearly round: squares and crosses by turns."""
    area = area.copy()
    for step in range(radius):
        before = area.copy()
        area[1:] |= before[:-1]
        area[:-1] |= before[1:]
        across = area.copy() if step % 2 else before
        area[:, 1:] |= across[:, :-1]
        area[:, :-1] |= across[:, 1:]
    return area


def _box(area: NDArray[np.bool_], margin: int) -> tuple[slice, slice] | None:
    """The part of the picture that holds the area, with a margin; None when it is empty."""
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    if not rows.size:
        return None
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )
