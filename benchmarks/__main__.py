"""Measure what a CPU can show of what watcherd promises: one table, and the same as JSON.

    python -m benchmarks [--quick] [--only NAME] [--json FILE]

Each figure is the median of several runs, with the smallest and the largest beside it. A machine that is busy with
other things shows in that spread; CPU times and ratios suffer less from it than rates. What each line means is in the
JSON and in docs/performance.md. The exit code is 0 even where a target is missed: targets are for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import figures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.figures import Figure


def chapters(*, quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    """What is measured, by name."""
    runs = 1 if quick else 3
    return {
        "start": lambda: figures.start_to_ready(2 if quick else 5),
        "idle": lambda: figures.idle(runs),
        "job": lambda: figures.cost_of_a_job(runs, 500 if quick else 2000),
        "queue": lambda: figures.queueing(runs, 2000 if quick else 20_000),
        "latency": lambda: figures.latency(runs, 100 if quick else 300),
        "history": lambda: figures.history(50_000 if quick else 1_000_000),
        "vesselness": lambda: figures.end_to_end("vesselness", runs, 10 if quick else 40),
        "vessel": lambda: figures.end_to_end("vessel", runs, 4 if quick else 12),
    }


def line(figure: Figure) -> str:
    """A figure as a row of the table."""
    spread = f"{min(figure.values):,.2f} to {max(figure.values):,.2f}" if len(figure.values) > 1 else ""
    cells = f"{figure.name:<46}{figure.median:>12,.2f} {figure.unit:<12}{spread:<24}{figure.target:<16}"
    return f"{cells}{figure.verdict}".rstrip()


def as_json(measured: Sequence[Figure], seconds: float) -> str:
    """Everything, with definitions and the machine."""
    return json.dumps(
        {
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
            "load_average": os.getloadavg(),
            "seconds": round(seconds, 1),
            "figures": [
                {
                    "name": figure.name.strip(),
                    "unit": figure.unit,
                    "median": figure.median,
                    "values": list(figure.values),
                    "definition": figure.definition,
                    "target": figure.target,
                    "verdict": figure.verdict,
                }
                for figure in measured
            ],
        },
        indent=2,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, one run each: to try the script")
    parser.add_argument("--only", action="append", choices=chapters(quick=True), help="one chapter; may be repeated")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the JSON goes (%(default)s)")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the daemon is ended too
    began = time.monotonic()
    measured: list[Figure] = []
    print(f"{'figure':<46}{'median':>12} {'unit':<12}{'smallest to largest':<24}{'target':<16}")
    for name, measure in chapters(quick=wanted.quick).items():
        if wanted.only and name not in wanted.only:
            continue
        for figure in measure():
            measured.append(figure)
            print(line(figure), flush=True)
    wanted.json.write_text(as_json(measured, time.monotonic() - began) + "\n")
    print(
        f"{time.monotonic() - began:.0f} s, load average {os.getloadavg()[0]:.1f}; the definitions are in {wanted.json}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
