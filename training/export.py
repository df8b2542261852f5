"""Make a model folder from trained weights: ``python -m training.export --weights RUN.safetensors --out FOLDER``.

Several weights make an ensemble; ``--fundus`` and ``--xray`` say which of them each kind of image is shown to.
Weights are kept in half precision (the file is half as large, masks differ in a few pixels of a thousand).

The operating point of each kind is chosen here, on validation pictures only: the threshold and the smallest part whose
mean Dice there is the best. The same weights give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from training.evaluate import best_point, judge, loaded, validation
from training.synth import Kind, make
from watcherd.inference.base import Frame
from watcherd.inference.segmenters.vessel.recipe import CONFIG, FORMAT, WEIGHTS
from watcherd.job import Options

SIDES: dict[Kind, list[int]] = {"xray": [256, 384], "fundus": [512, 640]}
GOLDEN_SEED = 3_000_004


def configuration(network: dict[str, Any], members: dict[Kind, list[int]]) -> dict[str, Any]:
    """A ``config.json`` whose operating points are not chosen yet."""
    kinds = {
        kind: {"members": members[kind], "sides": SIDES[kind], "shift": 0.0, "smallest": 0.0}
        for kind in sorted(members)
    }
    count = 1 + max(member for chosen in members.values() for member in chosen)
    return {
        "format": FORMAT, "name": "watcherd-vessel", "architecture": "SegResNet", "network": network,
        "members": count, "window": 768, "overlap": 0.25, "kinds": kinds,
    }  # fmt: skip


def write(folder: Path, weights: list[Path], config: dict[str, Any]) -> None:
    """The two files of a model folder; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{member}.{name}": tensor.half()
        for member, path in enumerate(weights)
        for name, tensor in sorted(load_file(path).items())
    }
    save_file(tensors, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def choose(folder: Path, chase: Path, scenes: Path, *, device: str) -> dict[str, Any]:
    """Find and write the operating points; returns what they reached on validation."""
    config = json.loads((folder / CONFIG).read_text())
    segmenter = loaded(folder, device)
    reached: dict[str, Any] = {}
    kinds: tuple[Kind, ...] = ("fundus", "xray")
    for kind in kinds:
        groups = judge(segmenter, validation(kind, chase, scenes))
        point = best_point(groups)
        config["kinds"][kind] |= {"shift": round(point.logit, 4), "smallest": point.smallest}
        reached[kind] = {"validation_dice": round(point.dice, 4), "threshold": round(point.threshold, 4)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return reached


def write_golden(folder: Path) -> None:
    """A made-up angiogram and the model's own mask of it."""
    image = make("xray", GOLDEN_SEED, size=256).image
    options = Options(kind="xray")
    [prediction] = loaded(folder, "cpu").predict([Frame(pixels=image, options=options)])
    assert prediction.mask is not None
    Image.fromarray(image).save(folder / "golden.png", optimize=True)
    Image.fromarray(prediction.mask * np.uint8(255)).save(folder / "golden-mask.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="what training.train wrote (its .json beside it)"
    )
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fundus", type=int, nargs="+", default=[0], help="members that see photographs")
    parser.add_argument("--xray", type=int, nargs="+", default=[0], help="members that see X-ray frames")
    parser.add_argument("--scenes", type=Path, required=True, help="folder that training.generate wrote")
    given = parser.parse_args()
    network = json.loads(given.weights[0].with_suffix(".json").read_text())["network"]
    write(given.out, given.weights, configuration(network, {"fundus": given.fundus, "xray": given.xray}))
    reached = choose(given.out, given.chase, given.scenes, device=given.device)
    write_golden(given.out)
    digest = hashlib.sha256((given.out / WEIGHTS).read_bytes()).hexdigest()
    print(json.dumps({"sha256": digest, **reached}, indent=2))


if __name__ == "__main__":
    main()
