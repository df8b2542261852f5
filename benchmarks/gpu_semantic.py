"""The semantic segmenter alone on one GPU, by batch: a model of SegFormer-B5's size at 512 x 512.

Weights are random: speed does not depend on them. Three rates are measured by turns over the same frames in memory: the
network's forward pass alone on tensors that lie on the device, which is the limit; frames to masks through
`SemanticSegmenter.predict`; the same through `batching.run` with memory figures, as a replica does it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import logging

from benchmarks.figure import Figure, slope
from benchmarks.gpu_limits import copy_rates, matrix_rates, on_gpu, seconds_of, wait
from watcherd.config import Model
from watcherd.inference import transfer
from watcherd.inference.base import Frame, Placement
from watcherd.inference.replica import batching
from watcherd.inference.replica.batching import Probe
from watcherd.inference.replica.vram import Meter
from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watcherd.inference.segmenters.semantic.network import Network

SIDE = 512
B5: Mapping[str, object] = {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
"""SegFormer-B5 (Xie et al. 2021, table 6)."""


def by_batch(
    device: str, runs: int, batches: Sequence[int], sizes: Mapping[str, object] = B5, *, frames: int = 128
) -> list[Figure]:
    """The chapter: rates and memory by batch; at the largest, operations, copies and where the time goes."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        segmenter = loaded(save_model(Path(folder), sizes), device)
        pictures = [noise(seed) for seed in range(max(frames, *batches))]
        result: list[Figure] = []
        memory: dict[float, Sequence[float]] = {}
        for batch in batches:
            rates, peaks = measure(segmenter, pictures, batch, runs, device)
            result += rate_figures(f"batch {batch}", rates)
            memory[batch] = peaks
        if on_gpu(device):
            what = "peak of allocated memory, the weights included, as torch counts it"
            result.append(slope("VRAM", "MiB a scan", memory, of="MiB", against="scans in a batch", definition=what))
        return result + work_figures(segmenter, pictures[: max(batches)], rates["model"], runs, device)


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


def loaded(folder: Path, device: str) -> SemanticSegmenter:
    """The model, in this process: in bfloat16 on a GPU."""
    segmenter = SemanticSegmenter(Model(segmenter="semantic", path=folder))
    dtype = "bfloat16" if on_gpu(device) else "float32"
    segmenter.load(Placement(devices=(device,), device_map={"": device}, dtype=dtype), lambda *_: None)
    return segmenter


def noise(seed: int) -> Frame:
    """A grey frame."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    return Frame(pixels=pixels, options=Options())


def network_of(segmenter: SemanticSegmenter) -> Network:
    """What the segmenter runs."""
    assert segmenter._network is not None
    return segmenter._network


def forward_passes(segmenter: SemanticSegmenter, batch: int, count: int, device: str) -> Callable[[], None]:
    """Something to call: ``count`` forward passes over tensors that lie on the device, waited for at the end."""
    network = network_of(segmenter)
    pictures = torch.zeros(batch, 3, SIDE, SIDE, device=device, dtype=network.dtype)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(count):
                network.scores(pictures)
        wait(device)

    return work


def measure(
    segmenter: SemanticSegmenter, frames: Sequence[Frame], batch: int, runs: int, device: str
) -> tuple[dict[str, list[float]], list[float]]:
    """Frames a second by each way, run by run, and the peaks of allocated memory in MiB."""
    frames = frames[: len(frames) // batch * batch]
    parts = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    meter = Meter((device,))
    peaks: list[float] = []

    def alone() -> None:
        for part in parts:
            segmenter.predict(part)

    def batched() -> None:
        outcomes = [outcome for _, outcome in batching.run(segmenter, frames, Probe(batch_size=batch), meter)]
        uses = [use for outcome in outcomes for use in outcome.devices]
        peaks.append(max(use.vram_peak_allocated_mib or 0.0 for use in uses))

    ways = {
        "model": forward_passes(segmenter, batch, len(parts), device),
        "segmenter": alone,
        "batching": batched,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(-1, runs):  # the first warms up
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if run >= 0:
                rates[name].append(len(frames) / (time.perf_counter() - began))
    return rates, peaks[1:]


def rate_figures(name: str, rates: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Of one batch size."""

    def over(way: str) -> list[float]:
        return [ours / limit for ours, limit in zip(rates[way], rates["model"], strict=True)]

    return [
        Figure(
            name=f"{name}: segmenter over model alone",
            unit="ratio",
            values=over("segmenter"),
            definition="frames in memory to masks in memory, batch by batch, over the forward pass alone; by turns",
        ),
        Figure(
            name=f"{name}: replica's batching over model alone",
            unit="ratio",
            values=over("batching"),
            definition="the same as a replica does it: the next batch is launched while the last one is written",
        ),
        Figure(
            name="  model alone",
            unit="scans/s",
            values=rates["model"],
            definition="forward passes over tensors that lie on the device: the limit",
        ),
    ]


def work_figures(
    segmenter: SemanticSegmenter, frames: Sequence[Frame], rates: Sequence[float], runs: int, device: str
) -> list[Figure]:
    """What a batch is made of: operations against the card's own rate, copies against its bandwidth, stages."""
    network, recipe = network_of(segmenter), segmenter._recipe
    batch = len(frames)
    with torch.inference_mode():
        pictures = recipe.prepare(frames, (SIDE, SIDE), network.device)
        scores = network.scores(pictures)
        maps = network.probability(scores, (SIDE, SIDE))
        masks = (maps[:, 0] > 0.5).view(torch.uint8)
        with FlopCounterMode(display=False) as counter:
            network.scores(pictures)
        operations = counter.get_total_flops() / batch
        parts: dict[str, Callable[[], object]] = {
            "frames to the device, scaled": lambda: recipe.prepare(frames, (SIDE, SIDE), network.device),
            "network": lambda: network.scores(pictures),
            "masks": lambda: segmenter._masks(frames, network.probability(scores, (SIDE, SIDE))).result(),
        }
        times = {name: seconds_of(work, runs, device) for name, work in parts.items()}
        copying = seconds_of(lambda: transfer.to_host(masks).result(), runs, device)
    product = statistics.median(matrix_rates(device, runs))
    _, down = copy_rates(device, runs)
    return [
        Figure(
            name="model's operations",
            unit="TFLOP/s",
            values=[rate * operations / 1e12 for rate in rates],
            definition=f"{operations / 1e9:.0f} GFLOP for a scan, as torch counts them, by the rate of the model alone",
        ),
        Figure(
            name="  over a matrix product",
            unit="ratio",
            values=[rate * operations / product for rate in rates],
            definition="over the median of a large bfloat16 product in the same chapter",
        ),
        Figure(
            name="masks to the host over the copies' limit",
            unit="ratio",
            values=[masks.nbytes / 1e9 / seconds / limit for seconds, limit in zip(copying, down, strict=True)],
            definition=f"{batch} masks of 512 x 512, a byte a pixel, as a segmenter copies them, over a large copy",
        ),
        *(
            Figure(
                name=f"  stage: {name}",
                unit="ms a scan",
                values=[1000 * each / batch for each in seconds],
                definition=f"in a batch of {batch}, waited for; in the service they overlap where they can",
            )
            for name, seconds in times.items()
        ),
    ]
