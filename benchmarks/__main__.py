"""Measure what watcherd promises, what needs a GPU apart: one table, the same as JSON, and a plot of what grows.

    python -m benchmarks [--quick | --long] [--only CHAPTER] [--out FOLDER]
    python -m benchmarks --gpu [--quick]
    python -m benchmarks --write-docs

Each figure is the median of several runs, or the ratio of all their times, with the smallest and the largest beside it.
A machine that is busy with other things shows in that spread; CPU times and ratios suffer less from it than rates. What
each line means is in the JSON and in docs/performance.md. The exit code is 0 even where a target is missed: targets are
for a quiet machine.
``--write-docs`` measures nothing: it puts the figures of the JSON into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import end_to_end, latency, own_cost, report, web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.figure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

SECONDS = {"none": 1.7, "vesselness": 1.4, "vessel": 2.6}
"""About so long the straight script takes in a run."""

Chapters = dict[str, "Callable[[], Iterable[Figure]]"]


def chapters() -> Chapters:
    """What `make bench` measures, by name: under ten minutes on two idle cores."""
    tiny: dict[str, object] = dict(end_to_end.TINY)
    return {
        "start": lambda: own_cost.start_to_ready(5),
        "idle": lambda: own_cost.idle(5, 3),
        "job": lambda: own_cost.cost_of_a_job(10, 500),
        "stages": lambda: own_cost.stages(5, 300),
        "syscalls": lambda: own_cost.system_calls(300),
        "queue": lambda: own_cost.queueing(5, 6_000),
        "history": lambda: own_cost.history([0, 10_000, 1_000_000]),
        "page": lambda: web.first_pages([1000, 1_000_000], 20),
        "watchers": lambda: web.watchers(10, 200, 50),
        "latency": lambda: latency.latency(5, 80, 1000),
        "size": lambda: latency.scan_sizes(5, [256, 1024, 2048, 4096]),
        "frames": lambda: latency.run_lengths(5, [1, 8, 32]),
        "replicas": lambda: latency.replicas(5, 30, [1, 2, 4]),
        **{name: lambda name=name: end_to_end.chapter(5, SECONDS[name], [name]) for name in SECONDS},  # type: ignore[misc]
        "semantic": lambda: end_to_end.semantic("tiny semantic", 5, 1.5, tiny),
    }


def quick() -> Chapters:
    """The same, small: a few minutes, to try it."""
    tiny: dict[str, object] = dict(end_to_end.TINY)
    return {
        "start": lambda: own_cost.start_to_ready(2),
        "idle": lambda: own_cost.idle(2, 3),
        "job": lambda: own_cost.cost_of_a_job(3, 200),
        "stages": lambda: own_cost.stages(1, 200),
        "syscalls": lambda: own_cost.system_calls(100),
        "queue": lambda: own_cost.queueing(2, 2000),
        "history": lambda: own_cost.history([0, 10_000]),
        "page": lambda: web.first_pages([1000, 10_000], 3),
        "watchers": lambda: web.watchers(2, 100, 10),
        "latency": lambda: latency.latency(2, 50, 200),
        "size": lambda: latency.scan_sizes(2, [256, 1024, 2048]),
        "frames": lambda: latency.run_lengths(2, [1, 8]),
        "replicas": lambda: latency.replicas(2, 20, [1, 2]),
        **{name: lambda name=name: end_to_end.chapter(2, 0.7, [name]) for name in SECONDS},  # type: ignore[misc]
        "semantic": lambda: end_to_end.semantic("tiny semantic", 2, 0.7, tiny),
    }


def long() -> Chapters:
    """What takes longer than ten minutes: large models, and a daemon over 100,000 jobs."""
    return {
        "job-scale": lambda: own_cost.cost_of_a_job(20, 5000),
        "semantic-b5": lambda: end_to_end.semantic("SegFormer-B5's size", 5, 6, None),
        "sa2va": lambda: end_to_end.sa2va(5, 6),
    }


def gpu(device: str) -> Chapters:
    """What needs one GPU; about fifteen minutes."""
    return {
        "gpu-limits": lambda: _module("gpu_limits").limits(device, 5),
        "gpu-semantic": lambda: _module("gpu_semantic").by_batch(device, 5, [1, 4, 16, 64]),
        "gpu-service": lambda: _module("gpu_service").service(device, 5, 4000),
        "gpu-sa2va": lambda: _module("gpu_sa2va").by_batch(device, 5, [1, 2, 4, 8, 16], full_size=True),
        "gpu-qwen-vl": lambda: _module("gpu_qwen_vl").by_batch(device, 5, [1, 4, 16], full_size=True),
        "gpu-sam3": lambda: _module("gpu_sam3").by_batch(device, 5, [1, 4, 16], full_size=True, frames=32),
        "gpu-semantic-scripts": lambda: end_to_end.semantic("SegFormer-B5's size", 5, 5, None, device=device),
        "gpu-sa2va-scripts": lambda: end_to_end.full_sa2va(5, 5, device),
        "cards": lambda: _module("cards").cards(device, _cards_scale(3, 160, 1500, 600), full_size=True),
    }


def quick_gpu(device: str) -> Chapters:
    """The same with small models, also on a CPU in its place: to see that everything runs, not to measure."""
    tiny: dict[str, object] = dict(end_to_end.TINY)
    return {
        "gpu-limits": lambda: _module("gpu_limits").limits(device, 2),
        "gpu-semantic": lambda: _module("gpu_semantic").by_batch(device, 2, [1, 2], tiny, frames=4),
        "gpu-service": lambda: _module("gpu_service").service(device, 2, 40, tiny),
        "gpu-sa2va": lambda: _module("gpu_sa2va").by_batch(device, 2, [1, 2], full_size=False),
        "gpu-qwen-vl": lambda: _module("gpu_qwen_vl").by_batch(device, 2, [1, 2], full_size=False),
        "gpu-sam3": lambda: _module("gpu_sam3").by_batch(device, 2, [1, 2], full_size=False, frames=4),
        "gpu-semantic-scripts": lambda: end_to_end.semantic("tiny semantic", 2, 0.5, tiny, device=device),
        "cards": lambda: _module("cards").cards(device, _cards_scale(2, 10, 20, 40), full_size=False),
    }


def _cards_scale(runs: int, slow: int, quick: int, shaken: int) -> Any:
    return _module("cards").Scale(runs=runs, slow=slow, quick=quick, shaken=shaken)


def _module(name: str) -> Any:
    """One of ours that loads torch: only when it is needed, which is seconds."""
    return import_module(f"benchmarks.{name}")


def the_gpu(quickly: bool) -> str:
    """The device; a CPU stands in for it where there is none and nothing is to be measured in earnest."""
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    if quickly:
        return "cpu"
    raise SystemExit("There is no GPU here that torch can use; --gpu --quick shows on a CPU that everything runs.")


def measure(wanted: Chapters, kind: str, quickly: bool) -> dict[str, Any]:
    """Chapter by chapter, printed as it comes. A chapter that fails says so and the others go on."""
    began = time.monotonic()
    result: dict[str, Any] = {"kind": kind, "quick": quickly, "chapters": {}, "chapter_seconds": {}, "failed": {}}
    print(report.HEADING)
    for name, work in wanted.items():
        start = time.monotonic()
        figures: list[Figure] = []
        try:
            for figure in work():
                figures.append(figure)
                print(report.line(figure), flush=True)
        except Exception as error:
            result["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"{name}: could not be measured: {result['failed'][name]}", file=sys.stderr, flush=True)
        if not figures:
            continue
        result["chapters"][name] = [figure.as_json() for figure in figures]
        result["chapter_seconds"][name] = round(time.monotonic() - start, 1)
    result |= {"seconds": round(time.monotonic() - began, 1), "machine": report.machine()}
    return result


def write_docs(out: Path, page: Path = PAGE) -> None:
    """Put the JSON's figures into the page."""
    measured: Mapping[str, Any] = json.loads((out / "bench.json").read_text())
    page.write_text(report.with_tables(page.read_text(encoding="utf-8"), measured), encoding="utf-8")


def save(measured: Mapping[str, Any], out: Path) -> None:
    """JSON and plot."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(measured, indent=2) + "\n")
    report.plot(measured, out / "bench.png")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = {**chapters(), **long(), **gpu("")}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, few runs: to try it")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--long", action="store_true", help="large models and 100,000 jobs instead")
    scale.add_argument("--gpu", action="store_true", help="what needs a GPU instead")
    parser.add_argument("--only", action="append", choices=known, help="one chapter; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of JSON and plot (%(default)s)")
    parser.add_argument("--write-docs", action="store_true", help="put the JSON's figures into docs/performance.md")
    wanted = parser.parse_args(arguments)
    if wanted.long and wanted.quick:
        parser.error("--long has no quick version")
    return wanted


def asked_for(wanted: argparse.Namespace) -> Chapters:
    """The chapters that the command line names. Raises SystemExit for one that is not of this kind."""
    known = _of_the_kind(wanted)
    others = [name for name in wanted.only or () if name not in known]
    if others:
        raise SystemExit(
            f"{', '.join(others)}: not among {', '.join(known)}. Others need --long or --gpu, or no --quick."
        )
    return {name: work for name, work in known.items() if name in (wanted.only or known)}


def _of_the_kind(wanted: argparse.Namespace) -> Chapters:
    if wanted.gpu:
        device = the_gpu(wanted.quick)
        return quick_gpu(device) if wanted.quick else gpu(device)
    if wanted.long:
        return long()
    return quick() if wanted.quick else chapters()


def main() -> int:
    """Measure and print; 1 when a chapter could not be measured."""
    wanted = parse()
    if wanted.write_docs:
        write_docs(wanted.out)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemon is ended too
    measured = measure(asked_for(wanted), "gpu" if wanted.gpu else "long" if wanted.long else "cpu", wanted.quick)
    save(measured, wanted.out)
    for name, seconds in measured["chapter_seconds"].items():
        print(f"{name} {seconds:.0f} s", end=", ")
    print(
        f"in all {measured['seconds']:.0f} s; load average {os.getloadavg()[0]:.1f}; definitions and plot: {wanted.out}"
    )
    return int(bool(measured["failed"]))


if __name__ == "__main__":
    sys.exit(main())
