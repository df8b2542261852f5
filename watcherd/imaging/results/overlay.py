"""Draw a mask onto its scan: a tint, an outline and a dark halo around it. Pure.

The outline lies just outside the mask and the tint is light, so that the vessel itself stays visible; in small scans,
whose vessels are as thin as the line, it lies on the mask's own edge. The colours are told apart with every kind of
colour vision (M. Okabe and K. Ito, "Color Universal Design", 2008); the halo separates them from bright scans, their
own brightness from dark ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
"""Colours of label values 1, 2, ...; they begin again when there are more."""

TINT = 0.3
HALO = 0.35
"""Part of the scan's brightness that remains beside the outline."""

PIXELS_PER_LINE = 450
"""Pixels of a scan's longer side for each pixel of the outline's width."""

SMALL = 320
"""Pixels of the longer side below which a line of one pixel is thick."""


def overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], *, thickness: int | None = None, tint: float = TINT
) -> NDArray[np.uint8]:
    """The scan as RGB, (height, width, 3), with the labels drawn on it.

    ``pixels``: (height, width) grey or (height, width, 3) RGB. ``labels``: (height, width), 0 for background.
    ``thickness``: of the outline in pixels; None: by the size. ``tint``: how much of the colour lies on the mask.
    """
    drawn = pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)
    flat = drawn.reshape(-1, 3)
    line = thickness or max(1, round(max(labels.shape) / PIXELS_PER_LINE))
    found = labels != 0
    if thickness is None and max(labels.shape) < SMALL:
        ring = np.where(grown(~found, line), labels, 0)
        covered = found
    else:
        ring = _around(labels, found, line)
        covered = found | (ring != 0)
    for value in _values(labels[found]):
        inside = np.flatnonzero((labels == value) & (ring == 0))
        colour = np.array(COLOURS[(value - 1) % len(COLOURS)], np.float32)
        flat[inside] = flat[inside] * np.float32(1 - tint) + (colour * tint + 0.5)
    halo = np.flatnonzero(grown(covered, line) & ~covered)
    flat[halo] = flat[halo] * np.float32(HALO)
    edge = np.flatnonzero(ring)
    flat[edge] = np.array(COLOURS, np.uint8)[(ring.ravel()[edge] - 1) % len(COLOURS)]
    return drawn


def overlay_in_bands(
    height: int, width: int, read: Callable[[slice], tuple[NDArray[np.uint8], NDArray[np.uint8]]], rows: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """What `overlay` draws of a large scan, ``rows`` at a time with the number of the first: pixel for pixel the same.

    ``read``: pixels and labels of some rows.
    """
    line = max(1, round(max(height, width) / PIXELS_PER_LINE))
    reach = 2 * line + 1
    """Rows to either side that a row depends on: outline, and halo around that."""
    for top in range(0, height, rows):
        first, last = max(0, top - reach), min(height, top + rows + reach)
        drawn = overlay(*read(slice(first, last)), thickness=line)
        yield top, drawn[top - first : min(height, top + rows) - first]


def _around(labels: NDArray[np.uint8], found: NDArray[np.bool_], line: int) -> NDArray[np.uint8]:
    """A line just outside of each label, with the label's value."""
    ring = np.zeros_like(labels)
    for value in _values(labels[found]):
        ring[grown(labels == value, line) & ~found] = value
    return ring


def _values(labels: NDArray[np.uint8]) -> list[int]:
    return [int(value) for value in np.flatnonzero(np.bincount(labels))]


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
