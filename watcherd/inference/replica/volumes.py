"""Scans as volumes inside a replica: what the imaging workers kept of them, given to the model, and brought back to
frames as they are displayed."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import InputError, TransientError
from watcherd.inference.base import Prediction, Volume, VolumePrediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from watcherd.formats.volumes import Grid, VolumeFile
    from watcherd.inference.base import Mark, VolumeSegmenter
    from watcherd.inference.messages import WorkItem


SAME_MM = 1e-3
"""Millimetres by which two channels of a case may lie apart: headers hold float32."""


def predictions(segmenter: VolumeSegmenter, items: Sequence[WorkItem], mark: Mark) -> Iterator[Prediction]:
    """One prediction for each frame of a case, as displayed. ``items``: its files, one for each channel.

    Raises what `VolumeSegmenter.predict_volume` raises, `InputError` for channels that do not fit together, and
    `TransientError` for one that is missing, which may still come, or for an answer that breaks the model's promises.
    """
    files = _files(items, segmenter.files_per_case())
    volume = _opened(items[0], files)
    if segmenter.takes_whole(volume):
        yield from _frames(files[0], checked(volume, segmenter.predict_volume(volume, mark)))
        return
    for index in range(volume.shape[0]):
        plane = volume.plane(index)
        yield from _frames(files[0], checked(plane, segmenter.predict_volume(plane, mark)))


def checked(volume: Volume, found: VolumePrediction) -> VolumePrediction:
    """The answer, if it is what a segmenter promises. Raises `TransientError` for a broken one."""
    if found.mask.shape != volume.shape or found.mask.dtype != np.uint8:
        raise TransientError(
            f"The segmenter gave a mask of {found.mask.dtype} {found.mask.shape} for a volume of {volume.shape}."
        )
    if found.probability is not None and found.probability.shape != volume.shape:
        raise TransientError(f"The segmenter gave probabilities of {found.probability.shape} for {volume.shape}.")
    return found


def _files(items: Sequence[WorkItem], channels: int) -> list[VolumeFile]:
    """The case's files in the order of their channels."""
    if any(item.volume is None for item in items):
        raise TransientError("The scan was decoded for another model; it is decoded anew when it is tried again.")
    files = [item.volume for item in items if item.volume is not None]
    if channels > 1:
        _check_channels([item.channel for item in items], channels)
    first = files[0]
    for number, file in enumerate(files[1:], start=1):
        if file.turn != first.turn or file.backward != first.backward or not _lie_together(first.grid, file.grid):
            raise InputError(
                f"Channel {number:04d} of the case lies elsewhere in space than channel 0000, or has other voxels.",
                hint="Resample the channels onto one grid, as for the training.",
            )
    return files


def _check_channels(found: Sequence[int | None], channels: int) -> None:
    if None in found:
        raise InputError(
            f"The model takes cases of {channels} channels, and the file's name does not say which of them it is.",
            hint=f"Name a case's files alike but for the channel: case_0000.nii.gz to case_{channels - 1:04d}.nii.gz.",
        )
    missing = sorted(set(range(channels)) - set(found))
    beyond = sorted(number for number in found if number is not None and number >= channels)
    if beyond:
        raise InputError(
            f"The model takes {channels} channels, 0000 to {channels - 1:04d}, and this is channel {beyond[0]:04d}.",
            hint="Drop the channels that it was trained on, each with its number.",
        )
    if missing:
        listed = ", ".join(f"{number:04d}" for number in missing)
        raise TransientError(
            f"The case is not complete: of its {channels} channels, {listed} {'is' if len(missing) == 1 else 'are'} "
            "missing.",
            hint="Drop the missing files into the same folder, named like the others; the case is tried again.",
        )


def _lie_together(one: Grid | None, other: Grid | None) -> bool:
    if one is None or other is None:
        return one is other
    mine, theirs = (
        [float(value) for value in (grid.spacing_mm[0] or 0, *grid.spacing_mm[1:], *chain(*(grid.affine or ())))]
        for grid in (one, other)
    )
    return len(mine) == len(theirs) and np.allclose(mine, theirs, rtol=1e-5, atol=SAME_MM)


def _opened(item: WorkItem, files: Sequence[VolumeFile]) -> Volume:
    channels: list[NDArray[np.generic]] = []
    for file in files:
        values = file.stored()
        channels += [values] if values.ndim == 3 else [values[..., colour] for colour in range(values.shape[3])]
    if any(channel.shape != channels[0].shape for channel in channels):
        sizes = " and ".join(" x ".join(map(str, channel.shape[::-1])) for channel in channels)
        raise InputError(
            f"The channels of the case are of different sizes: {sizes}.",
            hint="Resample the channels onto one grid, as for the training.",
        )
    grid = files[0].grid
    affine = None if grid is None or grid.affine is None else np.array([*grid.affine, (0, 0, 0, 1)], np.float64)
    return Volume(
        channels=tuple(channels),
        options=item.options,
        spacing_mm=None if grid is None else grid.spacing_mm,
        affine=affine,
        format=files[0].format,
        modality=item.modality,
    )


def _frames(file: VolumeFile, found: VolumePrediction) -> Iterator[Prediction]:
    masks = file.shown(found.mask)
    maps = None if found.probability is None else file.shown(found.probability)
    for index, mask in enumerate(masks):
        yield Prediction(
            probability=None if maps is None else maps[index], mask=mask, labels=found.labels, note=found.note
        )
