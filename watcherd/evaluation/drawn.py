"""Masks that somebody drew, read by the same readers as scans, with what had to be decided to take them as masks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from watcherd.errors import InputError
from watcherd.evaluation.figures import FEW_VALUES, brightest, level_of
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.decode import DecodeLimits, decode

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

MOST_SET = 0.5
"""Share of a picture that no mask of vessels fills: what fills more is probably its negative."""

PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
"""TIFF's tag PhotometricInterpretation, and its value in files whose 0 is shown white."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A mask file. ``shape``: (frames, height, width). ``level``: above which value its pixels count; with ``negative``
    the others do. ``notes``: what was decided, for the person who asked. ``spacing_mm``: (height, width) of a pixel,
    where the file says so. ``labels``: the values above 0 of a grey file, if they are few and low enough for classes.
    """

    frames: FrameFile
    shape: tuple[int, int, int]
    level: float
    negative: bool
    notes: tuple[str, ...]
    spacing_mm: tuple[float, float] | None
    labels: frozenset[int]

    def of_class(self, index: int, label: int) -> Mask:
        """Where one frame has one label."""
        found: Mask = self.frames[index] == label
        return found

    def frame(self, index: int) -> Mask:
        """One frame, (height, width)."""
        counts: Mask = brightest(self.frames[index]) > self.level
        return ~counts if self.negative else counts


def read_drawn(path: Path, target: Path, *, inverted: bool | None = None) -> Drawn:
    """Read the mask at ``path`` by way of the file ``target``. Memory holds one frame at a time.

    ``inverted``: whether what is black counts; None: it is found out, by `_is_negative`. Raises `InputError`.
    """
    decoded = decode(path, target, DecodeLimits())
    frames = FrameFile(target)
    counts = np.zeros(256, np.intp)
    for index in range(decoded.frames):
        counts += np.bincount(brightest(frames[index]).ravel(), minlength=256)
    level, notes = level_of(counts), []
    values = int(np.count_nonzero(counts))
    if values > FEW_VALUES:
        notes.append(f"{path} is soft, with {values} values: what is brighter than {level:g} of 255 counts.")
    share = float(counts[int(level) + 1 :].sum() / counts.sum())
    negative = _is_negative(path, share) if inverted is None else inverted
    if negative and inverted is None:
        notes.append(
            f"{path} is inverted: it says that 0 is white, as TIFF writers do with boolean arrays, and "
            f"{share:.0%} of it would count. It was turned over: its black counts."
        )
    elif inverted is None and share > MOST_SET:
        notes.append(
            f"{share:.0%} of {path} is set. It was taken as it is; if its black is the vessel, say --inverted."
        )
    return Drawn(
        frames=frames,
        shape=(decoded.frames, decoded.height, decoded.width),
        level=level,
        negative=negative,
        notes=tuple(notes),
        spacing_mm=decoded.spacing_mm,
        labels=frozenset() if negative or decoded.colour else _labels(counts),
    )


def _labels(counts: NDArray[np.intp]) -> frozenset[int]:
    values = np.flatnonzero(counts[1:]) + 1
    return frozenset(values.tolist()) if len(values) and values[-1] <= FEW_VALUES else frozenset()


def _is_negative(path: Path, share: float) -> bool:
    """A TIFF of one bit in which 0 is white, and most of which would count: so tifffile writes boolean arrays."""
    if share <= MOST_SET:
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            return image.mode == "1" and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    except (OSError, Image.DecompressionBombError):
        return False


def check_shape(path: Path, shape: tuple[int, ...], expected: tuple[int, ...], whose: str = "its scan") -> None:
    """Raises `InputError` when a mask is not of its scan's size; shapes are (frames, height, width)."""
    if shape == expected:
        return
    of, to = (
        "{2} x {1} with {0} frames".format(*one) if one[0] > 1 else "{2} x {1}".format(*one)
        for one in (shape, expected)
    )
    turned = " It is as large as the other turned by 90 degrees." if shape[:0:-1] == expected[1:] else ""
    raise InputError(
        f"{path} is {of}, {whose} {to}: they do not belong together, and nothing is scaled to fit.{turned}"
    )
