"""The whole recipe: ``python -m training.run --chase FOLDER --coronary FOLDER --out FOLDER --scratch FOLDER``.

Makes the scenes; trains the network for photographs, and one for X-rays on made-up scenes alone, the start. Three kinds
of network for X-rays follow, each once without every block of the real angiograms and once with all of them:
``real`` from random weights on real angiograms alone, ``tuned`` from the start on real ones alone, ``mixed`` from the
start on both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from training.data import BLOCKS


def python(module: str, **options: object) -> list[str]:
    """The command for one step; a list gives several words."""
    flags: list[str] = []
    for name, value in options.items():
        if value is not None:
            flags += [
                f"--{name}",
                *(str(each) for each in (value if isinstance(value, (list, tuple, range)) else [value])),
            ]
    return [sys.executable, "-m", f"training.{module}", *flags]


KINDS = ("real", "tuned", "mixed")


class Recipe:
    """The runs; each is a process of its own, for one alone does not fill a large GPU."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._pool = ThreadPoolExecutor(40)
        self._running: dict[str, Future[None]] = {}

    def start(self, name: str, seconds: float, **options: object) -> None:
        """Begin a run; its log, weights and answers have its name."""
        out = self._given.out
        command = python(
            "train", out=out / f"{name}.safetensors", seconds=seconds, scenes=self._given.scratch,
            chase=self._given.chase, coronary=self._given.coronary, device=self._given.device,
            answers=out / f"{name}.npz" if options.get("without") else None, **options,
        )  # fmt: skip
        self._running[name] = self._pool.submit(self._one, command, out / f"{name}.log")

    def _one(self, command: list[str], log: Path) -> None:
        with log.open("w") as file:
            subprocess.run(command, check=True, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def wait(self, name: str) -> None:
        self._running[name].result()

    def finish(self) -> list[str]:
        """Names of runs that failed."""
        return [name for name, running in self._running.items() if running.exception() is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--coronary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="weights, their records, answers and logs")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for scenes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--base", type=float, default=150, help="seconds for the start, and for runs without it")
    parser.add_argument("--tune", type=float, default=260, help="seconds for the runs that begin with it, side by side")
    parser.add_argument("--photographs", type=float, default=330, help="seconds for the network for photographs")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of networks for X-rays")
    parser.add_argument("--last", nargs="+", choices=KINDS, default=KINDS, help="kinds trained on all angiograms too")
    parser.add_argument("--seeds", type=int, default=1, help="networks for photographs")
    parser.add_argument("--xray", type=int, default=1600, help="made-up scenes to train on")
    parser.add_argument("--fundus", type=int, default=600)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(given)
    blocks = {"xray" + "".join(map(str, without)): list(without) for without in [(), *((b,) for b in range(BLOCKS))]}

    def each(kind: str, seconds: float, **options: object) -> None:
        for name, without in blocks.items():
            if kind in (given.kinds if without else given.last):
                recipe.start(f"{kind}-{name}", seconds, kind="xray", without=without or None, **options)

    each("real", given.base, use="real", steps=1400)
    made = python("generate", out=given.scratch, xray=given.xray, fundus=given.fundus, validation=0, test=0)
    subprocess.run(made, check=True)
    for seed in range(given.seeds):
        recipe.start(f"fundus-{seed}", given.photographs, kind="fundus", seed=seed, steps=6000, batch=24)
    recipe.start("start", given.base, kind="xray", use="synthetic", without=range(BLOCKS), steps=4000)
    recipe.wait("start")
    start = given.out / "start.safetensors"
    each("tuned", given.tune, use="real", start=start, rate=1e-3, steps=2000)
    each("mixed", given.tune, use="both", start=start, rate=1e-3, steps=2000)
    if failed := recipe.finish():
        raise SystemExit(f"these runs failed: {failed}; their logs lie in {given.out}")


if __name__ == "__main__":
    main()
