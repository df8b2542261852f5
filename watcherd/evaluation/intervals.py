"""How sure means over scans are, and differences between two sets of masks. Pure; the same scans give the same answer.

The bootstrap draws whole groups with replacement, and takes the percentiles of what it finds (B. Efron, R. J.
Tibshirani, "An introduction to the bootstrap", 1993, chapters 8 and 13): scans of one patient are not independent.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

RESAMPLES = 10_000
"""Resamples that an interval is made of."""

SEED = 0
"""Seed of the draws: an evaluation that is repeated says the same."""

CHUNK = 1 << 20
"""Draws of a group that are held at once."""

LEVEL = 95
"""Percent of the resamples that an interval holds."""

FEW_GROUPS = 10
"""Groups below which an interval says little: percentiles of so few are too narrow."""

LIMITS = 1.96
"""Standard deviations from the bias to the limits of agreement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    low: float
    high: float


class Bootstrap:
    """Means over scans in the same resamples for all figures. ``groups``: of each scan, whatever can be told apart."""

    def __init__(self, groups: Sequence[str]) -> None:
        order = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        self.groups = len(order)
        self._member = np.array([order[group] for group in groups], np.intp)

    def of_mean(self, values: Sequence[float | None]) -> Interval | None:
        """Of the mean over the scans that have a value; None with fewer than two groups that have any."""
        there = np.array([value is not None for value in values], bool)
        numbers = np.array([0.0 if value is None else value for value in values], np.float64)
        return self.of_ratio(numbers, there.astype(np.float64))

    def of_ratio(self, parts: Values | Sequence[float], wholes: Values | Sequence[float]) -> Interval | None:
        """Of the sum of ``parts`` over that of ``wholes``, each by scan."""
        above, below = self._by_group(parts), self._by_group(wholes)
        if np.count_nonzero(below) < 2:
            return None
        found = np.concatenate([_ratios(above[drawn], below[drawn]) for drawn in self._draws()])
        low, high = np.nanpercentile(found, [50 - LEVEL / 2, 50 + LEVEL / 2])
        return Interval(low=float(low), high=float(high))

    def _by_group(self, values: Values | Sequence[float]) -> Values:
        sums = np.zeros(self.groups)
        np.add.at(sums, self._member, np.asarray(values, np.float64))
        return sums

    def _draws(self) -> Iterator[NDArray[np.intp]]:
        """Which groups each resample holds, some resamples at a time."""
        chance = np.random.default_rng(SEED)
        rows = max(1, CHUNK // self.groups)
        sizes = (min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows))
        return (chance.integers(0, self.groups, (size, self.groups)) for size in sizes)


def _ratios(above: Values, below: Values) -> Values:
    """Of each resample; NaN where no scan drawn has a value."""
    parts, wholes = above.sum(axis=1), below.sum(axis=1)
    found: Values = np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of the same scans judged twice. ``mean``: of first less second. ``p``: of Wilcoxon's signed-rank test, two-sided.

    ``scans``: how many have both figures; ``groups``: how many stand in the test. ``p`` is None where none differ.
    """

    scans: int
    groups: int
    mean: float
    interval: Interval | None
    p: float | None


def difference(
    first: Sequence[float | None], second: Sequence[float | None], groups: Sequence[str]
) -> Difference | None:
    """Compare two lists of one figure, scan by scan; None where no scan has both.

    The test (F. Wilcoxon, Biometrics Bulletin 1, 1945) takes each group's mean difference once, and leaves out those
    of 0.
    """
    pairs = [
        (one - other, group)
        for one, other, group in zip(first, second, groups, strict=True)
        if one is not None and other is not None
    ]
    if not pairs:
        return None
    differences, of = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    by_group: dict[str, list[float]] = {}
    for value, group in pairs:
        by_group.setdefault(group, []).append(value)
    means = [statistics.fmean(values) for values in by_group.values()]
    return Difference(
        scans=len(pairs),
        groups=len(means),
        mean=statistics.fmean(differences),
        interval=Bootstrap(of).of_mean(differences),
        p=_wilcoxon(means),
    )


def _wilcoxon(means: Sequence[float]) -> float | None:
    from scipy.stats import wilcoxon  # a second to load

    apart = [mean for mean in means if mean]
    return float(wilcoxon(apart).pvalue) if apart else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """J. M. Bland and D. G. Altman's (Lancet 327, 1986): the mean of measured less drawn, and where 95 % of such
    differences lie if they are normal. ``low``, ``high``: None with fewer than two scans.
    """

    scans: int
    bias: float
    low: float | None
    high: float | None


def bland_altman(measured: Sequence[float | None], drawn: Sequence[float | None]) -> Agreement | None:
    """None where no scan has both."""
    apart = [one - other for one, other in zip(measured, drawn, strict=True) if one is not None and other is not None]
    if not apart:
        return None
    bias = statistics.fmean(apart)
    reach = LIMITS * statistics.stdev(apart) if len(apart) > 1 else None
    return Agreement(
        scans=len(apart),
        bias=bias,
        low=None if reach is None else bias - reach,
        high=None if reach is None else bias + reach,
    )
