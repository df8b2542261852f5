"""Measures are those of shapes whose area, length and width are known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from watcherd.imaging.results import measures
from watcherd.imaging.results.measures import measure, measure_frames
from watcherd.values import FrameMeasure


def bar(height: int, width: int, *, shape: tuple[int, int] = (100, 200)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[20 : 20 + height, 30 : 30 + width] = 1
    return mask


def turned_bar(length: float, width: float, degrees: float, spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """A bar around the middle of 301 x 301 pixels, at an angle to the rows."""
    y, x = np.mgrid[:301, :301] - 150.0
    y, x, angle = y * spacing[0], x * spacing[1], np.deg2rad(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return ((abs(along) <= length / 2) & (across > -width / 2) & (across <= width / 2)).astype(np.uint8)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:101, :101] - 50.0
    return (np.hypot(y, x) <= radius).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 10])
def test_a_bar_is_as_wide_as_its_pixels_and_nearly_as_long(width):
    """Be its width odd or even; the skeleton ends about half a width before each end."""
    for mask in (bar(width, 150), bar(width, 150).T):
        found = measure(mask)
        assert ("px", 1, width * 150 / 20_000) == (found.unit, found.components, found.area_fraction)
        assert width == found.max_width
        assert width == pytest.approx(found.mean_width, abs=0.05)
        assert 150 - width - 1 <= found.length <= 150


@pytest.mark.parametrize("degrees", [0, 10, 22.5, 30, 45, 60, 80, 90, 135])
@pytest.mark.parametrize("width", [3, 6, 10])
def test_a_turned_bar_keeps_its_length_and_width(degrees, width):
    """Chains of pixels are up to 8 % too long between rows and diagonals; none of it is lost at 45 degrees."""
    found = measure(turned_bar(200, width, degrees))
    assert 198 - 1.1 * width <= found.length <= 200 * 1.085
    assert width == pytest.approx(found.mean_width, abs=0.12 * width + 0.1)
    assert width == pytest.approx(found.max_width, abs=1.1)


@pytest.mark.parametrize("radius", [5, 10, 30])
def test_a_disc_is_two_radii_wide_and_has_next_to_no_length(radius):
    found = measure(disc(radius))
    assert 2 * radius == pytest.approx(found.max_width, abs=1)
    assert found.length < 0.5 * radius


def test_pieces_are_counted_and_touching_corners_join_them():
    mask = bar(3, 20) + bar(3, 20, shape=(100, 200))[::-1]
    assert 2 == measure(mask).components
    corners = np.zeros((9, 9), np.uint8)
    corners[2, 2] = corners[3, 3] = corners[7, 2] = 1
    assert 2 == measure(corners).components


def test_lengths_are_in_millimetres_where_the_spacing_is_known():
    """Each direction by its own: a bar along the rows and the same bar along the columns differ."""
    spacing = (0.2, 0.5)
    lying, standing = measure(bar(6, 100), spacing), measure(bar(6, 60).T, spacing)
    assert ("mm", "mm") == (lying.unit, standing.unit)
    assert (1.2, 3.0) == pytest.approx((lying.max_width, standing.max_width))
    assert (1.2, 3.0) == pytest.approx((lying.mean_width, standing.mean_width), rel=0.06)
    assert 100 * 0.5 == pytest.approx(lying.length, rel=0.07)
    assert 60 * 0.2 == pytest.approx(standing.length, rel=0.15)


@pytest.mark.parametrize("degrees", [30, 45, 70])
def test_pixels_that_are_not_square_do_not_bend_a_bar(degrees):
    spacing = (0.2, 0.4)
    found = measure(turned_bar(40, 3, degrees, spacing), spacing)
    assert 40 == pytest.approx(found.length, rel=0.12)
    assert 3 == pytest.approx(found.mean_width, rel=0.15)


def test_an_empty_mask_has_no_width_and_costs_nothing(monkeypatch):
    monkeypatch.setattr(measures, "_cropped", None)
    empty = FrameMeasure(frame=1, unit="px", area_fraction=0, components=0, length=0)
    assert empty == measure(np.zeros((5, 7), np.uint8))
    assert (empty,) == measure_frames(np.zeros((1, 5, 7), np.uint8), [0])


def test_a_full_mask_ends_where_the_picture_ends():
    found = measure(np.ones((40, 90), np.uint8))
    assert (1.0, 1, 40) == (found.area_fraction, found.components, found.max_width)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_pieces_are_measured_too(side):
    found = measure(bar(side, side))
    assert (1, side) == (found.components, found.max_width)


def test_all_classes_count_together():
    """The classes of a mask with several are one vessel tree."""
    mask = bar(6, 100)
    mask[:, 80:] *= 3
    assert measure(bar(6, 100)) == measure(mask)


def run(frames: int) -> tuple[np.ndarray, list[int]]:
    masks = np.stack([bar(3, 1 + (10 * index) % 97) for index in range(frames)])
    masks[2] = 0
    return masks, [int(np.count_nonzero(mask)) for mask in masks]


def test_every_frame_of_a_run_is_measured_as_it_would_be_alone():
    masks, areas = run(6)
    alone = [measure(mask, (0.3, 0.3), frame=number) for number, mask in enumerate(masks, start=1)]
    assert alone == list(measure_frames(masks, areas, (0.3, 0.3)))


def test_a_run_that_takes_too_long_is_measured_here_and_there_and_in_its_fullest_frame():
    """The same frames every time; the others have their area alone, and empty ones are known anyway."""
    masks, areas = run(60)
    budget = 10 * measures._cost(masks[int(np.argmax(areas))] != 0)
    found = measure_frames(masks, areas, seconds=budget)
    full = [one.frame for one in found if one.length is not None and one.area_fraction]
    assert 5 <= len(full) <= 20
    assert int(np.argmax(areas)) + 1 in full
    assert all(one.area_fraction == area / 20_000 for one, area in zip(found, areas, strict=True))
    assert found[2].components == 0
    assert found == measure_frames(masks, areas, seconds=budget)


def test_a_mask_that_would_take_minutes_is_not_thinned():
    """Whole, or of noise: the one has many layers, the other many edges."""
    chance = np.random.default_rng(0)
    began = time.process_time()
    for mask in (np.ones((4000, 4000), np.uint8), chance.integers(0, 2, (4000, 4000), np.uint8)):
        (found,) = measure_frames(mask[np.newaxis], [int(mask.sum())])
        assert (None, None) == (found.components, found.length)
        assert mask.mean() == pytest.approx(found.area_fraction, abs=1e-6)
    assert time.process_time() - began < 10


def test_a_vessel_tree_of_16_megapixels_is_measured_in_full():
    """The budget is for what nobody needs, not for large scans."""
    tree = np.zeros((4000, 4000), bool)
    for start in range(100, 3900, 200):
        tree[start : start + 30, 100:3900] = True
    assert measures._cost(tree) < measures.SECONDS
