"""What many scans come to: means with their intervals, and two sets of masks compared. Pure."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from watcherd.evaluation.figures import FIGURES
from watcherd.evaluation.frame_figures import OF_RUNS, SHAPES
from watcherd.evaluation.intervals import (
    FEW_GROUPS,
    Agreement,
    Bootstrap,
    Difference,
    Interval,
    bland_altman,
    difference,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.evaluation.figures import Judged

ALL: Final = (*FIGURES, *SHAPES, *OF_RUNS, "auc", "ap")
"""Figures by which a mask is better or worse, in the order in which they are shown."""

SWEPT: Final = (*FIGURES, *SHAPES)
"""Figures that a threshold changes."""

IN_UNITS: Final = frozenset({"hd95", "assd"})
"""Figures that are lengths: scans in mm and scans in pixels have no mean together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Of a figure over the ``scans`` that have it. ``interval``: None with fewer than two groups."""

    mean: float
    median: float | None
    interval: Interval | None
    scans: int
    unit: str = ""

    def as_json(self) -> dict[str, Any]:
        bounds = asdict(self.interval) if self.interval else {"low": None, "high": None}
        unit = {"unit": self.unit} if self.unit else {}
        return {"mean": self.mean, "median": self.median, **bounds, "scans": self.scans, **unit}


def summary(judged: Sequence[Judged]) -> dict[str, Mean]:
    """Every figure that any scan has, and those of the set: cIoU and gIoU.

    As in X. Lai and others, "LISA", CVPR 2024, and Sa2VA: ``ciou`` is all pixels in both over all pixels in either, so
    that large masks weigh more; ``giou`` is the mean of the scans' IoU, 1 where both are empty.
    """
    bootstrap = Bootstrap([one.group for one in judged])
    found: dict[str, Mean] = {}
    for name in ALL:
        for unit in _units(judged) if name in IN_UNITS else ("",):
            values = [one.value(name) if unit in ("", one.unit) else None for one in judged]
            if (mean := _mean(values, bootstrap, unit)) is not None:
                found[name if unit in ("", "px") or len(_units(judged)) == 1 else f"{name}_{unit}"] = mean
    both = [float(one.score.both) for one in judged]
    either = [float(one.score.both + one.score.invented + one.score.missed) for one in judged]
    if sum(either):
        interval = Bootstrap([one.group for one in judged]).of_ratio(both, either)
        found["ciou"] = Mean(mean=sum(both) / sum(either), median=None, interval=interval, scans=len(judged))
    found["giou"] = found["iou"]
    return found


def by_class(judged: Sequence[Judged]) -> dict[int, list[Judged]]:
    """Of each label the scans in which mask or drawn mask have it."""
    labels = sorted({label for one in judged for label in one.classes})
    return {label: [one.classes[label] for one in judged if label in one.classes] for label in labels}


def _units(judged: Sequence[Judged]) -> tuple[str, ...]:
    return tuple(sorted({one.unit for one in judged}, reverse=True))


def _mean(values: Sequence[float | None], bootstrap: Bootstrap, unit: str) -> Mean | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Mean(
        mean=statistics.fmean(there),
        median=statistics.median(there),
        interval=bootstrap.of_mean(values),
        scans=len(there),
        unit=unit,
    )


def extents(judged: Sequence[Judged]) -> dict[str, Agreement]:
    """Bland and Altman's bias and limits of ``length`` and ``width``, measured less drawn, by unit: ``length_px``."""
    found: dict[str, Agreement] = {}
    for unit in _units(judged):
        of = [one for one in judged if one.unit == unit]
        for name in ("length", "width"):
            own, drawn = ([one.figures.get(f"{name}{which}") for one in of] for which in ("", "_drawn"))
            if (agreement := bland_altman(own, drawn)) is not None:
                found[f"{name}_{unit}"] = agreement
    return found


def compared(first: Mapping[str, Judged], second: Mapping[str, Judged]) -> dict[str, Difference]:
    """First less second of each figure, over the scans that both have. Units are those of one scan, and so the same."""
    keys = [key for key in first if key in second]
    found: dict[str, Difference] = {}
    for name in ALL:
        own, others = ([side[key].value(name) for key in keys] for side in (first, second))
        if (one := difference(own, others, [first[key].group for key in keys])) is not None:
            found[name] = one
    return found


def most_apart(first: Mapping[str, Judged], second: Mapping[str, Judged], count: int) -> list[str]:
    """The keys of the scans whose Dice differs most."""
    gaps = {key: abs(first[key].score.dice - second[key].score.dice) for key in first if key in second}
    return [key for key in sorted(gaps, key=lambda key: (-gaps[key], key)) if gaps[key]][:count]


def doubts(judged: Sequence[Judged]) -> list[str]:
    """What a reader of the figures has to know of them."""
    said = []
    groups = len({one.group for one in judged})
    if groups < FEW_GROUPS:
        said.append(f"Groups of scans: {groups}. Intervals from fewer than {FEW_GROUPS} are too narrow.")
    for name in ("cldice", "hd95", "nsd", "length"):
        without = sum(1 for one in judged if one.value(name) is None and one.figures)
        if without:
            said.append(f"{name} is missing for {without} of {len(judged)} scans: {WHY[name]}.")
    return said


WHY: Final = {
    "cldice": "its masks are too large and solid to be thinned in time",
    "hd95": "one of the masks is empty, which is infinitely far, or its outline is too long",
    "nsd": "--tolerance is in mm and their pixels' size is not known, or their outlines are too long",
    "length": "its masks are too large and solid to be thinned in time",
}
