"""A volume becomes the array that nnU-Net's reader would have made; what it would trip over is refused first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.nnunet_folder import make
from watcherd.config import Model
from watcherd.errors import InputError
from watcherd.inference.base import Volume
from watcherd.inference.segmenters.nnunet import folder as nnunet
from watcherd.inference.segmenters.nnunet.prepare import cropped, prepared, takes_whole, target
from watcherd.job import Options

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.inference.segmenters.nnunet.folder import Configuration, Results

SPACING = (2.5, 0.8, 0.7)


def volume(shape: tuple[int, int, int] = (6, 20, 18), channels: int = 1, **changes: Any) -> Volume:
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) + 1
    return Volume(**{"channels": (values,) * channels, "options": Options(), "spacing_mm": SPACING} | changes)


def model(
    folder: Path, name: str = "3d_fullres", reader: str = "SimpleITKIO", **dataset: Any
) -> tuple[Results, Configuration]:
    path = make(folder, dataset=dataset, plans={"image_reader_writer": reader})
    results = nnunet.read(Model(segmenter="nnunet", path=path))
    return results, nnunet.configuration(results, name)


def test_channels_become_float32_and_the_spacing_stays(tmp_path: Path) -> None:
    scan = volume()
    array, spacing = prepared(scan, *model(tmp_path))
    assert (1, 6, 20, 18) == array.shape
    assert np.float32 == array.dtype
    assert np.array_equal(scan.channels[0], array[0])
    assert SPACING == spacing


@pytest.mark.parametrize(
    ("name", "reader", "changes", "expected"),
    [
        ("2d", "SimpleITKIO", {"spacing_mm": (None, 0.8, 0.7)}, (999 * 0.8, 0.8, 0.7)),
        ("2d", "SimpleITKIO", {"spacing_mm": None}, (999, 1, 1)),
        ("2d", "NaturalImage2DIO", {"spacing_mm": (None, 0.8, 0.7)}, (999, 1, 1)),
        ("2d", "SimpleITKIO", {}, SPACING),
        ("3d_fullres", "Tiff3DIO", {"spacing_mm": None, "format": "TIFF"}, (1, 1, 1)),
        ("3d_fullres", "Tiff3DIO", {"format": "TIFF"}, (1, 1, 1)),
    ],
)
def test_the_spacing_is_the_readers(
    tmp_path: Path, name: str, reader: str, changes: dict[str, Any], expected: tuple[float, ...]
) -> None:
    """A plane counts as thick; pictures have no size; TIFF stacks have none without a file of nnU-Net's beside them."""
    shape = (6, 20, 18) if name != "2d" or not changes else (1, 20, 18)
    assert expected == pytest.approx(prepared(volume(shape, **changes), *model(tmp_path, name, reader))[1])


@pytest.mark.parametrize(
    ("name", "changes", "whole"),
    [
        ("3d_fullres", {}, True),
        ("3d_fullres", {"spacing_mm": None}, True),
        ("2d", {}, True),
        ("2d", {"spacing_mm": (None, 1.0, 1.0)}, False),
        ("2d", {"spacing_mm": None}, False),
    ],
)
def test_a_network_of_slices_sees_volumes_whole_and_runs_slice_by_slice(
    tmp_path: Path, name: str, changes: dict[str, Any], whole: bool
) -> None:
    """nnU-Net normalises a volume as a whole."""
    assert whole is takes_whole(volume(**changes), *model(tmp_path, name))


SHEARED = np.array([[0.7, 0.3, 0, 0], [0, 0.8, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("scan", "said"),
    [
        (volume(channels=2), "takes 1 channels (CT), and the scan has 2"),
        (volume((1, 20, 18), spacing_mm=(None, 0.8, 0.7)), "a single plane, and the model takes volumes"),
        (volume(spacing_mm=(None, 0.8, 0.7)), "how far apart its 6 slices are"),
        (volume(spacing_mm=None), "how far apart its 6 slices are"),
        (volume(affine=SHEARED), "grid is sheared"),
        (volume((1, 20, 18), spacing_mm=(0.1, 0.8, 0.7)), "resamples to nothing: 1 x 20 x 18 voxels"),
    ],
)
def test_what_a_model_of_volumes_cannot_take(tmp_path: Path, scan: Volume, said: str) -> None:
    with pytest.raises(InputError) as caught:
        prepared(scan, *model(tmp_path))
    assert said in caught.value.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_value_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    values = np.ones((6, 20, 18), np.float32)
    values[2, 3, 4] = value
    with pytest.raises(InputError, match="1 of the scan's values are no finite numbers"):
        prepared(volume(channels=1) and replace(volume(), channels=(values,)), *model(tmp_path))


def test_a_sheared_grid_is_taken_where_nnunets_reader_takes_it(tmp_path: Path) -> None:
    prepared(volume(affine=SHEARED), *model(tmp_path, reader="NibabelIO"))


def test_the_size_is_that_of_the_box_with_something_in_it(tmp_path: Path) -> None:
    """nnU-Net crops zeros away before it resamples, by all channels together; an empty scan stays as it is."""
    array = np.zeros((2, 6, 20, 18), np.float32)
    assert (6, 20, 18) == cropped(array)
    array[0, 2, 5, 7] = 1
    array[1, 3, 5, 9] = -1
    assert (2, 1, 3) == cropped(array)
    thin = np.zeros((6, 20, 18), np.int16)
    thin[3] = 5
    with pytest.raises(InputError, match="resamples to nothing: 1 x 20 x 18"):
        prepared(replace(volume(), channels=(thin,), spacing_mm=(1.0, 0.8, 0.7)), *model(tmp_path))


def test_axes_are_in_the_order_of_the_plans(tmp_path: Path) -> None:
    results, chosen = model(tmp_path)
    turned = replace(chosen, forward=(2, 0, 1))
    assert (round(0.7 / 2.5 * 18), round(2.5 / 0.8 * 6), 20) == target((6, 20, 18), (2.5, 0.8, 0.7), turned)
    flat = replace(chosen, patch=(24, 24), spacing=(0.8, 0.8))
    assert (6, 20, round(0.7 / 0.8 * 18)) == target((6, 20, 18), (2.5, 0.8, 0.7), flat)
    assert results.folds
