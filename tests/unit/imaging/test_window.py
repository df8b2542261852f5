"""Values of any range become 0 to 255 through one window that is stated."""

from __future__ import annotations

import numpy as np
import pytest

from watcherd.imaging.readers.window import Survey, Window


def window_of(*frames: np.ndarray) -> Window:
    survey = Survey()
    for frame in frames:
        survey.add(frame)
    return survey.window()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_a_ramp_keeps_its_order_and_uses_the_whole_range(dtype):
    ramp = np.arange(0, 4096).astype(dtype)
    shown = window_of(ramp).apply(ramp)
    assert (shown[0], shown[-1]) == (0, 255)
    assert (np.diff(shown.astype(int)) >= 0).all()
    assert len(np.unique(shown)) == 256


def test_a_few_hot_pixels_do_not_darken_the_rest():
    values = np.tile(np.arange(0, 4096, dtype=np.uint16), 4)
    values[:3] = 65535
    found = window_of(values)
    assert found.high < 4200


def test_a_few_bright_pixels_on_black_are_all_there_is_and_stay_visible():
    values = np.zeros(100_000, np.uint16)
    values[:10] = 700
    found = window_of(values)
    assert (found.low, found.high) == (0.0, 700.0)
    assert found.apply(values)[:11].tolist() == [255] * 10 + [0]


@pytest.mark.parametrize(
    ("value", "expected"), [(np.uint16(0), 0), (np.uint16(65535), 255), (np.float32(0.5), 128), (np.int16(0), 128)]
)
def test_a_scan_of_one_value_is_shown_by_its_place_in_the_types_range(value, expected):
    values = np.full((8, 8), value)
    assert np.unique(window_of(values).apply(values)).tolist() == [expected]


def test_the_window_counts_all_frames():
    dark, bright = np.full(1000, 100, np.uint16), np.full(1000, 900, np.uint16)
    assert window_of(dark, bright) == Window(low=100.0, high=900.0)


def test_values_of_any_size_do_not_overflow():
    values = np.array([-1.7e308, 0, 1.7e308])
    assert Window(low=-1.7e308, high=1.7e308).apply(values).tolist() == [0, 128, 255]


def test_the_table_for_large_frames_equals_the_arithmetic_for_small_ones():
    values = np.random.default_rng(0).integers(0, 65535, (300, 300), np.uint16)
    window = Window(low=1000.0, high=40000.0)
    rows = [window.apply(row) for row in values]
    assert np.array_equal(np.stack(rows), window.apply(values))
