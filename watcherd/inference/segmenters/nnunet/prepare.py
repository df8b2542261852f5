"""A volume as nnU-Net's readers would have read it: an array of channels and a spacing; and what it would trip over.

The rules are those of nnunetv2's readers and of its ``DefaultPreprocessor``: nnunetv2/imageio and
nnunetv2/preprocessing of version 2.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from watcherd.inference.base import Volume
    from watcherd.inference.segmenters.nnunet.folder import Configuration, Results

PLANE = 999.0
"""Factor by which nnU-Net takes a single plane to be thicker than its pixels are wide."""

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


def takes_whole(volume: Volume, results: Results, chosen: Configuration) -> bool:
    """Whether nnU-Net would see all slices at once. A run over time and what says nothing of space go slice by slice
    through a network of slices."""
    return chosen.is_3d or _is_volume(volume) or _is_stack(volume, results)


def _is_volume(volume: Volume) -> bool:
    return volume.spacing_mm is not None and volume.spacing_mm[0] is not None


def _is_stack(volume: Volume, results: Results) -> bool:
    """Whether it is read by nnU-Net's reader of TIFF stacks, which asks for no spacing."""
    return results.reader == "Tiff3DIO" and volume.format == "TIFF"


def prepared(volume: Volume, results: Results, chosen: Configuration) -> tuple[NDArray[np.float32], Spacing]:
    """float32 (channels, slices, rows, columns), and the spacing of the three axes.

    Raises `InputError` for what the model cannot take, or would answer with a mask that means nothing.
    """
    _check_channels(volume, results)
    spacing = _spacing(volume, results, chosen)
    if volume.is_sheared and results.reader == "SimpleITKIO":
        raise InputError(
            "The scan's grid is sheared, as that of a tilted gantry: nnU-Net's reader for this model refuses it.",
            hint="Resample it onto a straight grid.",
        )
    array = np.stack([np.asarray(channel, np.float32) for channel in volume.channels])
    wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise InputError(
            f"{wrong:,} of the scan's values are no finite numbers: with a single one nnU-Net's mask may be empty.",
            hint="Replace them, by 0 or by the value of air, before the scan is dropped.",
        )
    _check_target(cropped(array), spacing, chosen)
    return array, spacing


def _check_channels(volume: Volume, results: Results) -> None:
    wanted, found = len(results.channels), len(volume.channels)
    if wanted != found:
        raise InputError(
            f"The model takes {wanted} channels ({', '.join(results.channels)}), and the scan has {found}.",
            hint="Drop scans of the kind that it was trained on.",
        )


def _spacing(volume: Volume, results: Results, chosen: Configuration) -> Spacing:
    if _is_stack(volume, results):
        return (1.0, 1.0, 1.0)
    slices = volume.shape[0]
    if volume.spacing_mm is not None and (between := volume.spacing_mm[0]) is not None:
        return (between, *volume.spacing_mm[1:])
    if chosen.is_3d and slices == 1:
        raise InputError(
            "The scan is a single plane, and the model takes volumes.",
            hint="Drop whole volumes; for planes train nnU-Net's configuration 2d.",
        )
    if chosen.is_3d:
        raise InputError(
            f"The file does not say how far apart its {slices} slices are, and the model takes volumes.",
            hint="Save the scan as NIfTI with its spacing.",
        )
    if results.reader == "NaturalImage2DIO" or volume.spacing_mm is None:
        return (PLANE, 1.0, 1.0)
    _, down, across = volume.spacing_mm
    return (PLANE * max(down, across), down, across)


def cropped(array: NDArray[np.float32]) -> Shape:
    """The size of the box outside of which every channel is 0, to which nnU-Net crops; all of an empty scan."""
    inside = (array != 0).any(axis=0)
    sides = []
    for axis in range(3):
        filled = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(int(filled[-1] - filled[0] + 1) if filled.size else inside.shape[axis])
    return (sides[0], sides[1], sides[2])


def target(shape: Shape, spacing: Spacing, chosen: Configuration) -> Shape:
    """The size that nnU-Net resamples to, in its own order of axes."""
    sides = [shape[axis] for axis in chosen.forward]
    old = [spacing[axis] for axis in chosen.forward]
    new = chosen.spacing if chosen.is_3d else (old[0], *chosen.spacing)
    first, second, third = (round(was / will * side) for was, will, side in zip(old, new, sides, strict=True))
    return (first, second, third)


def _check_target(shape: Shape, spacing: Spacing, chosen: Configuration) -> None:
    found = target(shape, spacing, chosen)
    if min(found) < 1:
        raise InputError(
            f"The scan resamples to nothing: {_times(shape)} voxels of {_times(spacing)} mm become {_times(found)} at "
            f"the {_times(chosen.spacing)} mm that the model works at.",
            hint="It is too thin for this model, or its spacing is wrong in the file.",
        )


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
