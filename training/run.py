"""The whole recipe: ``python -m training.run --chase FOLDER --out FOLDER``.

Makes the scenes, trains three seeds and the two controls side by side (on a CPU: one seed), chooses operating points,
scores. What is finished stays, so that a time limit loses nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

RUNS = (("both", 0), ("both", 1), ("both", 2), ("real", 0), ("synthetic", 0))


def python(module: str, **options: object) -> list[str]:
    """The command for one step."""
    flags = [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", f"training.{module}", *flags]


def one_network(use: str, seed: int, given: argparse.Namespace) -> str:
    """Shell line: train, export, evaluate one network."""
    name = f"{use}-{seed}"
    weights, model = given.out / f"{name}.safetensors", given.scratch / name
    common = {"chase": given.chase, "scenes": given.scratch, "device": given.device}
    steps = (
        python("train", use=use, seed=seed, out=weights, steps=given.steps, seconds=given.seconds, **common),
        python("export", weights=weights, out=model, **common),
        python("evaluate", model=model, out=given.out / f"{name}.scores.json", **common),
    )
    return " && ".join(" ".join(step) for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="weights, their records and scores")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for scenes and model folders")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float, help="limit of one training run")
    parser.add_argument("--xray", type=int, help="made-up scenes to train on")
    parser.add_argument("--fundus", type=int)
    parser.add_argument("--validation", type=int, help="made-up scenes to choose operating points on")
    parser.add_argument("--test", type=int, help="made-up scenes to score, of each difficulty")
    parser.add_argument("--only", type=int, help="so many networks only, in the order of RUNS")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    counts = {name: getattr(given, name) for name in ("xray", "fundus", "validation", "test")}
    subprocess.run(python("generate", out=given.scratch, **counts), check=True)
    runs = RUNS[: given.only or (len(RUNS) if given.device.startswith("cuda") else 1)]
    threads = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(runs)))}
    started = [subprocess.Popen(["sh", "-c", one_network(use, seed, given)], env=threads) for use, seed in runs]
    failed = [run for run, process in zip(runs, started, strict=True) if process.wait() != 0]
    if failed:
        raise SystemExit(f"these runs failed: {failed}")


if __name__ == "__main__":
    main()
