"""Figures are those of the definitions, computed here once more in another way."""

from __future__ import annotations

import numpy as np
import pytest

from watcherd.evaluation.figures import (
    LEVELS,
    Histogram,
    Judged,
    Score,
    as_mask,
    calibration_error,
    compare,
    histogram,
    match,
    reliability,
    sweep,
    worst,
)

CHANCE = np.random.default_rng(0)
MASK, TRUTH, COUNTED = (CHANCE.random((40, 60)) < share for share in (0.3, 0.25, 0.8))


@pytest.mark.parametrize("counted", [None, COUNTED])
def test_figures_are_those_of_sets_of_pixels(counted):
    judged = np.ones_like(MASK) if counted is None else counted
    mask, truth = (set(np.flatnonzero(area & judged).tolist()) for area in (MASK, TRUTH))
    found = compare(MASK, TRUTH, counted).figures()
    assert {
        "dice": 2 * len(mask & truth) / (len(mask) + len(truth)),
        "iou": len(mask & truth) / len(mask | truth),
        "precision": len(mask & truth) / len(mask),
        "recall": len(mask & truth) / len(truth),
    } == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize(
    ("mask", "truth", "dice", "precision", "recall"), [(0, 0, 1, 1, 1), (1, 0, 0, 0, 1), (0, 1, 0, 1, 0)]
)
def test_empty_masks_agree_with_empty_truth_and_with_nothing_else(mask, truth, dice, precision, recall):
    """The convention of the module's docstring: a figure without a denominator is 1."""
    shape = (3, 4)
    found = compare(np.full(shape, mask, bool), np.full(shape, truth, bool))
    assert (dice, dice, precision, recall) == (found.dice, found.iou, found.precision, found.recall)


@pytest.mark.parametrize("full", [1, 255])
def test_masks_may_be_stored_as_ones_or_as_white(full):
    assert np.array_equal(TRUTH, as_mask(TRUTH.astype(np.uint8) * np.uint8(full)))


def test_labels_and_colours_count_wherever_they_are_not_black():
    labels = TRUTH.astype(np.uint8) * 2
    labels[TRUTH & MASK] = 1
    assert np.array_equal(TRUTH, as_mask(labels))
    colours = np.zeros((*TRUTH.shape, 3), np.uint8)
    colours[TRUTH] = (0, 0, 200)
    assert np.array_equal(TRUTH, as_mask(colours))


def test_of_a_jpeg_of_a_mask_the_brighter_half_counts():
    """Its edges ring: nearly black pixels are no vessels."""
    noisy = np.where(TRUTH, 240, 10) + CHANCE.integers(-10, 11, TRUTH.shape)
    assert np.array_equal(TRUTH, as_mask(noisy.astype(np.uint8)))


def test_an_empty_mask_stays_empty():
    assert not as_mask(np.zeros((3, 4), np.uint8)).any()


# ------------------------------------------------------------------------------------------------------- probabilities

MAP = np.clip(TRUTH * 0.4 + CHANCE.random(TRUTH.shape) * 0.6, 0, 1)
LEVELLED = np.round(MAP * LEVELS).astype(np.uint16)


@pytest.mark.parametrize("threshold", [0, 0.05, 0.3, 0.5, 0.95, 1])
def test_a_histogram_knows_every_threshold(threshold):
    """As if the map had been cut there."""
    expected = compare(LEVELLED / LEVELS > threshold, TRUTH, COUNTED)
    assert expected == histogram(LEVELLED, TRUTH, COUNTED).at(threshold)


def test_a_pixel_at_the_threshold_is_no_vessel():
    """As in the masks of the service: greater, not equal. 0.2 is 13107 of 65535 exactly."""
    levels, truth = np.array([[13107, 13108]], np.uint16), np.ones((1, 2), bool)
    assert Score(both=1, invented=0, missed=1) == histogram(levels, truth).at(0.2)


def test_a_sweep_is_the_mean_over_the_scans():
    """Each scan counts the same, however large it is."""
    scans = [histogram(LEVELLED, TRUTH), histogram(LEVELLED[:10], TRUTH[:10])]
    thresholds = (0.2, 0.4, 0.6)
    points = sweep([[scan.at(threshold) for threshold in thresholds] for scan in scans], thresholds)
    expected = [np.mean([compare(LEVELLED[:n] / LEVELS > t, TRUTH[:n]).dice for n in (40, 10)]) for t in thresholds]
    assert expected == pytest.approx([point.dice for point in points], abs=1e-12)


def test_reliability_is_the_share_of_vessel_among_pixels_of_similar_probability():
    bins = reliability(histogram(LEVELLED, TRUTH))
    for found in bins:
        low = np.floor(found.probability * 10) / 10
        chosen = (LEVELLED / LEVELS >= low) & (LEVELLED / LEVELS < low + 0.1)
        assert int(chosen.sum()) == found.pixels
        assert TRUTH[chosen].mean() == pytest.approx(found.vessel)
        assert (LEVELLED[chosen] / LEVELS).mean() == pytest.approx(found.probability)
    assert TRUTH.size == sum(found.pixels for found in bins)


def test_certainty_belongs_to_the_last_bin_and_a_calibrated_map_has_no_error():
    counts = np.zeros(LEVELS + 1, np.int64)
    vessel, other = counts.copy(), counts.copy()
    vessel[LEVELS], other[0] = 5, 7
    bins = reliability(Histogram(vessel=vessel, other=other))
    assert [(0.0, 0.0, 7), (1.0, 1.0, 5)] == [(one.probability, one.vessel, one.pixels) for one in bins]
    assert 0 == calibration_error(bins)


def test_histograms_add_up():
    half = histogram(LEVELLED[:20], TRUTH[:20]) + histogram(LEVELLED[20:], TRUTH[20:])
    assert histogram(LEVELLED, TRUTH).at(0.5) == half.at(0.5)


def test_the_worst_come_first():
    judged = [
        Judged(name=name, score=Score(both=both, invented=10 - both, missed=10 - both))
        for name, both in (("a", 9), ("b", 2), ("c", 4))
    ]
    assert ["b", "c"] == [one.name for one in worst(judged, 2)]


# --------------------------------------------------------------------------------------------------------------- names


def test_a_mask_is_called_as_its_scan_with_something_behind():
    """What begins with a letter or a number belongs to another scan."""
    found = match(["Image_11L", "Image_1", "b", "alone"], ["Image_11L_1stHO", "Image_1", "b-manual", "c"])
    assert {"Image_11L": "Image_11L_1stHO", "Image_1": "Image_1", "b": "b-manual"} == dict(found.pairs)
    assert (("alone",), ("c",), {}) == (found.images, found.masks, dict(found.ambiguous))


def test_a_mask_belongs_to_the_scan_of_the_longest_name():
    """`a_1_manual` is no mask of `a`, where there is a scan `a_1`; and no two scans share one."""
    found = match(["a", "a_1"], ["a_1_manual"])
    assert ({"a_1": "a_1_manual"}, ("a",)) == (dict(found.pairs), found.images)
    assert {"a": "a_manual", "a_1": "a_1"} == dict(match(["a", "a_1"], ["a_1", "a_manual"]).pairs)


def test_several_masks_need_a_suffix():
    masks = ["a_1stHO", "a_2ndHO"]
    assert {"a": ("a_1stHO", "a_2ndHO")} == dict(match(["a"], masks).ambiguous)
    assert {"a": "a_2ndHO"} == dict(match(["a"], masks, "_2ndHO").pairs)
    assert {"a": "a"} == dict(match(["a"], ["a", "a_2ndHO"]).pairs)


def test_a_suffix_is_taken_to_the_letter():
    assert {"a": "amask"} == dict(match(["a"], ["amask"], "mask").pairs)
    assert ("a",) == match(["a"], ["a_mask"], "mask").images
