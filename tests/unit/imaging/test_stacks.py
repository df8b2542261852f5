"""Stacks and animations: every frame, the time between them, and the size of a pixel where somebody has measured it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.unit.imaging.test_bad_input import failure
from watcherd.imaging.decode import Decoded, DecodeLimits, decode
from watcherd.imaging.readers import calibration

ROWS, COLUMNS = np.mgrid[0:40, 0:60]
RAMP = (COLUMNS * 4).astype(np.uint8)
FRAMES = [np.roll(RAMP, shift * 7, 1) for shift in range(4)]


def decoded(path: Path) -> tuple[Decoded, np.ndarray]:
    found = decode(path, path.with_suffix(".npy"), DecodeLimits())
    return found, np.load(found.path)


def animation(path: Path, **options) -> Path:
    pictures = [Image.fromarray(frame) for frame in FRAMES]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animations_frames_and_the_time_between_them_are_read(tmp_path, name):
    found, frames = decoded(animation(tmp_path / name, duration=40, lossless=True))
    assert 40 == found.frame_ms
    assert np.array_equal(FRAMES, frames)


@pytest.mark.parametrize(("durations", "mean"), [([40, 40, 80, 40], 50), ([0, 0, 0, 0], None)])
def test_frames_that_are_shown_for_different_times_have_their_mean(tmp_path, durations, mean):
    assert mean == decoded(animation(tmp_path / "a.png", duration=durations))[0].frame_ms


def test_a_single_frame_has_no_time(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.gif", duration=40)
    assert decoded(tmp_path / "a.gif")[0].frame_ms is None


def test_the_picture_that_only_stands_in_for_an_animation_is_no_frame_of_it(tmp_path):
    """A PNG may show another picture where animations cannot be shown."""
    found, frames = decoded(animation(tmp_path / "a.png", duration=40, default_image=True))
    assert (3, 40) == (found.frames, found.frame_ms)
    assert np.array_equal(FRAMES[1:], frames)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_imagej_stack_brings_its_calibration(tmp_path, dtype):
    metadata = {"axes": "TYX", "unit": "mm", "finterval": 0.04}
    tifffile.imwrite(
        tmp_path / "a.tif", np.stack(FRAMES).astype(dtype), imagej=True, resolution=(10, 5), metadata=metadata
    )
    found, _ = decoded(tmp_path / "a.tif")
    assert (4, (0.2, 0.1), 40) == (found.frames, found.spacing_mm, found.frame_ms)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_ome_stack_brings_its_calibration(tmp_path, dtype):
    metadata = {
        "axes": "TYX", "PhysicalSizeX": 100, "PhysicalSizeY": 200, "TimeIncrement": 40, "TimeIncrementUnit": "ms"
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack(FRAMES).astype(dtype), metadata=metadata)
    found, frames = decoded(tmp_path / "a.ome.tif")
    assert (4, (0.2, 0.1), 40) == (found.frames, found.spacing_mm, found.frame_ms)
    assert np.array_equal(FRAMES, frames) or dtype is np.uint16


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_resolution_tags_are_believed_with_their_unit_and_turned_with_the_picture(tmp_path, dtype):
    def spacing(unit: str, orientation: int = 1) -> tuple[float, float] | None:
        tifffile.imwrite(
            tmp_path / "a.tif", RAMP.astype(dtype), resolution=(50, 100), resolutionunit=unit,
            extratags=[(274, "H", 1, orientation, True)], metadata=None, photometric="minisblack",
        )  # fmt: skip
        return decoded(tmp_path / "a.tif")[0].spacing_mm

    assert spacing("CENTIMETER") == pytest.approx((0.1, 0.2))
    assert spacing("CENTIMETER", orientation=6) == pytest.approx((0.2, 0.1))
    assert spacing("NONE") is None


@pytest.mark.parametrize(
    ("across", "unit"), [(72, 2), (96, 2), (300, 2), (118.11, 3), (28.35, 3), (0, 2), (50, 1), (50, None), (-50, 3)]
)
def test_print_densities_and_densities_without_a_unit_are_no_measure(across, unit):
    """What programs write that know nothing: a vessel's width in mm must not be made of it."""
    assert calibration.from_tags(across, across, unit) is None


def test_a_measured_density_is_one():
    assert calibration.from_tags(254, 254, 2) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("unit", "size"), [("pixel", None), ("", None), ("µm", 1e-3), ("micron", 1e-3), ("inch", 25.4)]
)
def test_imagejs_units(unit, size):
    spacing, frame_ms = calibration.from_imagej({"unit": unit, "fps": 25}, 1, 1)
    assert spacing == ((size, size) if size else None)
    assert 40 == frame_ms


@pytest.mark.parametrize("text", ["", "<OME/>", "<OME><Pixels PhysicalSizeX='x' TimeIncrement='-1'/></OME>", "<Pixels"])
def test_a_broken_ome_description_says_nothing(text):
    assert (None, None) == calibration.from_ome(text)


def test_signed_bytes_keep_their_order(tmp_path):
    """-1 is darker than 0; Pillow would show it as 255."""
    tifffile.imwrite(tmp_path / "a.tif", (COLUMNS - 30).astype(np.int8), photometric="minisblack")
    found, frames = decoded(tmp_path / "a.tif")
    assert (np.diff(frames[0].astype(int), axis=1) >= 0).all()
    assert found.window is not None


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "float16", "float64"])
def test_numbers_of_every_size_are_shown(tmp_path, dtype):
    values = RAMP > 100 if dtype == "bool" else RAMP.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([values, values[::-1]]), photometric="minisblack")
    _, frames = decoded(tmp_path / "a.tif")
    assert (2, 0, 255) == (len(frames), frames.min(), frames.max())


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_are_no_picture(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(dtype), photometric="minisblack")
    assert "complex numbers" in failure(tmp_path / "a.tif").message


def test_a_volume_is_refused_and_not_cut_down_to_its_first_slice(tmp_path):
    volume = np.stack(FRAMES)
    tifffile.imwrite(tmp_path / "a.tif", volume, photometric="minisblack", volumetric=True, tile=(4, 16, 16))
    assert "volumes" in failure(tmp_path / "a.tif").message
