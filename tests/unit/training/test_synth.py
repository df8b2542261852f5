"""The generator: reproducible, exact, light."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from training.synth import FUNDUS_STYLES, XRAY_STYLES, Kind, make
from training.synth.drawing import dense, tube

CASES = [*(("xray", style) for style in XRAY_STYLES), *(("fundus", style) for style in FUNDUS_STYLES)]


def test_a_seed_gives_the_same_scene() -> None:
    for kind in ("xray", "fundus"):
        one, again, other = make(kind, 5, size=96), make(kind, 5, size=96), make(kind, 6, size=96)
        np.testing.assert_array_equal(one.image, again.image)
        np.testing.assert_array_equal(one.mask, again.mask)
        assert (one.image != other.image).any()


@pytest.mark.parametrize(("kind", "style"), CASES)
def test_every_difficulty_is_a_picture_with_vessels_in_its_field(kind: Kind, style: str) -> None:
    scene = make(kind, 1, size=96, style=style)
    assert np.uint8 == scene.image.dtype
    assert {(96, 96)} == {part.shape for part in (scene.image, scene.mask, scene.ignore, scene.field)}
    assert 0.002 < scene.mask.mean() < 0.4
    assert not (scene.mask & ~scene.field).any()


def test_vessels_are_darker_than_what_is_beside_them() -> None:
    scene = make("xray", 2, size=200, style="plain")
    from scipy.ndimage import binary_dilation

    beside = binary_dilation(scene.mask, iterations=4) & ~binary_dilation(scene.mask | scene.ignore, iterations=2)
    assert scene.image[scene.mask].mean() < scene.image[beside].mean() - 5


def test_a_tube_is_as_thick_as_its_diameter() -> None:
    points, _ = dense(np.array([[0.1, 0.5], [0.9, 0.5]], np.float32), 0.5 / 200)
    drawn = tube(points, np.full(len(points), 0.05), 200)
    assert drawn.max() == pytest.approx(0.1, rel=0.01)
    assert (drawn[:, 100] > 0).sum() == pytest.approx(20, abs=1)


def test_a_catheter_is_not_a_vessel() -> None:
    """Devices change the picture and not the mask."""
    with_devices, without = make("xray", 3, size=128, style="devices"), make("xray", 3, size=128, style="plain")
    assert (with_devices.image != without.image).any()
    assert with_devices.mask.mean() < 0.3


def test_it_needs_no_torch() -> None:
    code = "import sys, training.synth; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
