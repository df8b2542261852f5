"""Frames as displayed and voxels in the order of the file are the same numbers, there and back."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from watcherd.formats.npy_frames import write_frames
from watcherd.formats.volumes import Grid, Turn, VolumeFile

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.formats.volumes import Row


@pytest.mark.parametrize("colours", [(), (3,)])
@pytest.mark.parametrize(("swap", "down", "across", "backward"), list(itertools.product([False, True], repeat=4)))
def test_the_files_order_there_and_back(
    tmp_path: Path, swap: bool, down: bool, across: bool, backward: bool, colours: tuple[int, ...]
) -> None:
    """A slice is the picture turned back, its second axis first; nothing is copied."""
    turn = Turn(swap=swap, down=down, across=across)
    shape = (2, 3, 4, *colours)
    frames = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    write_frames(tmp_path / "a.npy", frames, shape, np.int16)
    file = VolumeFile(path=tmp_path / "a.npy", format="X", turn=turn, backward=backward)
    expected = np.stack([turn.stored(frame).swapaxes(0, 1) for frame in frames])[:: -1 if backward else 1]
    stored = file.stored()
    assert np.array_equal(expected, stored)
    assert not stored.flags.writeable
    assert not stored.flags.owndata
    assert np.array_equal(frames, file.shown(stored))


def grid(*rows: Row) -> Grid:
    return Grid(spacing_mm=(2.5, 0.8, 0.8), affine=(rows[0], rows[1], rows[2]))


def test_a_sheared_grid_is_known_from_a_turned_one() -> None:
    cos, sin = np.cos(0.3), np.sin(0.3)
    turned = grid((0.8 * cos, -0.8 * sin, 0, 5), (0.8 * sin, 0.8 * cos, 0, 6), (0, 0, 2.5, 7))
    tilted = grid((0.8, 0, 0, 5), (0, 0.8, 0.4, 6), (0, 0, 2.5, 7))
    assert not turned.is_sheared
    assert tilted.is_sheared
    assert not Grid(spacing_mm=(None, 1, 1)).is_sheared


def test_only_slices_behind_one_another_are_a_volume() -> None:
    assert grid((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)).is_volume
    assert not Grid(spacing_mm=(None, 1, 1)).is_volume
