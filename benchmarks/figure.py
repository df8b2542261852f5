"""One line of the table, what it must reach, and how it grows."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is asked of a figure: at least ``least``, or at most ``most``."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        if self.least is not None:
            return f"at least {self.least:,g}"
        return f"at most {self.most:,g}"

    def verdict(self, value: float) -> str:
        """``ok``, or ``MISSED`` and by how much of the target."""
        limit = self.least if self.least is not None else self.most
        assert limit is not None
        if value >= limit if self.least is not None else value <= limit:
            return "ok"
        return f"MISSED by {100 * abs(value - limit) / limit:.0f} %"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What was measured. ``values``: one for each run; none where that was not possible: ``definition`` says why.

    ``overall``: the figure itself where it is not their median, as the ratio of all runs' times is not that of the
    ratios. ``points``: for a slope, what was measured at each place of the axis ``against``, run by run; ``values`` are
    then the slopes of the runs.
    """

    name: str
    unit: str
    values: Sequence[float]
    definition: str
    target: Target | None = None
    overall: float | None = None
    against: str = ""
    of: str = ""
    points: Mapping[float, Sequence[float]] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        """Of the runs."""
        return statistics.median(self.values) if self.values else None

    @property
    def value(self) -> float | None:
        """What the table shows."""
        return self.median if self.overall is None else self.overall

    @property
    def verdict(self) -> str:
        """Whether the target is reached, and by how much not."""
        if self.target is None:
            return ""
        return "not measured" if self.value is None else self.target.verdict(self.value)

    def as_json(self) -> dict[str, Any]:
        """Everything that is known of it."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "median": self.median,
            "smallest": min(self.values, default=None),
            "largest": max(self.values, default=None),
            "values": list(self.values),
            "definition": self.definition,
            "target": str(self.target) if self.target else "",
            "verdict": self.verdict,
            "against": self.against,
            "of": self.of,
            "points": {f"{place:g}": list(values) for place, values in self.points.items()},
        }


def slope(
    name: str, unit: str, points: Mapping[float, Sequence[float]], *, of: str, against: str, definition: str
) -> Figure:
    """How ``of`` grows with ``against``: a straight line through each run's points by least squares."""
    runs = zip(*points.values(), strict=True)
    values = [statistics.linear_regression(list(points), run).slope for run in runs]
    where = ", ".join(f"{place:g}: {number(statistics.median(values))}" for place, values in points.items())
    return Figure(
        name=name,
        unit=unit,
        values=values,
        definition=f"{definition}; {of} at {against} {where}",
        against=against,
        of=of,
        points=points,
    )


def number(value: float) -> str:
    """With as many digits as say something."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def quantile(values: Sequence[float], place: float) -> float:
    """The value below which the fraction ``place`` lies, itself one of the values."""
    return sorted(values)[min(len(values) - 1, math.ceil(place * len(values)) - 1)]
