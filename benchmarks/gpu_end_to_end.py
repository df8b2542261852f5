"""The whole service on a GPU: JPEGs in the inbox to masks in the outbox, against the model alone.

    python -m benchmarks.gpu_end_to_end                     # on a GPU, in bfloat16
    python -m benchmarks.gpu_end_to_end --scans 40 --tiny   # on the CPU, to see that it runs

The model is of SegFormer-B5's size with random weights, the scans 512 x 512. ``model`` is its forward pass alone over
batches that lie on the device (`gpu_semantic`), which is the limit; ``service`` is `watcherd run --once` over scans
that lay there before it started, counted from the first quarter of the results to the last, so that neither the load
of the model nor the filling of the way counts. The threshold is such that 8 % of the first scan's pixels belong to its
mask, about as many as in an angiogram; the measures of masks are left out unless asked for. Target: 0.90.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.gpu_semantic import B5, SIDE, measure, noise, save_model
from watcherd.config import Model
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter
from watcherd.job import Options

MASK_SHARE = 0.08
TINY = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "decoder_hidden_size": 32}


def main() -> None:
    """Measure, and print one JSON object for each number of imaging workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=3000)
    parser.add_argument("--workers", nargs="+", default=["auto"], help="imaging workers: auto, or numbers to compare")
    parser.add_argument("--measures", action="store_true", help="also have the masks measured")
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    arguments = parser.parse_args()
    if arguments.tiny:
        B5.update(TINY)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_model(root / "model")
        device = "cpu" if arguments.tiny else "cuda:0"
        segmenter = loaded(root / "model", device)
        [first] = segmenter.predict([Frame(pixels=picture(0), options=Options(outputs=("probability",)))])
        assert first.probability is not None
        settings = Settings(
            model=root / "model",
            threshold=float(np.quantile(first.probability, 1 - MASK_SHARE)),
            measures=arguments.measures,
        )
        for workers in arguments.workers:
            service = run(root / f"workers-{workers}", settings, arguments.scans, workers)
            alone = model_rate(segmenter, int(service["batch_size"]), device)
            service |= {"model_per_s": alone, "share": round(service["scans_per_s"] / alone, 3)}
            print(json.dumps(service), flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the service is set to."""

    model: Path
    threshold: float
    measures: bool


def run(place: Path, settings: Settings, scans: int, workers: str) -> dict[str, Any]:
    """Drop the scans, run the service until all are done, and read what the history says."""
    (place / "inbox").mkdir(parents=True)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as drawing:
        list(drawing.map(partial(save_picture, place / "inbox"), range(scans), chunksize=100))
    (place / "config.toml").write_text(
        "\n".join(
            [
                "[inbox]",
                "settle_seconds = 0.3",
                "[outbox]",
                f"measures = {json.dumps(settings.measures)}",
                "[model]",
                'segmenter = "semantic"',
                f"path = {json.dumps(str(settings.model))}",
                f"threshold = {settings.threshold}",
                "[limits]",
                f"workers = {json.dumps(workers) if workers == 'auto' else workers}",
            ]
        )
    )
    began = time.monotonic()
    command = [sys.executable, "-m", "watcherd", "run", "--once", "--config", str(place / "config.toml")]
    with (place / "log").open("w+") as log:
        cpu_seconds = _watched(subprocess.Popen(command, stdout=log, stderr=log), place)
    with closing(sqlite3.connect(place / "state" / "watcherd.db")) as history:
        rows = history.execute(
            "SELECT finished_at, decode_ms, inference_ms, render_ms, batch_size FROM jobs"
            " WHERE state = 'succeeded' ORDER BY finished_at"
        ).fetchall()
        devices = history.execute("SELECT devices FROM jobs LIMIT 1").fetchone()[0]
    if len(rows) != scans:
        raise SystemExit(f"{len(rows)} of {scans} scans succeeded")
    first = scans // 4
    ended = [datetime.fromisoformat(row[0]).timestamp() for row in rows]
    medians = {
        name: float(np.median([row[i] for row in rows])) for i, name in ((1, "decode"), (2, "inference"), (3, "render"))
    }
    return {
        "scans": scans,
        "workers": workers,
        "wall_s": round(time.monotonic() - began, 1),
        "scans_per_s": round((scans - first) / (ended[-1] - ended[first - 1]), 1),
        "busy_per_s": round(1000 * scans / max(1, sum(row[2] for row in rows)), 1),
        "median_ms": medians,
        "main_cpu_ms_per_scan": round(1000 * cpu_seconds / scans, 2),
        "batch_size": max(row[4] for row in rows),
        "devices": json.loads(devices),
    }


def _watched(process: subprocess.Popen[bytes], place: Path) -> float:
    """Wait for the service; the CPU seconds of its main process."""
    used = 0.0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(process.pid).cpu_times()
            used = max(used, times.user + times.system)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"watcherd ended with {process.returncode}:\n{(place / 'log').read_text()[-2000:]}")
    return used


def save_picture(folder: Path, number: int) -> None:
    """One scan."""
    Image.fromarray(picture(number)).save(folder / f"scan-{number:05}.jpg", quality=90)


def picture(number: int) -> Any:
    """Smooth grey with a little noise: an angiogram's size as JPEG, about 40 kB."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-6, 7, (SIDE, SIDE), dtype=np.int16)
    return np.clip(np.asarray(coarse, np.int16) + grain, 0, 255).astype(np.uint8)


def loaded(folder: Path, device: str) -> SemanticSegmenter:
    """The model, in this process."""
    segmenter = SemanticSegmenter(Model(segmenter="semantic", path=folder))
    dtype = "float32" if device == "cpu" else "bfloat16"
    segmenter.load(Placement(devices=(device,), device_map={"": device}, dtype=dtype), lambda *_: None)
    return segmenter


def model_rate(segmenter: SemanticSegmenter, batch: int, device: str) -> float:
    """Scans per second of the network alone, at the service's own batch size."""
    frames = [noise(seed) for seed in range(max(128, batch) if device != "cpu" else batch)]
    return float(measure(segmenter, frames, batch, device)["model_per_s"])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
