"""Make a model folder from trained weights: ``python -m training.export --help``.

Normalisation is folded into the convolutions, and these are kept as whole numbers of 8 bits with a scale for each of
their outputs. The same weights give the same bytes.

Probabilities are made frequencies here: for photographs on the validation children, for X-rays on the answers of the
cross-validation, which are of networks that did not see the frame. Then the map is moved a little, so that the border
of the best masks reads 0.5: Dice is best where a pixel is vessel somewhat less often than every second time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from training.crossval import answers_of
from training.data import VALIDATION, angiograms
from training.evaluate import calibrate, judge, loaded, photographs
from training.synth import Kind, make
from training.train import NETWORK, network
from watcherd.inference.base import Frame
from watcherd.inference.segmenters.vessel.compact import fold
from watcherd.inference.segmenters.vessel.network import packed
from watcherd.inference.segmenters.vessel.picture import field_of
from watcherd.inference.segmenters.vessel.recipe import ARCHITECTURES, CONFIG, FORMAT, WEIGHTS
from watcherd.inference.segmenters.vessel.segmenter import within
from watcherd.job import Options

if TYPE_CHECKING:
    from torch import Tensor

SIDES: dict[Kind, list[int]] = {"xray": [384], "fundus": [640]}
GLANCE = 192
"""Side in pixels at which it is found out whether vessels are bright."""
SMALLEST: dict[Kind, float] = {"xray": 0.0005, "fundus": 0.0}
BORDER: dict[Kind, float] = {"xray": 0.44, "fundus": 0.42}
"""Frequency of vessel that reads 0.5; the best mean Dice lies between 0.35 and 0.45."""
GOLDEN_SEED = 3_000_004


def configuration(network: dict[str, Any], members: dict[Kind, list[int]]) -> dict[str, Any]:
    """A ``config.json`` without calibration."""
    kinds = {
        kind: {
            "members": members[kind], "sides": SIDES[kind], "shift": 0.0, "slope": 1.0, "smallest": SMALLEST[kind],
            "glance": GLANCE,
        }
        for kind in sorted(members)
    }  # fmt: skip
    count = 1 + max(member for chosen in members.values() for member in chosen)
    return {
        "format": FORMAT, "name": "watcherd-vessel", "architecture": ARCHITECTURES[FORMAT], "network": network,
        "members": count, "window": 768, "overlap": 0.25, "kinds": kinds,
    }  # fmt: skip


def folded(path: Path) -> dict[str, Tensor]:
    """Tensors of the network without normalisation."""
    trained, plain = network(folded=False), network(folded=True)
    trained.load_state_dict(
        {name: tensor.to(trained.state_dict()[name].dtype) for name, tensor in load_file(path).items()}
    )
    fold(trained.eval(), plain)
    return plain.state_dict()


def write(folder: Path, weights: list[Path], config: dict[str, Any]) -> None:
    """The two files of a model folder; equal weights give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{member}.{name}": tensor.contiguous()
        for member, path in enumerate(weights)
        for name, tensor in sorted(packed(folded(path)).items())
    }
    save_file(tensors, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    _write_config(folder, config)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def choose(folder: Path, chase: Path, runs: Path, kinds: list[str], coronary: Path) -> dict[str, Any]:
    """Find and write the calibration; returns it."""
    config = json.loads((folder / CONFIG).read_text())
    found: dict[Kind, tuple[float, float]] = {
        "fundus": _of_photographs(folder, chase),
        "xray": _of_angiograms(runs, kinds, coronary),
    }
    for kind, (slope, shift) in found.items():
        border = math.log(BORDER[kind] / (1 - BORDER[kind])) / slope
        config["kinds"][kind] |= {"slope": round(slope, 4), "shift": round(shift + border, 4)}
    _write_config(folder, config)
    return {kind: config["kinds"][kind] for kind in found}


def _of_photographs(folder: Path, chase: Path) -> tuple[float, float]:
    """In two rounds, for a map is brought to the photograph's size after it was calibrated."""
    slope, shift = 1.0, 0.0
    config = json.loads((folder / CONFIG).read_text())
    for _ in range(2):
        config["kinds"]["fundus"] |= {"slope": slope, "shift": shift}
        _write_config(folder, config)
        further, moved = _further(folder, chase)
        slope, shift = slope * further, shift + moved / slope
    return slope, shift


def _further(folder: Path, chase: Path) -> tuple[float, float]:
    """Slope and shift on top of those in the folder."""
    [items] = judge(loaded(folder, "cpu"), [photographs(chase, VALIDATION)])
    logits, truth = [], []
    for item in items:
        probability = np.clip(item.probability[item.case.counted], 1e-6, 1 - 1e-6)
        logits.append(np.log(probability / (1 - probability)))
        truth.append(item.case.mask[item.case.counted])
    return calibrate(np.concatenate(logits), np.concatenate(truth))


def _of_angiograms(runs: Path, kinds: list[str], coronary: Path) -> tuple[float, float]:
    answers = answers_of(runs, kinds)
    logits, truth = [], []
    for frame in angiograms(coronary):
        seen = within(field_of(frame.image, "xray"), frame.mask.shape)
        logits.append(answers[frame.name][seen])
        truth.append(frame.mask[seen])
    return calibrate(np.concatenate(logits), np.concatenate(truth))


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
    parser.add_argument("--fundus", type=Path, nargs="+", required=True, help="weights that photographs are shown to")
    parser.add_argument("--xray", type=Path, nargs="+", required=True, help="weights that X-ray frames are shown to")
    parser.add_argument("--runs", type=Path, required=True, help="folder with the answers of the cross-validation")
    parser.add_argument("--kinds", nargs="+", required=True, help="kinds of run that --xray are, for these answers")
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--coronary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    first = len(given.fundus)
    members: dict[Kind, list[int]] = {
        "fundus": list(range(first)),
        "xray": list(range(first, first + len(given.xray))),
    }
    write(given.out, [*given.fundus, *given.xray], configuration(NETWORK, members))
    reached = choose(given.out, given.chase, given.runs, given.kinds, given.coronary)
    write_golden(given.out)
    digest = hashlib.sha256((given.out / WEIGHTS).read_bytes()).hexdigest()
    print(json.dumps({"sha256": digest, **reached}, indent=2))


if __name__ == "__main__":
    main()
