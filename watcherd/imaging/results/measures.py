"""What a mask comes to in numbers: how much, in how many pieces, how long, how wide. Pure.

docs/measures.md has the definitions for those who use the numbers. They hold for all classes of a mask together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from watcherd.values import FrameMeasure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.spatial import KDTree

    from watcherd.values import Unit

    Mask = NDArray[np.bool_]
    Points = NDArray[np.intp]
    Values = NDArray[np.float64]

__all__ = ["measure", "measure_frames"]

SECONDS = 15.0
"""What a scan's measures may cost by `_cost`: one frame of 4000 x 4000 takes 5, a run of 40 of 512 x 512 takes 1. Of
what takes longer evenly picked frames are measured in full and of the others their area alone, always the same ones:
a figure that is missing is better than a mask that is late."""

SECONDS_PER_VISIT = 6e-9
SECONDS_PER_POINT = 4e-6
"""Of one core of a 2.8 GHz Xeon: thinning looks at every pixel once for each layer that it takes away; a point at the
mask's edge costs a search for the widths."""

TOUCHING = np.ones((3, 3), np.int8)
"""Neighbours that belong to one piece, corners included: thin vessels run askew."""

Spacing = tuple[float, float]


class Masks(Protocol):
    """Frames of label values, shape (frames, height, width), read one by one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


def measure_frames(
    masks: Masks, areas: Sequence[int], spacing_mm: Spacing | None = None, *, seconds: float = SECONDS
) -> tuple[FrameMeasure, ...]:
    """Measure a scan's masks, holding one at a time.

    ``areas``: how many pixels of each belong to the mask. ``spacing_mm``: (height, width) of one pixel; None: lengths
    are in pixels. ``seconds``: see `SECONDS`; the frame with most mask comes first.
    """
    size = masks.shape[1] * masks.shape[2]
    found = [
        FrameMeasure(frame=index + 1, unit=_unit(spacing_mm), area_fraction=_rounded(area / size))
        if area
        else _empty(index + 1, spacing_mm)
        for index, area in enumerate(areas)
    ]
    left = seconds
    for index in _picked(masks, areas, seconds):
        labels = masks[index]
        left -= (cost := _cost(labels != 0))
        if left < 0:
            left += cost
            continue
        found[index] = measure(labels, spacing_mm, frame=index + 1)
    return tuple(found)


def _picked(masks: Masks, areas: Sequence[int], seconds: float) -> list[int]:
    """Which frames to measure in full: the fullest, then all that hold something, or as many as can be afforded."""
    filled = [index for index, area in enumerate(areas) if area]
    if not filled:
        return []
    fullest = int(np.argmax(areas))
    affordable = max(1, int(seconds / _cost(masks[fullest] != 0)))
    if affordable < len(filled):
        places = np.linspace(0, len(filled) - 1, affordable).round().astype(int)
        filled = [filled[place] for place in places.tolist()]
    return [fullest, *(index for index in filled if index != fullest)]


def _cost(filled: Mask) -> float:
    """About how many seconds a mask that is not empty takes, judged by nothing but the mask."""
    mask = np.pad(_cropped(filled), 1)
    layers = _widest_square(mask) / 2
    return mask.size * layers * SECONDS_PER_VISIT + np.count_nonzero(_beside(mask)) * SECONDS_PER_POINT


def _widest_square(mask: Mask) -> int:
    """A power of two that is larger than any square that fits into the mask, by less than twice."""
    side, fits = 1, mask  # a pixel is set where a square of this side, of which it is the upper left corner, fits
    while fits.any():
        fits = fits[:-side, :-side] & fits[side:, side:] & fits[:-side, side:] & fits[side:, :-side]
        side *= 2
    return side


def measure(labels: NDArray[np.uint8], spacing_mm: Spacing | None = None, *, frame: int = 1) -> FrameMeasure:
    """Measure one mask, (height, width), of which everything but 0 counts.

    The length is that of the mask's skeleton (T. C. Lee, R. L. Kashyap, C.-N. Chu, "Building skeleton models via 3-D
    medial surface/axis thinning algorithms", CVGIP 56, 1994, as scikit-image has it; the quicker method of Zhang and
    Suen loses vessels that run at 45 degrees). See `_length` and `_widths`.
    """
    filled = labels != 0
    if not filled.any():
        return _empty(frame, spacing_mm)
    from scipy.ndimage import label  # half a second to load, and not needed for empty masks
    from skimage.morphology import skeletonize

    spacing = spacing_mm or (1.0, 1.0)
    mask = np.pad(_cropped(filled), 1)
    skeleton = np.asarray(skeletonize(mask, method="lee")) > 0
    widths = _widths(mask, skeleton, spacing)
    return FrameMeasure(
        frame=frame,
        unit=_unit(spacing_mm),
        area_fraction=_rounded(np.count_nonzero(filled) / filled.size),
        components=int(label(mask, TOUCHING)[1]),
        length=_rounded(_length(skeleton, spacing)),
        mean_width=_rounded(widths.mean()),
        max_width=_rounded(widths.max()),
    )


def _empty(frame: int, spacing_mm: Spacing | None) -> FrameMeasure:
    return FrameMeasure(frame=frame, unit=_unit(spacing_mm), area_fraction=0.0, components=0, length=0.0)


def _unit(spacing_mm: Spacing | None) -> Unit:
    return "mm" if spacing_mm else "px"


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _cropped(mask: Mask) -> Mask:
    """The box around what is set."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _length(skeleton: Mask, spacing: Spacing) -> float:
    """The links between neighbouring pixels of a skeleton, each as long as it is, without shortcuts over corners.

    H. Freeman, "Boundary encoding and processing", 1970: exact along rows, columns and diagonals, up to 8 % too long
    between.
    """
    height, width = spacing
    across = np.count_nonzero(skeleton[:, :-1] & skeleton[:, 1:])
    down = np.count_nonzero(skeleton[:-1] & skeleton[1:])
    upper_left, upper_right = skeleton[:-1, :-1], skeleton[:-1, 1:]
    lower_left, lower_right = skeleton[1:, :-1], skeleton[1:, 1:]
    falling = np.count_nonzero(upper_left & lower_right & ~(upper_right | lower_left))
    rising = np.count_nonzero(upper_right & lower_left & ~(upper_left | lower_right))
    return float(across * width + down * height + (falling + rising) * np.hypot(height, width))


def _widths(mask: Mask, skeleton: Mask, spacing: Spacing) -> Values:
    """How wide the mask is at every pixel of its skeleton: from the nearest edge through the pixel to the other side.

    Measured to the edges of pixels, so that a bar of n pixels is n wide, be n odd or even. ``mask`` has a border of
    background: where the picture ends the mask ends.
    """
    from scipy.spatial import KDTree

    outside = np.argwhere(_beside(mask))
    tree = KDTree(outside * spacing)
    points = np.argwhere(skeleton)
    near, away = _reach(tree, outside, points, spacing)
    opposite = points - away
    far, away_there = _reach(tree, outside, opposite, spacing)
    other_side = mask[opposite[:, 0], opposite[:, 1]] & ((away * away_there).sum(axis=1) < 0)
    step = np.hypot(away[:, 0] * spacing[0], away[:, 1] * spacing[1])
    return np.where(other_side, near + far + step, 2 * near)


def _beside(mask: Mask) -> Mask:
    """Background that shares an edge with the mask: the nearest background of any pixel is among it."""
    beside = np.zeros_like(mask)
    beside[1:] |= mask[:-1]
    beside[:-1] |= mask[1:]
    beside[:, 1:] |= mask[:, :-1]
    beside[:, :-1] |= mask[:, 1:]
    return beside & ~mask


def _reach(tree: KDTree, outside: Points, points: Points, spacing: Spacing) -> tuple[Values, Points]:
    """How far it is from each point's centre to where the nearest pixel outside begins, and the step of a pixel there.

    Of the way to that pixel's centre its last part lies inside of it: half a pixel along the longer axis.
    """
    distance, nearest = tree.query(points * spacing)
    way = outside[nearest] - points
    longer = np.maximum(np.abs(way).max(axis=1), 1)
    return distance * (1 - 0.5 / longer), np.rint(way / longer[:, np.newaxis]).astype(np.intp)
