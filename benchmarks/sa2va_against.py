"""Sa2VA at full size, this build against another one, in turns on one machine.

    python -m benchmarks.sa2va_against --against REVISION|FOLDER [--model FOLDER] [--rounds 3] [--ways old,new,compiled]

Each build runs in a process of its own, all are loaded at once, and each measures the same in every round while the
others wait: a machine's speed changes, and a ratio of two figures of one round does not mind. The model folder is
written first, with random weights, unless it is there. ``--small`` shows on any machine that everything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).resolve().parents[1]
MARK = "@@"

Answers = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One way of running a build. ``arguments`` are `benchmarks.sa2va_way`'s; ``old``: of the other build."""

    arguments: tuple[str, ...] = ()
    old: bool = False
    variables: tuple[tuple[str, str], ...] = ()


PASSIVE = (("OMP_WAIT_POLICY", "PASSIVE"),)
"""As a replica of this build sets it."""
KINDS = {
    "old": Kind(old=True),
    "new": Kind(variables=PASSIVE),
    "compiled": Kind(arguments=("--compile",), variables=PASSIVE),
    "fp8": Kind(arguments=("--compile", "--dtype", "fp8-mlp"), variables=PASSIVE),
    "fp8-eager": Kind(arguments=("--dtype", "fp8-mlp"), variables=PASSIVE),
    "float32": Kind(arguments=("--dtype", "float32"), variables=PASSIVE),
    "split": Kind(arguments=("--device-map", '{"": "cuda:0", "sam2": "cuda:1"}'), variables=PASSIVE),
    "old-split": Kind(arguments=("--device-map", '{"": "cuda:0", "sam2": "cuda:1"}'), old=True),
}


class Process:
    """A build that waits for what it is told."""

    def __init__(self, kind: Kind, tree: Path, model: Path, log: Path) -> None:
        command = [sys.executable, str(HERE / "benchmarks" / "sa2va_way.py"), "--model", str(model), *kind.arguments]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1", **dict(kind.variables)}
        self._log = log
        self._process = subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def answer(self) -> dict[str, Any]:
        """The next one. Raises RuntimeError with the end of the log when it has died."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line[len(MARK) :])
                return found
        raise RuntimeError(f"A build ended with {self._process.wait()}:\n{self._log.read_text()[-1500:]}")

    def ask(self, *words: object) -> dict[str, Any]:
        """Have it do one thing, and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """Let it go."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)


def tree_of(against: str, folder: Path) -> Path:
    """The other build's source: a folder as it is, or a revision of the repository that this file is in."""
    if Path(against).is_dir():
        return Path(against).resolve()
    archive = subprocess.run(["git", "-C", str(HERE), "archive", against], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def measured(ways: Mapping[str, Process], rounds: int, batch: int, batches: int, lone: int) -> dict[str, Answers]:
    """Every way's answers by what was asked, one for each round."""
    found: dict[str, Answers] = {name: {"rate": [], "lone": []} for name in ways}
    for number in range(rounds):
        order = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in order:
            found[name]["rate"].append(ways[name].ask("rate", batch, batches))
            found[name]["lone"].append(ways[name].ask("lone", lone))
            show(f"round {number} {name}", found[name]["rate"][-1])
    return found


def summary(found: Mapping[str, Answers], base: str) -> list[str]:
    """The table: each way's figures, and their ratios to those of ``base`` in the same round."""
    lines = ["| way | scans/s | x | lone ms | x | CPU ms a scan | x | peak GiB |", "|---|---|---|---|---|---|---|---|"]
    for name, answers in found.items():
        cells = [name]
        for what, key, form in (("rate", "rate", ".1f"), ("lone", "ms", ".1f"), ("rate", "cpu_ms", ".1f")):
            own = _values(answers[what], key)
            ratios = [one / other for one, other in zip(own, _values(found[base][what], key), strict=True)]
            cells += [_spread(own, form), _spread(ratios, ".3f")]
        cells.append(_spread(_values(answers["rate"], "peak_gib"), ".2f"))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _values(answers: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One value for each round: a list of them stands for its median."""
    found = [answer.get(key, float("nan")) for answer in answers]
    return [statistics.median(value) if isinstance(value, list) else float(value) for value in found]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def changed(one: Path, other: Path) -> str:
    """Share of pixels on another side of one half: mean, and the largest of a scan; and the largest difference."""
    import numpy as np

    first, second = np.load(one), np.load(other)
    shares = ((first > 0.5) != (second > 0.5)).mean(axis=(1, 2))
    inside = (first > 0.5).mean()
    return (
        f"{100 * shares.mean():.4f} % of pixels, at most {100 * shares.max():.4f} %; probabilities at most "
        f"{np.abs(first - second).max():.2g} apart; {100 * inside:.0f} % of pixels in masks"
    )


def show(what: str, answer: Mapping[str, Any]) -> None:
    """Print it at once."""
    print(what, json.dumps(answer), flush=True)


def write_model(model: Path, small: bool) -> None:
    """A folder with random weights, if there is none."""
    if (model / "config.json").exists():
        return
    if small:
        from tests.sa2va_folder import write_model as write_small

        write_small(model)
        return
    from benchmarks.gpu_sa2va import write_full_model

    write_full_model(model, "cuda:0")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--lone", type=int, default=20)
    parser.add_argument("--ways", default="old,new,compiled")
    parser.add_argument("--scans", type=int, default=32, help="that are compared")
    parser.add_argument("--small", action="store_true", help="the references' model, on the CPU")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(wanted, Path(temporary))
    return 0


def compare(wanted: argparse.Namespace, folder: Path) -> None:
    """Load every way, measure in turns, and compare what they see."""
    (folder / "tree").mkdir()
    tree = tree_of(wanted.against, folder / "tree")
    model = wanted.model or folder / "model"
    began = time.monotonic()
    write_model(model, wanted.small)
    show("model written", {"seconds": time.monotonic() - began})
    on_cpu = ("--device-map", '{"": "cpu"}', "--dtype", "float32") if wanted.small else ()
    kinds = {name: replace(KINDS[name], arguments=KINDS[name].arguments + on_cpu) for name in wanted.ways.split(",")}
    ways = {
        name: Process(kind, tree if kind.old else HERE, model, folder / f"{name}.log") for name, kind in kinds.items()
    }
    for name in list(ways):
        try:
            show(f"loaded {name}", ways[name].answer())
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
            del ways[name]
    show("all loaded", {"seconds": time.monotonic() - began})
    base = next(iter(ways))
    timed = {name: way for name, way in ways.items() if name != "float32"}
    maps = {name: folder / f"{name}.npy" for name in ways}
    for name, way in ways.items():
        show(f"maps {name}", way.ask("masks", wanted.scans, str(maps[name])))
    for name in ways:
        for other in [each for each in (base, "float32") if each in ways and each != name]:
            print(f"changed, {name} against {other}: {changed(maps[name], maps[other])}", flush=True)
    print("\n".join(summary(measured(timed, wanted.rounds, wanted.batch, wanted.batches, wanted.lone), base)))
    if "fp8" in timed:
        show("fp8 within 10.5 GiB, batch 1", timed["fp8"].ask("within", 10.5))
    for name, way in timed.items():
        show(f"busy {name}", way.ask("busy", wanted.batch, 4))
        show(f"threads {name}", way.ask("threads", wanted.batch, wanted.batches))
    for way in ways.values():
        way.end()


if __name__ == "__main__":
    sys.exit(main())
