"""A mask is seen on every scan, and the scan under it."""

from __future__ import annotations

import numpy as np
import pytest

from watcherd.imaging.results.overlay import COLOURS, grown, overlay

LABELS = np.zeros((60, 80), np.uint8)
LABELS[20:40, 30:50] = 1


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """WCAG 2 contrast ratio of two colours, 1 to 21."""

    def luminance(colour: np.ndarray) -> float:
        parts = colour / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("grey", [0, 40, 90, 128, 170, 215, 255])
def test_the_outline_stands_out_from_every_grey(grey):
    """On dark scans by its own brightness, on bright ones by the halo beside it: 3 is what WCAG asks of graphics."""
    for thickness, edge in ((None, 30), (1, 29)):
        drawn = overlay(np.full((60, 80), grey, np.uint8), LABELS, thickness=thickness).astype(float)
        line, halo, scan = drawn[30, edge], drawn[30, edge - 1], drawn[5, 5]
        assert np.array_equal(COLOURS[0], line)
        assert max(contrast(line, scan), contrast(halo, scan)) >= 3


def test_the_scan_shows_through_the_tint_and_is_untouched_elsewhere():
    scan = np.random.default_rng(0).integers(0, 255, LABELS.shape, np.uint8)
    drawn = overlay(scan, LABELS, thickness=1)
    inside = drawn[20:40, 30:50, 0].ravel()
    assert np.corrcoef(inside, scan[20:40, 30:50].ravel())[0, 1] > 0.99
    assert np.array_equal(np.repeat(scan[:15, :, np.newaxis], 3, axis=2), drawn[:15])


def test_colour_scans_stay_coloured_and_are_not_written_to():
    scan = np.full((60, 80, 3), (200, 80, 20), np.uint8)
    before = scan.copy()
    drawn = overlay(scan, LABELS)
    assert drawn[0, 0].tolist() == [200, 80, 20]
    assert np.array_equal(before, scan)


def test_each_label_has_its_colour():
    labels = np.zeros((60, 200), np.uint8)
    for value in range(1, 9):
        labels[20:40, value * 20 : value * 20 + 8] = value
    drawn = overlay(np.zeros(labels.shape, np.uint8), labels, thickness=1)
    seen = [tuple(drawn[30, value * 20 - 1].tolist()) for value in range(1, 9)]
    assert [*COLOURS, COLOURS[0]] == seen


def test_the_line_grows_with_the_scan():
    def width(side: int) -> int:
        labels = np.zeros((side, side), np.uint8)
        labels[side // 4 : side // 2, side // 4 : side // 2] = 1
        row = overlay(np.zeros((side, side), np.uint8), labels)[side // 3]
        return int((row[: side // 4] == COLOURS[0]).all(axis=1).sum())

    assert [width(512), width(1000), width(2000)] == [1, 2, 4]


def test_in_small_scans_the_line_lies_on_the_masks_own_edge():
    """A line beside vessels of two pixels would hide what is between them."""
    scan = np.full((200, 200), 128, np.uint8)
    labels = np.zeros((200, 200), np.uint8)
    labels[50:60, 20:180] = labels[70:72, 20:180] = 1
    column = overlay(scan, labels)[:, 100]
    coloured = [row for row in range(200) if len(set(column[row].tolist())) > 1]
    assert [*range(50, 60), 70, 71] == coloured
    assert all(tuple(column[row]) == COLOURS[0] for row in (50, 59, 70, 71))
    assert tuple(column[55]) != COLOURS[0]


@pytest.mark.parametrize("fill", [0, 1])
def test_an_empty_and_a_full_mask_can_be_drawn(fill):
    drawn = overlay(np.full((5, 7), 100, np.uint8), np.full((5, 7), fill, np.uint8))
    assert drawn.shape == (5, 7, 3)
    assert (fill == 0) == bool((drawn == 100).all())


def test_growing_is_nearly_round():
    point = np.zeros((31, 31), bool)
    point[15, 15] = True
    disc = grown(point, 8)
    assert disc[15, 7]
    assert not disc[15, 6]
    assert not disc[7, 7]
