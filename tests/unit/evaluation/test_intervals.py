"""Intervals and differences, against textbook formulas and SciPy's own bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from watcherd.evaluation.intervals import Bootstrap, bland_altman, difference

CHANCE = np.random.default_rng(5)
VALUES = CHANCE.normal(0.8, 0.05, 40).tolist()
EACH = [str(place) for place in range(40)]


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap() -> None:
    """Within the chance of 10,000 resamples."""
    expected = stats.bootstrap((VALUES,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    found = Bootstrap(EACH).of_mean(VALUES)
    assert found is not None
    assert expected.confidence_interval.low == pytest.approx(found.low, abs=6e-4)
    assert expected.confidence_interval.high == pytest.approx(found.high, abs=6e-4)


def test_the_same_scans_give_the_same_interval() -> None:
    assert Bootstrap(EACH).of_mean(VALUES) == Bootstrap(EACH).of_mean(VALUES)


def test_frames_of_one_patient_are_no_evidence_of_their_own() -> None:
    """Each value ten times over, in groups, has the interval of the values; apart, a far narrower one."""
    often = [value for value in VALUES for _ in range(10)]
    grouped = Bootstrap([name for name in EACH for _ in range(10)]).of_mean(often)
    apart = Bootstrap([str(place) for place in range(400)]).of_mean(often)
    once = Bootstrap(EACH).of_mean(VALUES)
    assert grouped is not None
    assert apart is not None
    assert once is not None
    assert (once.low, once.high) == pytest.approx((grouped.low, grouped.high), abs=1e-9)
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_scans_without_a_value_are_left_out_and_one_group_has_no_interval() -> None:
    with_gaps = [value if place % 2 else None for place, value in enumerate(VALUES)]
    found = Bootstrap(EACH).of_mean(with_gaps)
    assert found is not None
    assert found.low < np.mean(VALUES[1::2]) < found.high
    assert Bootstrap(["a"] * 3).of_mean([1.0, 2.0, 3.0]) is None
    assert Bootstrap(["a", "b"]).of_mean([1.0, None]) is None


def test_a_ratio_of_sums_weighs_scans_by_their_size() -> None:
    """As in cIoU; of scans of one size it is the mean."""
    found = Bootstrap(EACH).of_ratio([value * 10 for value in VALUES], [10.0] * 40)
    mean = Bootstrap(EACH).of_mean(VALUES)
    assert found is not None
    assert mean is not None
    assert (mean.low, mean.high) == pytest.approx((found.low, found.high))


def test_differences_are_paired() -> None:
    """What all scans have in common does not blur them; the test is SciPy's."""
    better = [value + 0.01 + noise for value, noise in zip(VALUES, CHANCE.normal(0, 0.01, 40), strict=True)]
    found = difference(better, VALUES, EACH)
    assert found is not None
    assert found.interval is not None
    assert 0 < found.interval.low < found.mean < found.interval.high < 0.02
    assert stats.wilcoxon(better, VALUES).pvalue == pytest.approx(found.p)
    assert found.p is not None
    assert found.p < 1e-3


def test_only_what_both_have_is_compared() -> None:
    found = difference([1.0, None, 3.0, 1.0], [0.0, 1.0, None, 1.0], list("abcd"))
    assert found is not None
    assert (2, 0.5) == (found.scans, found.mean)
    assert difference([None], [1.0], ["a"]) is None
    same = difference([1.0, 2.0], [1.0, 2.0], ["a", "b"])
    assert same is not None
    assert same.p is None


def test_groups_stand_in_the_test_once() -> None:
    one = [0.9, 0.8, 0.7, 0.9, 0.8, 0.75]
    found = difference(one, [0.5] * 6, ["a", "a", "b", "b", "c", "c"])
    assert found is not None
    assert (6, 3) == (found.scans, found.groups)
    assert stats.wilcoxon([0.35, 0.3, 0.275]).pvalue == pytest.approx(found.p)


def test_bland_altman_is_bias_and_limits_of_agreement() -> None:
    drawn = CHANCE.normal(100, 20, 30)
    measured = drawn + CHANCE.normal(3, 2, 30)
    found = bland_altman(measured.tolist(), drawn.tolist())
    gap = measured - drawn
    assert found is not None
    assert (gap.mean(), gap.mean() - 1.96 * gap.std(ddof=1), gap.mean() + 1.96 * gap.std(ddof=1)) == pytest.approx(
        (found.bias, found.low, found.high)
    )
    alone = bland_altman([3.0, None], [1.0, 2.0])
    assert alone is not None
    assert (1, 2.0, None, None) == (alone.scans, alone.bias, alone.low, alone.high)
    assert bland_altman([None], [1.0]) is None
