"""Whether DICOM pictures lie behind one another in space, and the grid of the volume that they make. Pure.

Sources: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.16.2 (functional groups of frames).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from watcherd.formats.volumes import Grid
from watcherd.imaging.readers.dicom_display import group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from watcherd.formats.volumes import Row

SAME_DIRECTION = 1e-4
"""Difference of two direction cosines up to which they are the same: files write them with six digits or so."""
EVEN = 0.01
"""Part of the mean step from plane to plane by which one of them may differ; that at a missing slice differs by 1."""

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """Where one picture lies in the patient, in mm, left-posterior-superior: its first pixel's centre, the directions
    along its rows and down its columns, and (height, width) of a pixel."""

    position: Vector
    along: Vector
    down: Vector
    spacing: tuple[float, float]


def planes_of(header: Dataset, frames: int) -> tuple[Plane, ...]:
    """The planes of a file's frames, in order; empty where one of them has none."""
    found = [_plane(header, index, frames) for index in range(frames)]
    return tuple(plane for plane in found if plane is not None) if all(found) else ()


def _plane(header: Dataset, index: int, frames: int) -> Plane | None:
    """Of several frames each needs a position of its own: that of the file as a whole is the first one's."""
    own = header if frames == 1 else None
    place = group(header, index, "PlanePositionSequence") or own
    turned = group(header, index, "PlaneOrientationSequence") or own
    measured = group(header, index, "PixelMeasuresSequence") or own
    if place is None or turned is None or measured is None:
        return None
    position = _numbers(place.get("ImagePositionPatient"), 3)
    turns = _numbers(turned.get("ImageOrientationPatient"), 6)
    spacing = _numbers(measured.get("PixelSpacing"), 2)
    if not position or not turns or not spacing or min(spacing) <= 0:
        return None
    return Plane(
        position=(position[0], position[1], position[2]),
        along=(turns[0], turns[1], turns[2]),
        down=(turns[3], turns[4], turns[5]),
        spacing=(spacing[0], spacing[1]),
    )


def _numbers(value: Any, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(each) for each in value)
    except (TypeError, ValueError):
        return ()
    return found if len(found) == count and np.isfinite(found).all() else ()


def grid_of(planes: Sequence[Plane]) -> tuple[Grid | None, bool]:
    """The grid of pictures that lie behind one another in equal steps, and whether they come in falling order.

    Slices are put in rising order along the cross product of the directions along rows and down columns, as ITK and
    other programs put them. A single picture, or pictures elsewhere than in equal steps, are no volume: their grid says
    no more than the size of a pixel.
    """
    if not planes:
        return None, False
    first = planes[0]
    flat = Grid(spacing_mm=(None, *first.spacing))
    if len(planes) < 2 or not _are_parallel(planes):
        return flat, False
    steps = np.diff(np.array([plane.position for plane in planes]), axis=0)
    step = steps.mean(axis=0)
    along, down = np.array(first.along), np.array(first.down)
    height = float(np.dot(step, np.cross(along, down)))
    if not height or np.abs(steps - step).max() > EVEN * abs(height):
        return flat, False
    start = np.array(planes[-1 if height < 0 else 0].position)
    step = -step if height < 0 else step
    columns = [along * first.spacing[1], down * first.spacing[0], step, start]
    grid = Grid(spacing_mm=(float(np.linalg.norm(step)), *first.spacing), affine=_rows(np.array(columns).T))
    return grid, height < 0


def _rows(lps: NDArray[np.float64]) -> tuple[Row, Row, Row]:
    """The affine's rows, right-anterior-superior."""
    right, anterior, superior = (tuple(map(float, row)) for row in lps * [[-1.0], [-1.0], [1.0]])
    return right, anterior, superior  # type: ignore[return-value]


def _are_parallel(planes: Sequence[Plane]) -> bool:
    first = planes[0]
    directions = np.array([(*plane.along, *plane.down) for plane in planes])
    same = np.abs(directions - directions[0]).max() <= SAME_DIRECTION
    return bool(same) and all(plane.spacing == first.spacing for plane in planes)
