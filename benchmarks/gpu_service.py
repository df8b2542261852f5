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

from benchmarks.feeding import daemon, feed, make_pictures, moment
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
        counts = [max(1, scans // 4), *[scans] * runs]  # the first warms up
        folders = [
            make_pictures(Path(folder) / f"scans-{turn}", count, first=turn * scans, processes=os.cpu_count() or 1)
            for turn, count in enumerate(counts)
        ]
        first = min(folders[0].iterdir())
        section = {"segmenter": "semantic", "path": str(model), "threshold": threshold(segmenter, first)}
        with daemon(model=section, outbox={"outputs": ["mask", "overlay"]}) as running:
            feed(running, folders[0])
            rounds = [one_round(running, scans_of_round, segmenter, device) for scans_of_round in folders[1:]]
            ((batch,),) = running.rows("SELECT max(batch_size) FROM jobs")
            ((vram,),) = running.rows("SELECT max(vram_peak_allocated_mib) FROM attempt_device")
    return figures(rounds, scans, batch, vram)


def one_round(running: Running, scans: Path, segmenter: SemanticSegmenter, device: str) -> Round:
    """Scans a second of the service and of the model alone, and what the history says of these scans."""
    ((last_before,),) = running.rows("SELECT coalesce(max(id), 0) FROM job")
    cpu = running.usage().cpu_seconds
    seconds = feed(running, scans)
    cpu = running.usage().cpu_seconds - cpu
    rows = running.rows(
        "SELECT finished_at, inference_ms, batch_size FROM jobs WHERE id > ? ORDER BY finished_at", last_before
    )
    count = len(rows)
    ended = [moment(row[0]) for row in rows]
    quarter, rest = count // 4, count - count // 4
    return {
        "whole": count / seconds,
        "steady": (rest - quarter) / (ended[rest - 1] - ended[quarter - 1]) if quarter else 0.0,
        "busy": 1000 * count / max(1, sum(row[1] for row in rows)),
        "cpu": 1000 * cpu / count,
        "model": model_rate(segmenter, max(row[2] for row in rows), device),
    }


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

    what = f"folders of {scans:,} JPEGs of 512 x 512 to masks and overlays, measures left out, batch {batch}"
    result = [
        Figure(
            name="service over model alone",
            unit="ratio",
            values=ratio("steady"),
            definition=f"{what}; counted between the first and the third quarter of the results, so that neither "
            "filling nor emptying is in it; the model alone runs after each round",
            target=Target(least=0.9),
        ),
        Figure(
            name="service over model alone, all of it",
            unit="ratio",
            values=ratio("whole"),
            definition=f"{what}; from the folder's coming, settling not counted, to the last scan in the archive",
        ),
    ]
    for name, way, unit, definition in (
        ("service", "steady", "scans/s", "between the first and the third quarter of the results"),
        ("service, all of it", "whole", "scans/s", "filling and emptying included"),
        ("the replica, while it had work", "busy", "scans/s", "by the inference times of the history"),
        ("model alone", "model", "scans/s", "forward passes over tensors that lie on the device: the limit"),
        ("main process, CPU", "cpu", "ms a scan", "all of its threads, taking in and archiving included"),
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
