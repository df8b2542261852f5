"""What is found out about a frame before any network sees it: its kind, its field, one grey channel.

Everything here is judged on a copy of at most `COARSE` pixels a side, so that it costs the same for 300 and for 4000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Field = NDArray[np.bool_]

Kind = Literal["fundus", "xray"]

COARSE = 256
COLOURED = 12.0
"""Mean difference of the colour channels, of 255, from which on a picture is a colour photograph."""


ANGIOGRAPHY: Final = frozenset({"XA", "RF", "XF", "DS", "DF", "CF"})
"""Modalities that the model was made for, as ``xray``: angiography and fluoroscopy, with their retired names."""

PHOTOGRAPHY: Final = frozenset({"OP", "FS", "FA"})
"""Modalities that the model was made for, as ``fundus``: photographs of the fundus, with their retired names."""

RADIOGRAPHY: Final = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RTIMAGE"})
"""Other projections of X-rays: of the kind ``xray``, but no angiograms."""

OTHERS: Final = frozenset(
    {
        "US",
        "IVUS",
        "CT",
        "MR",
        "PT",
        "NM",
        "OPT",
        "OPTBSV",
        "OPTENF",
        "IVOCT",
        "OCT",
        "ES",
        "GM",
        "SM",
        "DMS",
        "OPM",
        "BMD",
    }
)
"""Words of the standard (PS3.3 C.7.3.1.1.1) that a note may repeat; any other text of a file stays in it."""

SAYS_NOTHING: Final = frozenset({"", "OT", "SC", "XC"})
"""Words that anything may come under."""


def kind_by(modality: str) -> Kind | None:
    """The kind that DICOM's word for a picture's origin means; None where the picture has to tell."""
    if modality in PHOTOGRAPHY:
        return "fundus"
    return "xray" if modality in ANGIOGRAPHY | RADIOGRAPHY else None


def is_made_for(modality: str) -> bool:
    """Whether the model was made for such pictures, as far as one can know."""
    return modality in ANGIOGRAPHY | PHOTOGRAPHY | SAYS_NOTHING


def kind_of(pixels: Pixels) -> Kind:
    """``fundus`` for colour photographs, ``xray`` for grey frames (also grey ones stored as RGB)."""
    if pixels.ndim == 2:
        return "xray"
    small = coarse(pixels).astype(np.int16)
    seen = small.max(axis=2) > 20
    if not seen.any():
        return "xray"
    spread = small.max(axis=2) - small.min(axis=2)
    return "fundus" if float(spread[seen].mean()) >= COLOURED else "xray"


def grey_of(pixels: Pixels, kind: Kind) -> Pixels:
    """One channel in which vessels show best: a photograph's green, a frame's mean."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels)
    if kind == "fundus":
        return np.ascontiguousarray(pixels[..., 1])
    return np.asarray(np.rint(pixels.mean(axis=2, dtype=np.float32)), np.uint8)


def field_of(pixels: Pixels, kind: Kind) -> Field:
    """Where the camera or the detector saw anything, as a mask of the coarse copy's size (see `coarse`).

    Everywhere when no border is found, or when what is left would be too small to be a field.
    """
    field = _lit_disc(coarse(pixels)) if kind == "fundus" else _open_field(coarse(grey_of(pixels, kind)))
    return field if float(field.mean()) > 0.15 else np.ones_like(field)


def coarse(pixels: Pixels) -> Pixels:
    """A copy of at most `COARSE` pixels a side, averaged."""
    height, width = pixels.shape[:2]
    scale = COARSE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Reducing by whole numbers first keeps this quick for very large pictures.
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


OPEN = 0.68
"""Share of a frame that is its field, from which on its outline is not looked at: nothing was made out around it."""

BENT = 0.3
"""Share of a field's border that is no straight side of it, up to which it is a rectangle with its corners cut."""

ROUND = 0.025
"""Root mean square distance, in radii, of the rest of the border from a circle, up to which it is one: 0.005 for the
circle of an image intensifier or a camera, 0.022 for eight blades, 0.03 and more for sectors, heads, trunks, hands."""

FILLED = 0.93
"""Share of its convex hull that a field fills, from which on the rest are vessels and shadows at its border."""

ASKEW = (-9, -6, -3, 0, 3, 6, 9)
"""Degrees by which blades may be turned. No more: the sides of an ultrasound's sector are straight, too."""

SIDE = 2.5
"""Pixels of the coarse copy within which a border runs along a side."""

RED = 1.25
"""Red in terms of green, means over the field, from which on a colour photograph may be one of the fundus: 1.76 is the
least in CHASE_DB1, 1.2 is common in screenshots of ultrasound."""


def is_like(kind: Kind, pixels: Pixels, field: Field) -> bool:
    """Whether a picture whose origin nobody has told may be of its kind, by outline and colour.

    A detector's or a camera's field is a rectangle, a circle, or cut out of one by straight blades; a trunk, a head, a
    hand on black, and the sector of an ultrasound are not. Told apart in ``tests/unit/test_vessel_others.py``. What
    fills its frame is not looked at: a detail of a CT passes.

    ``field``: as `field_of` gives it.
    """
    if kind == "fundus":
        red, green, _ = coarse(pixels)[field].mean(axis=0, dtype=np.float64)
        if red < RED * green:
            return False
    return float(field.mean()) >= OPEN or _is_of_a_device(field)


def _is_of_a_device(field: Field) -> bool:
    """Whether the field's border is a circle where it is not the field's own straight side, also one a little askew."""
    from skimage.morphology import convex_hull_image

    hull = np.asarray(convex_hull_image(field), dtype=bool)
    whole = hull if np.count_nonzero(field) >= FILLED * np.count_nonzero(hull) else field
    border = np.argwhere(whole & ~ndimage.binary_erosion(np.pad(whole, 1))[1:-1, 1:-1]).astype(np.float64)
    curved = min((_off_the_sides(border, np.deg2rad(turn)) for turn in ASKEW), key=len)
    return len(curved) <= BENT * len(border) or _away_from_a_circle(curved) <= ROUND


def _off_the_sides(points: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    """Those of the points (n, 2) that are on no side of the rectangle around them that is turned by so many radians."""
    turned = points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inside = np.minimum(turned - turned.min(axis=0), turned.max(axis=0) - turned)
    return np.asarray(points[(inside > SIDE).all(axis=1)])


def _away_from_a_circle(points: NDArray[np.float64]) -> float:
    """Root mean square distance of points (n, 2) from a circle, in its radii.

    Least squares, linear in its centre and in radius² - centre²: I. Kåsa, IEEE Trans. Instrum. Meas. 25 (1976), 8-14.
    """
    known = np.column_stack([2 * points, np.ones(len(points))])
    (down, right, rest), *_ = np.linalg.lstsq(known, (points**2).sum(axis=1))
    radius = np.sqrt(rest + down**2 + right**2)
    away = np.hypot(points[:, 0] - down, points[:, 1] - right) / radius - 1
    return float(np.sqrt(np.mean(away**2)))


def _lit_disc(small: Pixels) -> Field:
    """The convex hull of what is lit: a camera's field is a circle, or one cut off by straight lines."""
    from skimage.morphology import convex_hull_image

    brightest = ndimage.median_filter(small if small.ndim == 2 else small.max(axis=2), 3)
    lit = brightest > max(10.0, 0.13 * float(np.percentile(brightest, 95)))
    labels, count = ndimage.label(ndimage.binary_opening(lit, iterations=2))
    if count == 0:
        return np.ones(brightest.shape, bool)
    largest = labels == 1 + int(np.argmax(ndimage.sum_labels(lit, labels, range(1, count + 1))))
    return np.asarray(convex_hull_image(largest), dtype=bool)


def _open_field(small: Pixels) -> Field:
    """All but the black or white surround that touches the frame's edge."""
    level = ndimage.median_filter(small, 3).astype(np.float32)
    low, middle, high = np.percentile(level, [0.5, 50, 99.5])
    surround = np.zeros(level.shape, bool)
    for shut in (
        level <= max(low + 4, 0.12 * middle),
        level >= min(high - 3, 250) if high > 225 else np.zeros_like(surround),
    ):
        part = ndimage.binary_opening(np.pad(shut, 3, constant_values=True), iterations=2)[3:-3, 3:-3]
        labels, _ = ndimage.label(np.pad(part & shut, 1))
        edge = np.unique(np.concatenate([labels[1], labels[-2], labels[:, 1], labels[:, -2]]))
        touching = np.isin(labels, edge[edge > 0])[1:-1, 1:-1]
        if float(touching.mean()) > 0.01:
            surround |= touching
    return ~ndimage.binary_dilation(surround) if surround.any() else ~surround
