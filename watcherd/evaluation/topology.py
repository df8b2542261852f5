"""Whether two masks hang together alike: clDice, and the Betti numbers' errors. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watcherd.imaging.results.measures import TOUCHING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


def cldice(mask: Mask, truth: Mask) -> float:
    """Dice of centre lines (S. Shit and others, "clDice", CVPR 2021): the harmonic mean of the share of the mask's
    skeleton that lies in the truth, and of the truth's that lies in the mask. Arrays of one shape (height, width).

    Two empty masks have 1, a mask and an empty one 0.
    """
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    lines, drawn = skeleton(mask), skeleton(truth)
    precision = np.count_nonzero(lines & truth) / np.count_nonzero(lines)
    sensitivity = np.count_nonzero(drawn & mask) / np.count_nonzero(drawn)
    return float(2 * precision * sensitivity / (precision + sensitivity)) if precision + sensitivity else 0.0


def skeleton(mask: Mask) -> Mask:
    """The skeleton that clDice's authors take: scikit-image's default in two dimensions (T. Y. Zhang, C. Y. Suen, "A
    fast parallel algorithm for thinning digital patterns", CACM 27, 1984).

    It takes some short diagonals away whole. Where it leaves nothing of a mask that is not empty, that of the measures
    (Lee's) takes its place.
    """
    from skimage.morphology import skeletonize  # half a second to load

    found: Mask = np.asarray(skeletonize(mask), bool)
    return found if found.any() else np.asarray(skeletonize(mask, method="lee"), bool)


def betti(mask: Mask) -> tuple[int, int]:
    """Pieces and holes, the Betti numbers 0 and 1 of a picture: pixels touch at corners, background at edges only.

    So is it in X. Hu and others, "Topology-preserving deep image segmentation", NeurIPS 2019; but of the whole picture,
    not of squares cut out of it. What lies beyond the picture is background.
    """
    from scipy.ndimage import label

    pieces = int(label(mask, TOUCHING)[1])
    holes = int(label(~np.pad(mask, 1))[1]) - 1
    return pieces, holes
