"""nnU-Net loaded once, beside its own command for each case and for a folder of cases.

    python -m benchmarks.nnunet [--cases 20] [--out FILE]

Needs the extra nnunet. On the CPU, one thread each, in one run: a tiny 3D model of two folds that nnunetv2 trains for a
few steps, and cases of ``tests.nnunet_tiny``. A tiny network shows what each way costs besides the network, which is
what differs; with a large one on a CPU the network would hide it. The labels of all three ways are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.running import Running

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "nnUNet_def_n_proc": "1",
    "nnUNet_n_proc_DA": "1",
    "nnUNet_raw": os.devnull,
    "nnUNet_preprocessed": os.devnull,
    "nnUNet_results": os.devnull,
}
SETTLE = 0.2
PATIENCE = 3600.0


def python(*arguments: str) -> None:
    """Run Python with nnU-Net's environment. Raises CalledProcessError."""
    subprocess.run([sys.executable, *arguments], check=True, env={**os.environ, **ENVIRONMENT}, capture_output=True)


def command(scans: Path, model: Path, out: Path) -> float:
    """Seconds of nnU-Net's command on a folder, with one process each for reading and for writing."""
    began = time.perf_counter()
    names = ["-i", scans, "-o", out, "-m", model, "-f", "0", "1", "-device", "cpu", "-npp", "1", "-nps", "1"]
    python("-c", COMMAND, *map(str, names))
    return time.perf_counter() - began


def each_by_itself(scans: Sequence[Path], model: Path, folder: Path) -> float:
    """Seconds of a call of the command for each case."""
    seconds = 0.0
    for scan in scans:
        alone = folder / "alone" / scan.name
        alone.mkdir(parents=True)
        shutil.copy(scan, alone)
        seconds += command(alone, model, folder / "by-case")
    return seconds


def watcherd(scans: Sequence[Path], model: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the service from its start to ready, and from the first file dropped to the last mask delivered."""
    running = Running(
        folder / "service",
        inbox={"settle_seconds": SETTLE},
        outbox={"outputs": ["mask"], "measures": False},
        model={"segmenter": "nnunet", "path": str(model), "tta": True},
        devices={"use": "cpu"},
    )
    began = time.perf_counter()
    running.start(environment=ENVIRONMENT)
    running.ready()
    started = time.perf_counter() - began
    began = time.perf_counter()
    for scan in scans:
        shutil.copy(scan, running.inbox)
    masks = running.outbox / "masks"
    running.wait(lambda: len(list(masks.glob("*.nii.gz"))) == len(scans), PATIENCE)
    took = time.perf_counter() - began
    running.stop()
    return started, took


def different(scans: Sequence[Path], folder: Path) -> tuple[int, int]:
    """Voxels whose labels are not the same in all three ways, and how many voxels there are."""
    import nibabel

    wrong = voxels = 0
    for scan in scans:
        case = scan.name.replace("_0000.nii.gz", ".nii.gz")
        places = (folder / "service/outbox/masks" / scan.name, folder / "by-folder" / case, folder / "by-case" / case)
        labels: list[Any] = [np.asarray(nibabel.load(path).dataobj) for path in places]  # type: ignore[attr-defined]
        wrong += int(((labels[0] != labels[1]) | (labels[0] != labels[2])).sum())
        voxels += labels[0].size
    return wrong, voxels


def measure(folder: Path, cases: int) -> dict[str, Any]:
    """All of it, in one run."""
    model, scans = folder / "model", folder / "scans"
    python("-m", "tests.nnunet_tiny", "model", str(model), "--folds", "2")
    python("-m", "tests.nnunet_tiny", "scans", str(scans), "--cases", str(cases))
    files = sorted(scans.iterdir())
    before = os.getloadavg()[0]
    started, took = watcherd(files, model, folder)
    by_folder = command(scans, model, folder / "by-folder")
    by_case = each_by_itself(files, model, folder)
    wrong, voxels = different(files, folder)
    return {
        "cases": cases,
        "load_before_and_after": [before, os.getloadavg()[0]],
        "seconds": {
            "watcherd_start": started,
            "watcherd_cases": took,
            "command_on_the_folder": by_folder,
            "command_for_each_case": by_case,
        },
        "command_for_each_case_to_watcherd": by_case / took,
        "command_for_each_case_to_watcherd_with_its_start": by_case / (started + took),
        "command_on_the_folder_to_watcherd": by_folder / took,
        "command_on_the_folder_to_watcherd_with_its_start": by_folder / (started + took),
        "voxels_that_differ": wrong,
        "voxels": voxels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-nnunet-") as folder:
        text = json.dumps(measure(Path(folder), given.cases), indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
