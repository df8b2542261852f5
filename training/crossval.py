"""Score the real angiograms, each by networks that did not see its block: ``python -m training.crossval --help``.

The view, the threshold and the smallest part of a block's masks are chosen on the other blocks, by the answers of the
networks that did not see these. Nothing is chosen on what is scored.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage.morphology import skeletonize

from training.answers import VIEWS, kept
from training.data import BLOCKS, Angiogram, angiograms
from watcherd.inference.segmenters.vessel.picture import field_of
from watcherd.inference.segmenters.vessel.segmenter import cleaned, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Logits = NDArray[np.float32]

THRESHOLDS = tuple(round(0.3 + 0.05 * step, 3) for step in range(10))
SMALLEST = (0.0, 0.0005, 0.001, 0.002)
SHIPPED = VIEWS.index((384, False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What is chosen: the view's number, the threshold, the smallest part as a share of the field."""

    view: int
    threshold: float
    smallest: float


def every_view(runs: Path, kinds: list[str]) -> dict[str, Logits]:
    """The mean of these kinds' logits (views, h, w) for each frame, of the networks that did not see it."""
    each = [
        {name: logits for block in range(BLOCKS) for name, logits in kept(runs / f"{kind}-xray{block}.npz").items()}
        for kind in kinds
    ]
    return {name: np.mean([found[name] for found in each], axis=0, dtype=np.float32) for name in each[0]}


def answers_of(runs: Path, kinds: list[str]) -> dict[str, Logits]:
    """The same at the shipped side alone, (h, w)."""
    return {name: logits[SHIPPED] for name, logits in every_view(runs, kinds).items()}


def mask_of(frame: Angiogram, logits: Logits, point: Point) -> Mask:
    """As the segmenter makes it."""
    field = within(field_of(frame.image, "xray"), frame.mask.shape)
    border = np.log(point.threshold / (1 - point.threshold))
    return cleaned(logits[point.view] > border, field, smallest=point.smallest)


def dice(one: Mask, other: Mask) -> float:
    return 2 * float((one & other).sum()) / max(1.0, float(one.sum() + other.sum()))


def cl_dice(mask: Mask, truth: Mask) -> float:
    """Shit et al., CVPR 2021: the harmonic mean of how much of each centre line lies in the other mask."""
    lines = skeletonize(mask), skeletonize(truth)
    precision, recall = (
        float((line & into).sum() / max(1, line.sum())) for line, into in zip(lines, (truth, mask), strict=True)
    )
    return 2 * precision * recall / max(1e-9, precision + recall)


def mean_width(mask: Mask) -> float:
    """Pixels of the mask over pixels of its centre line."""
    return float(mask.sum() / max(1, skeletonize(mask).sum()))


def choose(frames: list[Angiogram], answers: dict[str, Logits]) -> Point:
    """The best mean Dice; the smallest part after the view and the threshold."""
    views = range(len(VIEWS))
    points = [Point(view=view, threshold=each, smallest=0.0) for view in views for each in THRESHOLDS]
    best = max(points, key=lambda point: _mean_dice(frames, answers, point))
    last = [Point(view=best.view, threshold=best.threshold, smallest=smallest) for smallest in SMALLEST]
    return max(last, key=lambda point: _mean_dice(frames, answers, point))


def _mean_dice(frames: list[Angiogram], answers: dict[str, Logits], point: Point) -> float:
    return float(np.mean([dice(mask_of(frame, answers[frame.name], point), frame.mask) for frame in frames]))


def scores(frame: Angiogram, mask: Mask) -> dict[str, float]:
    """Figures of one mask; widths in pixels."""
    both = float((mask & frame.mask).sum())
    return {
        "dice": dice(mask, frame.mask),
        "cl_dice": cl_dice(mask, frame.mask),
        "precision": both / max(1, mask.sum()),
        "recall": both / max(1, frame.mask.sum()),
        "width": mean_width(mask),
        "drawn": mean_width(frame.mask),
    }


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([each[key] for each in found])), 4) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="what training.run wrote to --out")
    parser.add_argument("--kinds", nargs="+", required=True, help="of networks whose answers are averaged")
    parser.add_argument("--coronary", type=Path, required=True)
    given = parser.parse_args()
    frames, answers = angiograms(given.coronary), every_view(given.runs, given.kinds)
    found: dict[str, dict[str, float]] = {}
    for block in range(BLOCKS):
        point = choose([frame for frame in frames if frame.block != block], answers)
        scored = [frame for frame in frames if frame.block == block]
        found |= {frame.name: scores(frame, mask_of(frame, answers[frame.name], point)) for frame in scored}
        print(
            block, VIEWS[point.view], point.threshold, point.smallest, mean_of([found[frame.name] for frame in scored])
        )
    print(json.dumps({"mean": mean_of(list(found.values())), "each": found}, indent=1))


if __name__ == "__main__":
    main()
