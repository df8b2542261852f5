"""Scans that the default model was not made for are known by outline and colour; its own are not taken for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import watcherd.demo
from tests.other_scans import KINDS, grid
from training.synth import make
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.vessel.picture import field_of, is_like, kind_of
from watcherd.inference.segmenters.vessel.segmenter import PACKAGED, VesselSegmenter
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

SIDE = 256


def is_recognised(pixels: Pixels) -> bool:
    """As another kind than the model's own."""
    kind = kind_of(pixels)
    return not is_like(kind, pixels, field_of(pixels, kind))


def others() -> Iterator[Pixels]:
    """25 of each of four kinds."""
    for kind, draw in KINDS.items():
        for seed in range(25):
            yield draw(np.random.default_rng((list(KINDS).index(kind), seed)), SIDE)


def collimated(pixels: Pixels, chance: np.random.Generator, shape: str) -> Pixels:
    """Blades, an image intensifier, one with blades, eight blades; what is behind them is nearly black."""
    y, x = grid(pixels.shape[0])
    size = chance.uniform(0.6, 0.95)
    inside = {
        "blades": (np.abs(y) < size) & (np.abs(x) < chance.uniform(0.5, 0.95)),
        "circle": np.hypot(x, y) < size,
        "circle with blades": (np.hypot(x, y) < size) & (np.abs(y) < 0.7 * size),
        "eight blades": (np.abs(x) < size) & (np.abs(y) < size) & (np.abs(x) + np.abs(y) < np.sqrt(2) * size),
    }[shape]
    return np.where(inside, pixels, np.uint8(chance.integers(0, 12)))


SHAPES = ("blades", "circle", "circle with blades", "eight blades")


def own() -> Iterator[Pixels]:
    """40 made-up angiograms, the same behind collimators of four shapes, 20 made-up photographs of the fundus."""
    for seed in range(40):
        scene = make("xray", 7000 + seed, size=SIDE).image
        yield scene
        yield collimated(scene, np.random.default_rng(seed), SHAPES[seed % len(SHAPES)])
    for seed in range(20):
        yield make("fundus", 7000 + seed, size=SIDE).image


def test_95_of_100_scans_of_other_kinds_are_recognised() -> None:
    """Ultrasound, CT, MR, and hands."""
    assert 95 <= sum(map(is_recognised, others()))


def test_at_most_2_of_100_of_its_own_are_taken_for_others() -> None:
    """Whatever the shape of the field."""
    assert 2 >= sum(map(is_recognised, own()))


@pytest.mark.parametrize("name", ["angiogram-1", "angiogram-2", "angiogram-3", "Image_11L", "Image_12R", "Image_14L"])
def test_no_bundled_scan_is_taken_for_another(name: str) -> None:
    """Real ones."""
    (folder,) = watcherd.demo.__path__
    assert not is_recognised(np.asarray(Image.open(f"{folder}/{name}.jpg")))


def test_a_colour_picture_that_is_not_red_is_no_fundus() -> None:
    """A blue disc, and a screenshot that is hardly redder than green."""
    disc = (np.hypot(*grid(128)) < 0.9)[..., np.newaxis]
    for colour in ((90, 90, 140), (132, 110, 90)):
        assert is_recognised(np.asarray(disc * np.array(colour), np.uint8))
    assert not is_recognised(np.asarray(disc * np.array((180, 90, 40)), np.uint8))


@pytest.fixture(scope="module")
def segmenter() -> VesselSegmenter:
    loaded = VesselSegmenter(PACKAGED)
    loaded.load(Placement(), lambda _stage, _done: None)
    return loaded


def note(segmenter: VesselSegmenter, pixels: Pixels, modality: str = "", **options: object) -> str:
    [found] = segmenter.predict([Frame(pixels=pixels, modality=modality, options=Options(**options))])  # type: ignore[arg-type]
    assert found.mask is not None
    return found.note


def test_the_record_says_so_and_there_is_a_mask_all_the_same(segmenter: VesselSegmenter) -> None:
    """Not where a file or a profile tells of what kind a picture is."""
    head = KINDS["mr"](np.random.default_rng(1), SIDE)
    assert "by its outline it may be no angiogram" in note(segmenter, head)
    assert "by its outline" not in note(segmenter, make("xray", 3, size=SIDE).image)
    assert "by its outline" not in note(segmenter, head, kind="xray")
    assert "by its outline" not in note(segmenter, head, modality="XA")
    told = note(segmenter, head, modality="MR")
    assert "not made for pictures of the modality MR" in told
    assert "by its outline" not in told
