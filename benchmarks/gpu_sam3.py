"""The sam3 segmenter alone on one GPU, by batch and by the number of things asked for: the published size, 1008 x 1008.

Weights are random: speed does not depend on them, but for what counts as found, which is set so that about ten of the
two hundred objects do. Three rates are measured by turns over the same frames in memory: the network alone on pictures
that lie on the device, which is the limit; frames to masks through `Sam3Segmenter.predict`; the same through
`batching.run` with memory figures, as a replica does it.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Sam3Config, Sam3Model
from transformers.utils import logging

from benchmarks.figure import Figure
from benchmarks.gpu_limits import matrix_rates, on_gpu, seconds_of, wait
from tests.sam3_folder import config, tokenizer
from watcherd.config import Model, Sam3
from watcherd.inference.base import Frame, Placement
from watcherd.inference.replica import batching
from watcherd.inference.replica.batching import Probe
from watcherd.inference.replica.vram import Meter
from watcherd.inference.segmenters.sam3.segmenter import Sam3Segmenter
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.inference.segmenters.sam3.network import Network

THINGS = ("blood vessel", "artery", "vein", "catheter", "stenosis")
FOUND = 10
"""Objects of a frame that count, about."""
SIZE = (1024, 1024)
"""Height and width of the frames, in pixels."""


def by_batch(device: str, runs: int, batches: Sequence[int], *, full_size: bool, frames: int) -> list[Figure]:
    """The chapter: rates and memory by batch for one thing and for five; at the largest where the time goes."""
    torch.manual_seed(0)
    result: list[Figure] = []
    with tempfile.TemporaryDirectory() as kept:
        folder = save_model(Path(kept), device, Sam3Config() if full_size else config())
        pictures = [noise(seed) for seed in range(max(frames, *batches))]
        segmenter = loaded(folder, device)
        score = usual_score(segmenter, pictures[:2])
        segmenter._setting = segmenter._setting.model_copy(update={"score": score})
        for count in (1, len(THINGS)):
            asked = [Frame(pixels=each, options=Options(prompt="; ".join(THINGS[:count]))) for each in pictures]
            for batch in batches:
                rates, peaks = measure(segmenter, asked, batch, runs, device)
                result += rate_figures(f"{count} {'thing' if count == 1 else 'things'}, batch {batch}", rates, peaks)
        return result + work_figures(segmenter, asked[: max(batches)], runs, device)


def save_model(folder: Path, device: str, sizes: Sam3Config) -> Path:
    """A folder as people have it, in bfloat16, but for its tokenizer, which has no vocabulary."""
    logging.disable_progress_bar()
    with torch.device(device):
        model = Sam3Model(sizes)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    side = model.config.vision_config.backbone_config.image_size
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": side, "width": side}}))
    return folder


def loaded(folder: Path, device: str) -> Sam3Segmenter:
    """The model, in this process: in bfloat16 on a GPU."""
    segmenter = Sam3Segmenter(Model(segmenter="sam3", path=folder, sam3=Sam3(presence=0.0)))
    dtype = "bfloat16" if on_gpu(device) else "float32"
    segmenter.load(Placement(devices=(device,), device_map={"": device}, dtype=dtype), lambda *_: None)
    return segmenter


def noise(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A grey picture."""
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def network_of(segmenter: Sam3Segmenter) -> Network:
    """What the segmenter runs."""
    assert segmenter._network is not None
    return segmenter._network


def usual_score(segmenter: Sam3Segmenter, pictures: Sequence[Any]) -> float:
    """A score that about `FOUND` objects of a frame pass."""
    network = network_of(segmenter)
    with torch.inference_mode():
        ready = segmenter._prepared([Frame(pixels=each, options=Options()) for each in pictures], network)
        scores = network.ask(network.see(ready), [(number, THINGS[0]) for number in range(len(pictures))]).scores
        chances = scores[:, :-1].sigmoid() * scores[:, -1:].sigmoid()
    return float(chances.topk(min(FOUND, chances.shape[1])).values[:, -1].median())


def measure(
    segmenter: Sam3Segmenter, frames: Sequence[Frame], batch: int, runs: int, device: str
) -> tuple[dict[str, list[float]], list[float]]:
    """Frames a second by each way, run by run, and the peaks of allocated memory in MiB."""
    frames = frames[: len(frames) // batch * batch]
    parts = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    network, meter, peaks = network_of(segmenter), Meter((device,)), []
    things = frames[0].options.prompt.split("; ")
    ready = segmenter._prepared(parts[0], network)
    pairs = [(number, thing) for number in range(batch) for thing in things]

    def model() -> None:
        with torch.inference_mode():
            for _ in parts:
                network.ask(network.see(ready), pairs)
        wait(device)

    def alone() -> None:
        for part in parts:
            segmenter.predict(part)

    def batched() -> None:
        outcomes = [outcome for _, outcome in batching.run(segmenter, frames, Probe(batch_size=batch), meter)]
        uses = [use for outcome in outcomes for use in outcome.devices]
        peaks.append(max(use.vram_peak_allocated_mib or 0.0 for use in uses))

    ways = {"model": model, "segmenter": alone, "batching": batched}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(-1, runs):  # the first warms up
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            if run >= 0:
                rates[name].append(len(frames) / (time.perf_counter() - began))
    return rates, peaks[1:]


def rate_figures(name: str, rates: Mapping[str, Sequence[float]], peaks: Sequence[float]) -> list[Figure]:
    """Of one batch size and number of things."""

    def over(way: str) -> list[float]:
        return [ours / limit for ours, limit in zip(rates[way], rates["model"], strict=True)]

    return [
        Figure(
            name=f"{name}: replica's batching",
            unit="scans/s",
            values=rates["batching"],
            definition="frames in memory to masks in memory, as a replica does it: two batches under way",
        ),
        Figure(
            name="  over model alone",
            unit="ratio",
            values=over("batching"),
            definition="over the network alone on pictures that lie on the device; by turns",
        ),
        Figure(
            name="  segmenter over model alone",
            unit="ratio",
            values=over("segmenter"),
            definition="the same batch by batch, each waited for",
        ),
        Figure(
            name="  VRAM",
            unit="MiB",
            values=peaks,
            definition="peak of allocated memory, the weights included, as torch counts it",
        ),
    ]


def work_figures(segmenter: Sam3Segmenter, frames: Sequence[Frame], runs: int, device: str) -> list[Figure]:
    """What the largest batch is made of, and its operations against the card's own rate, for one thing."""
    network, batch = network_of(segmenter), len(frames)
    asked = [Frame(pixels=each.pixels, options=Options(prompt=THINGS[0])) for each in frames]
    pairs = [(number, THINGS[0]) for number in range(batch)]
    with torch.inference_mode():
        ready = segmenter._prepared(asked, network)
        seen = network.see(ready)
        with FlopCounterMode(display=False) as counter:
            network.ask(network.see(ready), pairs)
        operations = counter.get_total_flops()
        pending = segmenter.dispatch(asked)
        wait(device)
        times = {
            "frames to the device, scaled": seconds_of(lambda: segmenter._prepared(asked, network), runs, device),
            "vision": seconds_of(lambda: network.see(ready), runs, device),
            "one thing": seconds_of(lambda: network.ask(seen, pairs), runs, device),
            "masks": seconds_of(pending.result, runs, device),
        }
        both = seconds_of(lambda: network.ask(network.see(ready), pairs), runs, device)
    product = sorted(matrix_rates(device, runs))[runs // 2]
    return [
        Figure(
            name="model's operations, one thing",
            unit="TFLOP/s",
            values=[operations / seconds / 1e12 for seconds in both],
            definition=f"{operations / batch / 1e9:.0f} GFLOP for a scan, as torch counts them, in a batch of {batch}",
        ),
        Figure(
            name="  over a matrix product",
            unit="ratio",
            values=[operations / seconds / product for seconds in both],
            definition="over the median of a large bfloat16 product in the same chapter",
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
