"""How well and how fast the weightless segmenter finds vessels: Dice inside the field of view, seconds for a frame.

    python benchmarks/vesselness_dice.py FOLDER [--children 11-14]

FOLDER is laid out as CHASE_DB1 is distributed by this project: ``images/Image_11L.jpg``, ``masks/Image_11L.png`` and
``fov/Image_11L.gif``. Children 01 to 10 were used for tuning; 11 to 14 were not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from watcherd.config import Model
from watcherd.inference.base import Frame
from watcherd.inference.segmenters.vesselness import create
from watcherd.job import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum; 1 for two empty masks."""
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def measure(folder: Path, names: list[str], threshold: float) -> dict[str, object]:
    """Dice for each image against the first reader, and seconds for one prediction."""
    segmenter = create(Model())
    scores, seconds = {}, []
    for name in names:
        pixels = np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB"))
        truth = np.asarray(Image.open(folder / "masks" / f"{name}.png").convert("L")) > 127
        field = np.asarray(Image.open(folder / "fov" / f"{name}.gif").convert("L")) > 127
        began = time.perf_counter()
        (prediction,) = segmenter.predict([Frame(pixels=pixels, options=Options(threshold=threshold))])
        seconds.append(time.perf_counter() - began)
        assert prediction.mask is not None
        scores[name] = dice((prediction.mask > 0) & field, truth & field)
    return {"dice": scores, "mean_dice": mean(scores.values()), "median_seconds": median(seconds)}


def speed(sides: tuple[int, ...] = (300, 512, 1000)) -> dict[int, float]:
    """Median seconds for one grey frame of noise, by its side, after a first one."""
    segmenter = create(Model())
    result = {}
    for side in sides:
        pixels = np.random.default_rng(0).integers(60, 160, (side, side)).astype(np.uint8)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            segmenter.predict([Frame(pixels=pixels, options=Options())])
            times.append(time.perf_counter() - began)
        result[side] = median(times[1:])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--children", default="11-14", help="first and last, for example 11-14")
    parser.add_argument("--threshold", type=float, default=0.5)
    arguments = parser.parse_args()
    first, last = (int(part) for part in arguments.children.split("-"))
    names = [f"Image_{child:02d}{eye}" for child in range(first, last + 1) for eye in "LR"]
    print(json.dumps({**measure(arguments.folder, names, arguments.threshold), "seconds": speed()}, indent=1))


if __name__ == "__main__":
    main()
