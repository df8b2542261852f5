"""One build's Sa2VA in a process of its own, told what to measure line by line: see `benchmarks.sa2va_against`.

It runs as a file, with the build that it is to measure first on the path, and uses only what older builds have too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import gpu_sa2va
from watcherd.config import Sa2va
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "@@"
"""What begins a line that answers, among what libraries print."""
UNTAUGHT = "forced"
"""The way in which scans are compared: the language model's layers do all that they can, and no draft is checked."""


class Way:
    """A loaded model, measured as a replica uses it: one batch is launched while the one before is read."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        model: Any = SimpleNamespace(
            path=wanted.model, sa2va=Sa2va(max_new_tokens=64), compile=wanted.compile, dtype=wanted.dtype
        )
        self._segmenter = Sa2vaSegmenter(model)
        device_map = json.loads(wanted.device_map)
        devices = tuple(dict.fromkeys(device_map.values()))
        began = time.perf_counter()
        self._segmenter.load(Placement(devices=devices, device_map=device_map, dtype=wanted.dtype), lambda *_: None)
        self._devices = [device for device in devices if device != "cpu"]
        self.said: list[str | None] = []
        self.load_seconds = time.perf_counter() - began

    def rate(self, batch: int, batches: int) -> dict[str, Any]:
        """Scans a second in batches of one size, CPU milliseconds a scan, and peak memory in GiB."""
        frames = gpu_sa2va.pictures(batch)
        self._segmenter.predict(frames)
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        cpu, began = time.process_time(), time.perf_counter()
        self._run([frames] * batches)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        scans = batch * batches
        peak = max((torch.cuda.max_memory_allocated(device) for device in self._devices), default=0) / 2**30
        return {
            "rate": scans / seconds,
            "cpu_ms": 1000 * cpu / scans,
            "peak_gib": peak,
            "verified": self.said.count("verified"),
        }

    def _run(self, batches: Sequence[Sequence[Frame]]) -> None:
        under_way = None
        for frames in batches:
            launched = self._segmenter.dispatch(frames)
            if under_way is not None:
                under_way.result()
            under_way = launched
        if under_way is not None:
            self.said = [found.decode for found in under_way.result()]

    def within(self, gib: float) -> dict[str, Any]:
        """Scans one by one where torch may take so much of the card and no more."""
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)
        torch.cuda.reset_peak_memory_stats()
        try:
            found = self.rate(1, 20)
            return found | {"reserved_gib": torch.cuda.max_memory_reserved() / 2**30}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def lone(self, count: int) -> dict[str, Any]:
        """Milliseconds of scans one by one, each waited for."""
        found = []
        for frame in gpu_sa2va.pictures(count + 3):
            began = time.perf_counter()
            self._segmenter.predict([frame])
            found.append(1000 * (time.perf_counter() - began))
        return {"ms": found[3:]}

    def busy(self, batch: int, batches: int) -> dict[str, Any]:
        """Share of the time in which each card computes, by torch's profiler, and its milliseconds a scan by kernel."""
        from torch.profiler import ProfilerActivity, profile

        frames = gpu_sa2va.pictures(batch)
        self._run([frames] * 2)
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            self._run([frames] * batches)
            for device in self._devices:
                torch.cuda.synchronize(device)
        kernels = [each for each in found.events() if str(each.device_type).endswith("CUDA")]
        names: dict[str, float] = {}
        lines: dict[int, list[tuple[float, float]]] = {}
        for each in kernels:
            lines.setdefault(each.device_index, []).append((each.time_range.start, each.time_range.end))
            names[each.name[:110]] = names.get(each.name[:110], 0.0) + each.time_range.elapsed_us()
        begin = min((start for spans in lines.values() for start, _ in spans), default=0)
        end = max((stop for spans in lines.values() for _, stop in spans), default=1)
        scans = batch * batches
        return {
            "busy": {card: _covered(spans) / (end - begin) for card, spans in lines.items()},
            "busy_ms": {card: _covered(spans) / 1000 / scans for card, spans in lines.items()},
            "kernels": len(kernels) / batches,
            "longest": {
                name: round(us / 1000 / scans, 3) for name, us in sorted(names.items(), key=lambda x: -x[1])[:28]
            },
        }

    def threads(self, batch: int, batches: int) -> dict[str, float]:
        """CPU milliseconds a scan by the name of the thread."""
        frames = gpu_sa2va.pictures(batch)
        self._run([frames])
        before = _thread_seconds()
        self._run([frames] * batches)
        after = _thread_seconds()
        used = {name: 1000 * (value - before.get(name, 0.0)) / batch / batches for name, value in after.items()}
        return {name: round(value, 2) for name, value in sorted(used.items(), key=lambda x: -x[1])[:6]}

    def masks(self, count: int, path: str) -> dict[str, int]:
        """Write the probability maps of random scans, whose drafts are not checked."""
        frames = [replace(frame, options=replace(frame.options, decode=UNTAUGHT)) for frame in scans(count)]
        found = [self._segmenter.predict(frames[begin : begin + 16]) for begin in range(0, count, 16)]
        maps = [one.probability for batch in found for one in batch]
        np.save(path, np.stack([each for each in maps if each is not None]))
        return {"maps": len(maps)}


def scans(count: int) -> list[Frame]:
    """Grey pictures of smooth noise with dark lines, from a seed."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        coarse = rng.integers(60, 200, (16, 16)).astype(np.float32)
        pixels = np.kron(coarse, np.ones((32, 32), np.float32)) + rng.normal(0, 12, (512, 512))
        for _ in range(4):
            rows = np.arange(512)
            columns = (rng.integers(40, 470) + 30 * np.sin(rows / rng.uniform(20, 90))).astype(int)
            for width in range(-3, 4):
                pixels[rows, np.clip(columns + width, 0, 511)] -= 60
        found.append(Frame(pixels=pixels.clip(0, 255).astype(np.uint8), options=gpu_sa2va.ASK))
    return found


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Microseconds that lie in at least one of the spans."""
    total, reach = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reach))
        reach = max(reach, stop)
    return total


def _thread_seconds() -> dict[str, float]:
    """CPU seconds of this process's threads, those of one name together."""
    found: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def main() -> None:
    """Load, say so, then answer each line of JSON, ``[method, arguments...]``, with one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device-map", default='{"": "cuda:0"}')
    way = Way(parser.parse_args())
    print(MARK + json.dumps({"load_seconds": way.load_seconds}), flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            answer = getattr(way, method)(*arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
