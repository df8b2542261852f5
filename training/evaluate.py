"""Score a model folder: ``python -m training.evaluate --model FOLDER --chase FOLDER``.

Dice inside the field of view on CHASE_DB1's test children and on made-up scenes by difficulty, at the model's own
operating points, through the segmenter that the service uses; and how far its probabilities can be believed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.data import IGNORE, TEST, VESSEL, Part, chase, scored_parts
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.vessel.segmenter import VesselSegmenter
from watcherd.job import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synth import Kind

    Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A picture with its truth; ``counted``: the pixels that are scored."""

    name: str
    kind: Kind
    pixels: NDArray[np.uint8]
    mask: Mask
    counted: Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A case with the model's probabilities and its mask at 0.5."""

    case: Case
    probability: NDArray[np.float32]
    mask: Mask


def dice(mask: Mask, truth: Mask, counted: Mask) -> float:
    """2 |A and B| / (|A| + |B|) over the counted pixels; 1 where both are empty."""
    total = int((mask & counted).sum() + (truth & counted).sum())
    return 2 * int((mask & truth & counted).sum()) / total if total else 1.0


def photographs(folder: Path, children: range) -> list[Case]:
    """CHASE_DB1, inside the field of view that comes with it."""
    return [
        Case(name=item.name, kind="fundus", pixels=item.rgb, mask=item.mask, counted=item.field)
        for item in chase(folder, children)
    ]


def scenes(part: Part, folder: Path) -> list[Case]:
    """Made-up pictures, without the pixels that nobody could judge."""
    images, labels = part.read(folder)
    return [
        Case(
            name=f"{part.name}-{index}",
            kind=part.kind,
            pixels=image,
            mask=(label & VESSEL) > 0,
            counted=(label & IGNORE) == 0,
        )
        for index, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def loaded(folder: Path, device: str) -> VesselSegmenter:
    """The segmenter as a replica would have it."""
    segmenter = VesselSegmenter(folder)
    segmenter.load(Placement(devices=(device,), device_map={"": device}), lambda _stage, _done: None)
    return segmenter


def judge(segmenter: VesselSegmenter, groups: list[list[Case]]) -> list[list[Judged]]:
    """The model's answers, one picture at a time."""
    return [[_judged(segmenter, case) for case in group] for group in groups]


def _judged(segmenter: VesselSegmenter, case: Case) -> Judged:
    [prediction] = segmenter.predict([Frame(pixels=case.pixels, options=Options(kind=case.kind))])
    assert prediction.probability is not None
    assert prediction.mask is not None
    return Judged(case=case, probability=prediction.probability, mask=prediction.mask > 0)


def calibrate(logits: NDArray[np.float32], truth: Mask) -> tuple[float, float]:
    """Slope and shift: ``sigmoid(slope * (logit - shift))`` is how often such pixels are vessel (Platt's scaling)."""
    from scipy.optimize import minimize
    from scipy.special import log_expit

    target = truth.astype(np.float64)

    def surprise(line: NDArray[np.float64]) -> float:
        value = line[0] * (logits - line[1])
        return -float(np.mean(target * log_expit(value) + (1 - target) * log_expit(-value)))

    slope, shift = minimize(surprise, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(slope), float(shift)


def reliability(items: list[Judged], bins: int = 10) -> list[dict[str, float]]:
    """For each tenth of probability: its mean, the share of its pixels that are vessel, how many pixels it has."""
    probability = np.concatenate([item.probability[item.case.counted] for item in items])
    truth = np.concatenate([item.case.mask[item.case.counted] for item in items])
    index = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "mean": round(float(probability[index == b].mean()), 3),
            "vessel": round(float(truth[index == b].mean()), 3),
            "pixels": int((index == b).sum()),
        }
        for b in range(bins)
        if (index == b).any()
    ]


def report(folder: Path, chase_folder: Path, scenes_folder: Path, *, device: str) -> dict[str, object]:
    """All the figures of the model card."""
    segmenter = loaded(folder, device)
    [test] = judge(segmenter, [photographs(chase_folder, TEST)])
    each = {item.case.name: round(_dice_of(item), 4) for item in test}
    made_up: dict[str, float] = {}
    kinds: tuple[Kind, ...] = ("xray", "fundus")
    for part in (part for kind in kinds for part in scored_parts(kind)):
        [items] = judge(segmenter, [scenes(part, scenes_folder)])
        made_up[part.name] = round(float(np.mean([_dice_of(item) for item in items])), 4)
    mean = round(float(np.mean(list(each.values()))), 4)
    return {"chase_test_mean": mean, "chase_test": each, "synthetic_test": made_up, "reliability": reliability(test)}


def _dice_of(item: Judged) -> float:
    return dice(item.mask, item.case.mask, item.case.counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, required=True, help="folder that training.generate wrote")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file; the terminal when left out")
    given = parser.parse_args()
    text = json.dumps(report(given.model, given.chase, given.scenes, device=given.device), indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
