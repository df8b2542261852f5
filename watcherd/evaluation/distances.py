"""How far the outlines of two masks lie apart: HD95, ASSD, NSD, and the boundary measure F of DAVIS. Pure.

An outline is the mask's pixels that have a neighbour outside across an edge of theirs; what lies at the picture's edge
is outline. Distances are from centre to centre, by SciPy's k-d tree: exact, and of the outlines alone, so that memory
goes by them and not by the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Values = NDArray[np.float64]
    Spacing = tuple[float, float]

MOST_PIXELS = 2_000_000
"""Pixels of one outline that are still searched, about 300 MB; a vessel tree of 4000 x 4000 has 200,000."""

CHUNK = 1 << 17
"""Pixels that are searched for at once."""

F_TOLERANCE = 0.008
"""Share of the picture's diagonal that boundaries may be apart for F: `bound_th` of the DAVIS benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """How far two outlines are apart, in the unit of the spacing; None: infinitely, or too long to be searched.

    ``hd95``: of the 95th percentiles of the distances from either outline to the other the larger one (the Hausdorff
    distance less 5 %: D. P. Huttenlocher and others, IEEE PAMI 15, 1993; as in L. Maier-Hein and others, "Metrics
    reloaded", Nature Methods 21, 2024). ``assd``: the mean of all these distances (T. Heimann and others, IEEE TMI 28,
    2009). ``nsd``: the share of both outlines' pixels within the tolerance of the other outline (S. Nikolov and others,
    arXiv:1809.04430, with pixels in place of pieces of outline).
    """

    hd95: float | None
    assd: float | None
    nsd: float | None


NOWHERE = Apart(hd95=None, assd=None, nsd=None)


def apart(mask: Mask, truth: Mask, *, spacing: Spacing = (1.0, 1.0), tolerance: float) -> Apart:
    """Compare outlines; arrays of one shape (height, width). ``spacing``: of rows and of columns; ``tolerance`` in it.

    Two empty masks are 0 apart, with an NSD of 1. A mask and an empty one are infinitely far apart, with an NSD of 0.
    """
    one, other = (np.argwhere(outline(area)) for area in (mask, truth))
    if not len(one) or not len(other):
        empty = len(one) == len(other)
        return Apart(hd95=0.0, assd=0.0, nsd=1.0) if empty else Apart(hd95=None, assd=None, nsd=0.0)
    if max(len(one), len(other)) > MOST_PIXELS:
        return NOWHERE
    scale = np.array(spacing, np.float64)
    there, back = _distances(one * scale, other * scale)
    every = np.concatenate((there, back))
    return Apart(
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        assd=float(every.mean()),
        nsd=float(np.count_nonzero(every <= tolerance) / len(every)),
    )


def outline(mask: Mask) -> Mask:
    """The mask's pixels next to its outside, or to the picture's edge."""
    framed = np.pad(mask, 1)
    inside = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask & ~inside


def _distances(one: Values, other: Values) -> tuple[Values, Values]:
    """From each point to the nearest of the others, there and back."""
    return _to_nearest(one, other), _to_nearest(other, one)


def _to_nearest(points: Values, others: Values) -> Values:
    from scipy.spatial import KDTree  # half a second to load

    tree = KDTree(others)
    return np.concatenate([tree.query(points[start : start + CHUNK])[0] for start in range(0, len(points), CHUNK)])


def boundary_f(mask: Mask, truth: Mask) -> float | None:
    """F of the boundaries (F. Perazzi and others, "A benchmark dataset and evaluation methodology for video object
    segmentation", CVPR 2016): the harmonic mean of the shares of each that lie within `F_TOLERANCE` of the other.

    As its authors compute it: boundaries are those of D. R. Martin's `seg2bmap`, at a pixel's right and lower edges,
    the tolerance is rounded up to whole pixels. Two empty masks have 1, a mask and an empty one 0. None: too long.
    """
    found, drawn = (np.argwhere(_boundary(area)) for area in (mask, truth))
    if not len(found) or not len(drawn):
        return float(len(found) == len(drawn))
    if max(len(found), len(drawn)) > MOST_PIXELS:
        return None
    reach = np.ceil(F_TOLERANCE * np.hypot(*mask.shape))
    there, back = _distances(found.astype(np.float64), drawn.astype(np.float64))
    precision, recall = (float(np.count_nonzero(way <= reach) / len(way)) for way in (there, back))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Mask) -> Mask:
    """Pixels that differ from their right, lower, or lower right neighbour; outside the picture nothing differs."""
    framed = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, askew = framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]
    return (mask ^ right) | (mask ^ lower) | (mask ^ askew)
