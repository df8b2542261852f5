"""How good masks are: compared with masks that somebody drew. Pure.

Truth is only ever read here and in ``watcherd evaluate``: no part that makes results knows of it.

The figures, with TP, FP and FN pixels that are vessel in both, in the mask only, and in the truth only:
Dice = 2 TP / (2 TP + FP + FN) (L. R. Dice, Ecology 26, 1945), IoU = TP / (TP + FP + FN) (P. Jaccard, 1901),
precision = TP / (TP + FP), recall = TP / (TP + FN). A figure without a denominator is 1: where neither mask nor truth
holds anything they agree.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Counts = NDArray[np.int64]

Unit = Literal["px", "mm"]
"""Unit of lengths: mm where a pixel's size is known."""

LEVELS = 65535
"""Probabilities come as whole numbers, of which this is certainty."""

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Where a sweep looks: 0.05 to 0.95."""

BINS = 10
"""Of the reliability plot."""

FEW_VALUES = 32
"""A mask with more values than that is a picture of a mask, a JPEG for example: its brighter half counts. With fewer
they are labels, and everything but 0 counts."""

FIGURES = ("dice", "iou", "precision", "recall")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Pixels counted over one scan: vessel in both, in the mask only, in the truth only."""

    both: int
    invented: int
    missed: int

    @property
    def dice(self) -> float:
        return _ratio(2 * self.both, 2 * self.both + self.invented + self.missed)

    @property
    def iou(self) -> float:
        return _ratio(self.both, self.both + self.invented + self.missed)

    @property
    def precision(self) -> float:
        return _ratio(self.both, self.both + self.invented)

    @property
    def recall(self) -> float:
        return _ratio(self.both, self.both + self.missed)

    def figures(self) -> dict[str, float]:
        """By the names in `FIGURES`."""
        return {name: getattr(self, name) for name in FIGURES}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def compare(mask: Mask, truth: Mask, counted: Mask | None = None) -> Score:
    """Count a scan's pixels; arrays of one shape. ``counted``: which pixels are judged at all; None: all."""
    if counted is not None:
        mask, truth = mask & counted, truth & counted
    both = int(np.count_nonzero(mask & truth))
    return Score(both=both, invented=int(np.count_nonzero(mask)) - both, missed=int(np.count_nonzero(truth)) - both)


def as_mask(pixels: NDArray[Any]) -> Mask:
    """A drawn mask as true and false, whatever it is stored as: 0 and 1, 0 and 255, labels, colours, or a JPEG.

    ``pixels``: (..., height, width) grey, or the same with 3 channels at the end, of which the brightest counts.
    """
    grey = brightest(pixels)
    found: Mask = grey > level_of(np.bincount(grey.ravel(), minlength=256))
    return found


def brightest(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey pixels as they are, of 3 channels at the end the largest."""
    grey: NDArray[Any] = pixels.max(axis=-1) if pixels.ndim >= 3 and pixels.shape[-1] == 3 else pixels
    return grey


def level_of(counts: NDArray[np.intp]) -> float:
    """Above which value a mask's pixels count, by how often each value occurs: half of the highest in a soft one."""
    values = np.flatnonzero(counts)
    return float(values[-1] / 2) if len(values) > FEW_VALUES else 0.0


# --------------------------------------------------------------------------------------------- probabilities and sweeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many judged pixels have which probability, apart by the truth: all that a sweep and a reliability plot need.

    ``vessel``, ``other``: counts for each of the 65,536 values. ``probability`` is value / 65535.
    """

    vessel: Counts
    other: Counts

    def __add__(self, more: Histogram) -> Histogram:
        return Histogram(vessel=self.vessel + more.vessel, other=self.other + more.other)

    def at(self, threshold: float) -> Score:
        """What the mask of all pixels with a probability greater than ``threshold`` scores, without any clean-up."""
        first = int(np.floor(threshold * LEVELS)) + 1
        both, invented = int(self.vessel[first:].sum()), int(self.other[first:].sum())
        return Score(both=both, invented=invented, missed=int(self.vessel[:first].sum()))


def histogram(probability: NDArray[np.uint16], truth: Mask, counted: Mask | None = None) -> Histogram:
    """Count a scan's pixels by their probability."""
    judged = np.ones_like(truth) if counted is None else counted
    vessel, other = (
        np.bincount(probability[judged & which], minlength=LEVELS + 1).astype(np.int64) for which in (truth, ~truth)
    )
    return Histogram(vessel=vessel, other=other)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A threshold of a sweep and the means over all scans."""

    threshold: float
    dice: float
    iou: float
    precision: float
    recall: float


def sweep(scans: Sequence[Sequence[Score]], thresholds: Sequence[float] = THRESHOLDS) -> list[Point]:
    """Mean figures over the scans at each threshold. ``scans``: what `Histogram.at` says of each at each threshold."""
    points = []
    for place, threshold in enumerate(thresholds):
        means = {name: statistics.fmean(getattr(scores[place], name) for scores in scans) for name in FIGURES}
        points.append(Point(threshold=threshold, **means))
    return points


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Pixels of similar probability: the mean of it, the share that is vessel, and how many there are."""

    probability: float
    vessel: float
    pixels: int


def reliability(pixels: Histogram, bins: int = BINS) -> list[Bin]:
    """Pixels by probability in ``bins`` equal steps (M. H. DeGroot, S. E. Fienberg, The Statistician 32, 1983).

    Empty bins are left out. Of a calibrated map every share equals its probability.
    """
    values = np.arange(LEVELS + 1)
    which = np.minimum(values * bins // LEVELS, bins - 1)
    total = pixels.vessel + pixels.other
    found = []
    for index in range(bins):
        chosen = which == index
        if count := int(total[chosen].sum()):
            mean = float((total[chosen] * values[chosen]).sum() / count / LEVELS)
            found.append(Bin(probability=mean, vessel=float(pixels.vessel[chosen].sum() / count), pixels=count))
    return found


def calibration_error(found: Sequence[Bin]) -> float:
    """The mean distance of share and probability, each bin by its pixels (M. P. Naeini and others, AAAI 2015)."""
    total = sum(one.pixels for one in found)
    return sum(one.pixels * abs(one.vessel - one.probability) for one in found) / total


# ----------------------------------------------------------------------------------------------------------- summaries


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One scan with its score.

    ``figures``: those beyond counts of pixels, by name; None where there is nothing to be measured. ``unit``: of those
    that are lengths. ``group``: scans of one group are not independent of one another. ``classes``: the same of each
    label that the mask or the drawn one has, where both are label maps.
    """

    name: str
    score: Score
    figures: Mapping[str, float | None] = field(default_factory=dict)
    unit: Unit = "px"
    group: str = ""
    classes: Mapping[int, Judged] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """Any figure by its name; None where this scan has none."""
        return float(getattr(self.score, name)) if name in FIGURES else self.figures.get(name)


def worst(judged: Sequence[Judged], count: int) -> list[Judged]:
    """The scans of the lowest Dice, the lowest first."""
    return sorted(judged, key=lambda one: (one.score.dice, one.name))[:count]


# --------------------------------------------------------------------------------------------------------------- names


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Images and masks by their names: ``pairs`` from an image to its mask, and what stands alone."""

    pairs: Mapping[str, str]
    images: tuple[str, ...]
    masks: tuple[str, ...]
    ambiguous: Mapping[str, tuple[str, ...]]


def match(images: Sequence[str], masks: Sequence[str], suffix: str | None = None) -> Matched:
    """Which mask belongs to which image. All names are without extension.

    A mask is called as its image, or as its image with something behind that does not begin with a letter or a number
    (``Image_11L``, ``Image_11L_1stHO``); of several such images it is that of the longest name. ``suffix``: what stands
    behind every image's name, to the letter. An image with several masks is ambiguous, unless one has its very name.
    """
    known = set(images)
    found: dict[str, list[str]] = {}
    alone = []
    for mask in sorted(set(masks)):
        owner = _owner(mask, known, suffix)
        if owner is None:
            alone.append(mask)
        else:
            found.setdefault(owner, []).append(mask)
    pairs, ambiguous = {}, {}
    for image, several in found.items():
        if len(several) == 1 or image in several:
            pairs[image] = image if image in several else several[0]
        else:
            ambiguous[image] = tuple(several)
    return Matched(
        pairs={image: pairs[image] for image in images if image in pairs},
        images=tuple(sorted(known - found.keys())),
        masks=tuple(alone),
        ambiguous=ambiguous,
    )


def _owner(mask: str, images: Collection[str], suffix: str | None) -> str | None:
    """The image that a mask is called after."""
    if suffix is not None:
        image = mask.removesuffix(suffix)
        return image if mask.endswith(suffix) and image in images else None
    ends = [end for end in range(len(mask), 0, -1) if not mask[end : end + 1].isalnum()]
    return next((mask[:end] for end in ends if mask[:end] in images), None)
