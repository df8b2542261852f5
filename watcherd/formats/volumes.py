"""A scan's own numbers on disk, beside its 8-bit frames, and where its voxels lie in space.

Frames are upright as displayed; models of volumes see the voxels in the order of the file, as other programs do. `Turn`
and `VolumeFile` go from one to the other without a copy, and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Row = tuple[float, float, float, float]

STRAIGHT = 1e-3
"""Cosine between two axes of a grid up to which they count as at right angles: float32 headers are no better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """How a stored slice, (first axis, second axis), becomes a picture, (height, width).

    ``swap``: the first axis runs across the picture, as it mostly does. ``down``, ``across``: flip that direction.
    """

    swap: bool = True
    down: bool = False
    across: bool = False

    def shown(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The picture of a slice; further axes (colours) stay last."""
        picture = stored.swapaxes(0, 1) if self.swap else stored
        return self._flipped(picture)

    def stored(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The slice of a picture: the inverse of `shown`."""
        flipped = self._flipped(picture)
        return flipped.swapaxes(0, 1) if self.swap else flipped

    def _flipped(self, picture: NDArray[Any]) -> NDArray[Any]:
        return picture[:: -1 if self.down else 1, :: -1 if self.across else 1]


UNTURNED = Turn()
"""Of files whose rows run across the picture and follow one another downwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where voxels lie, in the order of the file.

    ``spacing_mm``: from slice to slice, from row to row, from column to column; the first is None where slices do not
    follow one another in space: a single plane, or pictures taken one after the other. ``affine``: the three rows that
    take (column, row, slice, 1) to mm, right-anterior-superior as in NIfTI; None where the file does not say.
    """

    spacing_mm: tuple[float | None, float, float]
    affine: tuple[Row, Row, Row] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether the slices lie behind one another in space."""
        return self.spacing_mm[0] is not None

    @property
    def is_sheared(self) -> bool:
        """Whether two of its axes are not at right angles, as in scans of a tilted gantry."""
        if self.affine is None:
            return False
        axes = [[row[axis] for row in self.affine] for axis in range(3)]
        lengths = [sum(part * part for part in axis) ** 0.5 for axis in axes]
        pairs = ((0, 1), (0, 2), (1, 2))
        return any(
            abs(sum(one * other for one, other in zip(axes[a], axes[b], strict=True)))
            > STRAIGHT * lengths[a] * lengths[b]
            for a, b in pairs
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeFile:
    """A scan's own numbers: an ``.npy`` file of (frames, height, width) or (frames, height, width, 3), of any type of
    up to 32 bits, upright as displayed.

    ``turn``: how a slice of the file became a picture. ``backward``: the frames run against the slices. ``grid``: where
    the voxels lie, in the order of the file; None where the file says nothing at all. ``format``: as `Decoded` has it.
    """

    path: Path
    format: str
    turn: Turn = UNTURNED
    backward: bool = False
    grid: Grid | None = None

    def stored(self) -> NDArray[Any]:
        """(slices, rows, columns), with colours last: the file's own order, read-only, read as it is used."""
        from watcherd.formats.npy_frames import FrameFile  # with numpy, which the main process does without

        frames = FrameFile(self.path).mapped()
        picture = frames.swapaxes(0, 1).swapaxes(1, 2)  # the frames behind height and width, before any colours
        slices = self.turn.stored(picture).swapaxes(0, 1)  # (rows, columns, slices)
        return self._in_order(slices.swapaxes(1, 2).swapaxes(0, 1))

    def shown(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse: what has the order of the file, (slices, rows, columns), as frames."""
        slices = self._in_order(values).swapaxes(0, 1).swapaxes(1, 2)
        return self.turn.shown(slices.swapaxes(0, 1)).swapaxes(1, 2).swapaxes(0, 1)

    def _in_order(self, slices: NDArray[Any]) -> NDArray[Any]:
        return slices[::-1] if self.backward else slices
