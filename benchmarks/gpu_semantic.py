"""How fast the semantic segmenter alone is on one GPU, by batch: a model of SegFormer-B5's size at 512 x 512.

    python benchmarks/gpu_semantic.py                      # on a GPU, in bfloat16
    python benchmarks/gpu_semantic.py --device cpu --dtype float32 --batches 1 2 --frames 4

Weights are random: speed does not depend on them. Three rates are measured over the same frames in memory:
``model``: the network's forward pass alone on tensors that lie on the device; ``segmenter``: frames to masks through
`SemanticSegmenter.predict`; ``batching``: the same through `batching.run` with memory figures, as a replica does it.
Prints one JSON object for each batch size; the model's own rate is what the end-to-end rate is compared with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import logging

from watcherd.config import Model
from watcherd.inference import batching
from watcherd.inference.base import Frame, Placement
from watcherd.inference.batching import Probe
from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter
from watcherd.inference.vram import Meter
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIDE = 512
B5 = {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
"""SegFormer-B5 (Xie et al. 2021, table 6)."""


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        segmenter = SemanticSegmenter(Model(segmenter="semantic", path=save_model(Path(folder))))
        placement = Placement(devices=(arguments.device,), device_map={"": arguments.device}, dtype=arguments.dtype)
        segmenter.load(placement, lambda *_: None)
        frames = [noise(seed) for seed in range(arguments.frames)]
        for batch in arguments.batches:
            print(json.dumps(measure(segmenter, frames, batch, arguments.device)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--frames", type=int, default=128)
    return parser.parse_args()


def save_model(folder: Path, sizes: Mapping[str, object] = B5) -> Path:
    """A folder as people have them, with two classes."""
    logging.disable_progress_bar()
    names = {0: "background", 1: "vessel"}
    config = SegformerConfig(**sizes, id2label=names, label2id={name: number for number, name in names.items()})
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    processor = {
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def noise(seed: int) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return Frame(pixels=pixels, options=Options())


def measure(segmenter: SemanticSegmenter, frames: list[Frame], batch: int, device: str) -> dict[str, object]:
    """Frames per second by each way, and what a batch takes."""
    network = segmenter._network
    assert network is not None
    pictures = torch.zeros(batch, 3, SIDE, SIDE, device=device, dtype=network.dtype)
    parts = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    meter = Meter((device,))

    def model() -> None:
        with torch.inference_mode():
            for _ in parts:
                network.scores(pictures)
            if device != "cpu":
                torch.cuda.synchronize()

    def alone() -> None:
        for part in parts:
            segmenter.predict(part)

    def batched() -> None:
        for _ in batching.run(segmenter, frames, Probe(batch_size=batch), meter):
            pass

    rates = {
        "model": rate(model, len(parts) * batch),
        "segmenter": rate(alone, len(frames)),
        "batching": rate(batched, len(frames)),
    }
    (use,) = meter.after()
    return {
        "batch": batch,
        **{f"{name}_per_s": round(value, 1) for name, value in rates.items()},
        "segmenter_of_model": round(rates["segmenter"] / rates["model"], 3),
        "batching_of_model": round(rates["batching"] / rates["model"], 3),
        "device": use.name,
        "vram_peak_allocated_mib": use.vram_peak_allocated_mib,
    }


def rate(work: Callable[[], None], frames: int) -> float:
    """Frames per second, after one round to warm up; the best of two, for the machine may have other things to do."""
    work()
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return frames / min(seconds)


if __name__ == "__main__":
    main()
