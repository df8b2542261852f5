"""The weightless segmenter finds dark tubes and little else, on every size, brightness and kind of picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from watcherd.config import Model
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.ridges import connected, dark_lines, field_of_view
from watcherd.inference.segmenters.vesselness import create, is_colourful
from watcherd.job import Options
from watcherd.testing import SegmenterContract


class TestContract(SegmenterContract):
    def create(self):
        return create(Model())


def tubes(height: int = 300, width: int = 300, *, half: float = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An angiogram-like picture, 0 to 1, of two bent vessels on an uneven noisy ground, and where the vessels are."""
    down, right = np.mgrid[0:height, 0:width] * (300 / max(height, width))
    half_width = half
    first = np.abs(right - 150 - 40 * np.sin(down / 50))
    second = np.abs(down - 200 + 0.35 * right)
    distance = np.minimum(first, second * 1.3)
    ground = 0.65 + 0.2 * np.sin(right / 110) + 0.1 * np.cos(down / 90)
    noise = np.random.default_rng(seed).normal(0, 0.02, (height, width))
    picture = ground * np.exp(-0.45 * np.sqrt(np.clip(1 - (distance / half_width) ** 2, 0, 1))) + noise
    return picture.clip(0, 1), distance < half_width


def grey(picture: np.ndarray) -> np.ndarray:
    return (picture * 255).astype(np.uint8)


def predict(pixels: np.ndarray, **options):
    (found,) = create(Model()).predict([Frame(pixels=pixels, options=Options(**options))])
    return found


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    found, truth = found > 0, truth > 0
    return 2 * (found & truth).sum() / max(1, found.sum() + truth.sum())


@pytest.mark.parametrize("size", [(300, 300), (512, 512), (200, 320), (1000, 1000)])
def test_tubes_are_found_at_every_size(size):
    picture, truth = tubes(*size)
    assert dice(predict(grey(picture)).mask, truth) > 0.8


@pytest.mark.parametrize("half", [2.5, 4, 6.5])
def test_tubes_of_every_width_are_found(half):
    picture, truth = tubes(half=half)
    assert dice(predict(grey(picture)).mask, truth) > 0.7


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (0.3, 0), (0.1, 0.8)])
def test_the_window_of_the_export_makes_little_difference(gain, offset):
    picture, truth = tubes()
    assert dice(predict(grey(picture * gain + offset)).mask, truth) > 0.8


def test_bright_tubes_are_no_vessels():
    picture, _ = tubes()
    assert predict(grey(1.1 - picture)).mask.mean() < 0.02


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_has_no_vessels(value):
    found = predict(np.full((200, 240), value, np.uint8))
    assert not found.mask.any()
    assert np.isfinite(found.probability).all()


def test_noise_has_no_vessels():
    assert not predict(np.random.default_rng(0).integers(60, 200, (300, 300)).astype(np.uint8)).mask.any()


def test_a_step_answers_far_less_than_a_line_of_the_same_depth():
    """The diaphragm's edge, and a rib's."""
    right = np.mgrid[0:120, 0:120][1].astype(np.float32)
    line = np.where(np.abs(right - 60) < 3, -1, 0).astype(np.float32)
    step = np.where((right > 60) & (right < 115), -1, 0).astype(np.float32)
    line_answer, step_answer = (
        dark_lines(picture, sigmas=(2, 3.5), elongation=3.5, reach=2)[:, 30:90].max() for picture in (line, step)
    )
    assert step_answer < 0.4 * line_answer


@pytest.mark.parametrize("border", [0, 20])
def test_the_collimators_border_is_no_vessel_and_hides_none(border):
    picture, truth = tubes()
    pixels = grey(picture)
    down, right = np.mgrid[0:300, 0:300] - 150
    inside = np.hypot(down, right) < 140
    pixels[~inside] = border
    found = predict(pixels).mask
    rim = (np.hypot(down, right) > 132) & ~truth
    assert dice(found[inside], truth[inside]) > 0.8
    assert found[rim].mean() < 0.02


def test_the_field_of_view_is_the_lit_part():
    down, right = np.mgrid[0:200, 0:260]
    inside = np.hypot(down - 100, right - 130) < 90
    lit = np.where(inside, 150, 8).astype(np.float32)
    assert dice(field_of_view(lit, 0), inside) > 0.96
    assert field_of_view(np.full((50, 60), 90, np.float32), 0).all()
    assert field_of_view(np.zeros((50, 60), np.float32), 0).all()


def test_colour_photographs_are_told_from_grey_frames_with_coloured_marks():
    picture, _ = tubes()
    frame = np.stack([grey(picture)] * 3, axis=-1)
    frame[:12, :80] = (255, 255, 0)
    assert not is_colourful(frame)
    assert is_colourful(np.stack([grey(picture), grey(picture * 0.5), grey(picture * 0.2)], axis=-1))


def test_fundus_vessels_are_found_in_the_green_channel():
    picture, truth = tubes(500, 500, half=3)
    down, right = np.mgrid[0:500, 0:500] - 250
    inside = np.hypot(down, right) < 240
    pixels = np.stack([np.full_like(picture, 0.8), picture * 0.6, np.full_like(picture, 0.15)], axis=-1)
    found = predict(grey(pixels * inside[..., np.newaxis])).mask
    assert dice(found, truth & inside) > 0.75


def test_the_kind_can_be_chosen():
    pixels = grey(tubes()[0])
    by_itself, xray, fundus = (predict(pixels, kind=kind).probability for kind in ("auto", "xray", "fundus"))
    assert np.array_equal(by_itself, xray)
    assert not np.array_equal(by_itself, fundus)


def test_a_higher_threshold_never_adds_to_the_mask():
    pixels = grey(tubes()[0])
    masks = [predict(pixels, threshold=threshold).mask > 0 for threshold in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    assert all((low | high == low).all() for low, high in pairwise(masks))
    areas = [int(mask.sum()) for mask in masks]
    assert areas[1] > areas[3] > areas[5]
    assert areas[-1] == 0


def test_the_mask_lies_where_the_probability_exceeds_the_threshold():
    for threshold in (0.2, 0.5, 0.8):
        found = predict(grey(tubes()[0]), threshold=threshold)
        assert (found.probability[found.mask > 0] > threshold).all()


def test_small_parts_and_weak_parts_are_dropped():
    weak = np.zeros((20, 20), bool)
    weak[2:4, 2:4] = weak[8:10, 2:12] = weak[15, 2:18] = True
    strong = np.zeros_like(weak)
    strong[2, 2] = strong[9, 5] = True
    kept = connected(weak, strong, 5)
    assert np.array_equal(np.flatnonzero(kept.any(axis=1)), [8, 9])


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (7, 3), (3, 5, 3), (40, 1200)])
def test_pictures_of_any_shape_get_an_answer(shape):
    found = predict(np.full(shape, 90, np.uint8))
    assert shape[:2] == found.mask.shape == found.probability.shape


def test_the_golden_image_gives_its_mask():
    segmenter = create(Model())
    segmenter.load(Placement(), lambda *_: None)
    golden = segmenter.golden()
    (found,) = segmenter.predict([golden.frame])
    assert dice(found.mask, golden.mask) >= golden.min_dice
