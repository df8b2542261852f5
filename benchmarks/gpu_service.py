"""The whole service on one GPU: JPEGs in the inbox to masks and overlays in the outbox, against the model alone.

The model is of SegFormer-B5's size with random weights, the scans 512 x 512. One daemon is fed a folder in each round;
between the rounds the model's forward pass runs alone, in another process, at the batch size that the daemon chose. The
threshold is such that 8 % of the first scan's pixels belong to its mask, about as many as in an angiogram.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.feeding import daemon, feed, make_pictures, queue, rate, wait_for
from benchmarks.figure import Figure, Target
from benchmarks.gpu_limits import on_gpu
from benchmarks.gpu_semantic import B5, forward_passes, loaded, save_model
from watcherd.inference.base import Frame
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.running import Running
    from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter

MASK_SHARE = 0.08
ALONE_SECONDS = 2.0
"""The model alone is timed for about so long in a round."""

Round = dict[str, float]


def service(device: str, runs: int, scans: int, sizes: Mapping[str, object] = B5) -> list[Figure]:
    """The chapter."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "model", sizes)
        segmenter = loaded(model, device)
        counts = [max(1, scans // 4), *[scans] * 2 * runs]  # the first warms up
        folders = [
            make_pictures(Path(folder) / f"scans-{turn}", count, first=turn * scans, processes=os.cpu_count() or 1)
            for turn, count in enumerate(counts)
        ]
        warm_up, *pairs = folders
        section = {
            "segmenter": "semantic",
            "path": str(model),
            "threshold": threshold(segmenter, min(warm_up.iterdir())),
        }
        with daemon(model=section, outbox={"outputs": ["mask", "overlay"]}) as running:
            feed(running, warm_up)
            rounds = [
                backlog(running, queued, segmenter, device) | as_they_come(running, coming)
                for queued, coming in zip(pairs[::2], pairs[1::2], strict=True)
            ]
            ((batch,),) = running.rows("SELECT max(batch_size) FROM jobs")
            ((vram,),) = running.rows("SELECT max(vram_peak_allocated_mib) FROM attempt_device")
    return figures(rounds, scans, batch, vram)


def backlog(running: Running, scans: Path, segmenter: SemanticSegmenter, device: str) -> Round:
    """The work is paused until all of them are queued; then the model alone, at the batch size of the service."""
    count = sum(1 for _ in scans.iterdir())
    before, due = queue(running, scans)
    cpu = running.usage().cpu_seconds
    running.say("resume")
    wait_for(running, due)
    cpu = running.usage().cpu_seconds - cpu
    ((inference, batch),) = running.rows("SELECT sum(inference_ms), max(batch_size) FROM jobs WHERE id > ?", before)
    return {
        "backlog": rate(running, before),
        "busy": 1000 * count / max(1, inference),
        "cpu": 1000 * cpu / count,
        "model": model_rate(segmenter, batch, device),
    }


def as_they_come(running: Running, scans: Path) -> Round:
    """They are taken in while the first are worked on."""
    count, cpu = sum(1 for _ in scans.iterdir()), running.usage().cpu_seconds
    seconds = feed(running, scans)
    return {"coming": count / seconds, "coming_cpu": 1000 * (running.usage().cpu_seconds - cpu) / count}


def model_rate(segmenter: SemanticSegmenter, batch: int, device: str) -> float:
    """Scans a second of the network alone at the service's own batch size."""
    forward_passes(segmenter, batch, 1, device)()
    began = time.perf_counter()
    forward_passes(segmenter, batch, 1, device)()
    count = max(1, round(ALONE_SECONDS / (time.perf_counter() - began))) if on_gpu(device) else 1
    work = forward_passes(segmenter, batch, count, device)
    began = time.perf_counter()
    work()
    return batch * count / (time.perf_counter() - began)


def figures(rounds: Sequence[Round], scans: int, batch: int, vram: float | None) -> list[Figure]:
    """Ratios round by round, then what they are made of."""

    def ratio(way: str) -> list[float]:
        return [turn[way] / turn["model"] for turn in rounds]

    what = f"{scans:,} JPEGs of 512 x 512 to masks and overlays, measures left out, batch {batch}"
    result = [
        Figure(
            name="service over model alone, backlog",
            unit="ratio",
            values=ratio("backlog"),
            definition=f"{what}; all are queued before the work is resumed; from the first claim to the last record, "
            "filling and emptying included; the model alone runs after each round",
            target=Target(least=0.9),
        ),
        Figure(
            name="service over model alone, as they come",
            unit="ratio",
            values=ratio("coming"),
            definition=f"{what}; from the folder's coming, settling not counted, to the last scan in the archive",
        ),
    ]
    for name, way, unit, definition in (
        ("service, backlog", "backlog", "scans/s", "as above"),
        ("service, as they come", "coming", "scans/s", "as above"),
        ("the replica, while it had work", "busy", "scans/s", "by the inference times of the history, backlog"),
        ("model alone", "model", "scans/s", "forward passes over tensors that lie on the device: the limit"),
        ("main process, CPU, backlog", "cpu", "ms a scan", "all of its threads, archiving included"),
        ("main process, CPU, as they come", "coming_cpu", "ms a scan", "taking in included too"),
    ):
        result.append(Figure(name=f"  {name}", unit=unit, values=[turn[way] for turn in rounds], definition=definition))
    if vram is not None:
        result.append(
            Figure(name="  VRAM", unit="MiB", values=[vram], definition="largest peak of allocated memory of a job")
        )
    return result


def threshold(segmenter: SemanticSegmenter, scan: Path) -> float:
    """Such that a share of `MASK_SHARE` of this scan lies above it."""
    pixels = np.asarray(Image.open(scan))
    [found] = segmenter.predict([Frame(pixels=pixels, options=Options(outputs=("probability",)))])
    assert found.probability is not None
    return float(np.quantile(found.probability, 1 - MASK_SHARE))
