"""Tiny models of nnU-Net, planned, prepared and trained for a few steps by nnunetv2 itself, and scans for them.

    python -m tests.nnunet_tiny model FOLDER [--configuration 2d] [--channels N] [--regions] [--folds N] [--ending .png]
    python -m tests.nnunet_tiny scans FOLDER [--cases N] [--channels N] [--ending .png]

Needs nnunetv2 (the extra nnunet) and SimpleITK; nothing is downloaded, and all numbers come from fixed seeds. ``model``
takes about a minute, most of it for the planning. The scans are what nnU-Net's rules differ for: like the training,
anisotropic, oblique, oblique with zeros around, smaller than a tile, thick along the last axis.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SPACING = (2.5, 0.8, 0.8)
NAME = "Dataset901_Tiny"
SCANS: tuple[tuple[tuple[int, int, int], tuple[float, float, float], float, int], ...] = (
    ((12, 40, 36), SPACING, 0.0, 0),
    ((9, 50, 44), (5.0, 0.7, 0.7), 0.0, 0),
    ((14, 36, 40), (2.0, 1.0, 0.9), 17.0, 0),
    ((30, 30, 30), (1.0, 1.0, 1.0), -8.0, 5),
    ((5, 16, 14), SPACING, 0.0, 0),
    ((24, 22, 70), (0.8, 0.8, 4.0), 0.0, 0),
)
"""Shape (slices, rows, columns), spacing in mm, degrees about two axes, and voxels of zeros around."""


def blobs(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[Any, Any]:
    """A noisy scan with three bright balls in it, and their labels: 1 for the shell, 2 for the core."""
    grid = np.indices(shape, np.float32)
    image = generator.normal(100, 10, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    for _ in range(3):
        centre = np.array([generator.uniform(0.25, 0.75) * side for side in shape])
        radius = np.array([max(1.5, generator.uniform(0.1, 0.25) * side) for side in shape])
        distance = np.sqrt((((grid.T - centre) / radius) ** 2).sum(-1)).T
        label[distance < 1] = np.maximum(label[distance < 1], 1)
        label[distance < 0.5] = 2
    return image + 60 * label.astype(np.float32), label


def write_nifti(path: Path, array: Any, spacing: tuple[float, ...], degrees: float = 0.0) -> None:
    """An array of (slices, rows, columns) on a grid that is turned about two axes."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in reversed(spacing)])
    image.SetOrigin((-12.5, 30.0, 7.25))
    turn = SimpleITK.Euler3DTransform()
    turn.SetRotation(np.deg2rad(degrees), np.deg2rad(degrees / 2), 0.0)
    image.SetDirection(turn.GetMatrix())
    SimpleITK.WriteImage(image, str(path), True)


def make_scans(folder: Path, cases: int, channels: int, seed: int = 100) -> None:
    """``scan_00_0000.nii.gz`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for case in range(cases):
        shape, spacing, degrees, border = SCANS[case % len(SCANS)]
        image, _ = blobs(shape, generator)
        outside = np.ones(shape, bool)
        outside[tuple(slice(border, side - border) for side in shape)] = False
        for channel in range(channels):
            noisy = (image * (1 + 0.5 * channel) + generator.normal(0, 5, shape)).astype(np.float32)
            noisy[outside] = 0
            write_nifti(folder / f"scan_{case:02d}_{channel:04d}.nii.gz", noisy, spacing, degrees)


def make_pictures(folder: Path, cases: int, seed: int = 200) -> None:
    """Grey PNGs, ``scan_00_0000.png`` and so on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for case in range(cases):
        image, _ = blobs((64 - 9 * case, 72 + 5 * case), generator)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"scan_{case:02d}_0000.png")


def _make_dataset(raw: Path, given: argparse.Namespace, generator: np.random.Generator) -> None:
    """A raw data set in nnU-Net's layout."""
    from PIL import Image

    folder = raw / NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    pictures = given.ending == ".png"
    for case in range(6):
        shape = (int(generator.integers(10, 16)), *(int(side) for side in generator.integers(30, 44, 2)))
        image, label = blobs((64, 72) if pictures else shape, generator)
        if pictures:
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"imagesTr/case_{case:03d}_0000.png")
            Image.fromarray(label).save(folder / f"labelsTr/case_{case:03d}.png")
            continue
        for channel in range(given.channels):
            noisy = image * (1 + 0.5 * channel) + generator.normal(0, 5, shape)
            write_nifti(folder / f"imagesTr/case_{case:03d}_{channel:04d}.nii.gz", noisy.astype(np.float32), SPACING)
        write_nifti(folder / f"labelsTr/case_{case:03d}.nii.gz", label, SPACING)
    plain, regions = {"background": 0, "shell": 1, "core": 2}, {"background": 0, "whole": [1, 2], "core": [2]}
    described: dict[str, Any] = {
        "channel_names": {
            str(each): "CT" if each == 0 and not pictures else "zscore" for each in range(given.channels)
        },
        "labels": regions if given.regions else plain,
        "numTraining": 6,
        "file_ending": given.ending,
    }
    if given.regions:
        described["regions_class_order"] = [1, 2]
    (folder / "dataset.json").write_text(json.dumps(described, indent=2))


def _shrink(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A smaller tile and fewer features, which train in seconds. Everything else is the planner's own."""
    chosen = plans["configurations"][configuration]
    axes = len(chosen["patch_size"])
    chosen["patch_size"] = [24, 24] if axes == 2 else [8, 24, 24]
    chosen["batch_size"] = 2
    chosen["architecture"]["arch_kwargs"].update(
        n_stages=3,
        features_per_stage=[4, 8, 8],
        kernel_sizes=[[3] * axes] * 3,
        strides=[[1] * axes, [2, 2] if axes == 2 else [1, 2, 2], [2] * axes],
        n_conv_per_stage=[1, 1, 1],
        n_conv_per_stage_decoder=[1, 1],
    )
    return plans


def make_model(target: Path, given: argparse.Namespace, steps: int = 12) -> None:
    """A results folder. All that nnunetv2 writes besides goes to a temporary folder."""
    work = Path(tempfile.mkdtemp(prefix="tiny-nnunet-"))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / name).mkdir()
        os.environ[name] = str(work / name)
    # The planner sets torch's threads to the number of its processes, which must not be 0; training takes 0: none then.
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_compile="f", OMP_NUM_THREADS="1", nnUNet_def_n_proc="1")
    try:
        _train(work, given, steps)
        results = work / "nnUNet_results" / NAME / f"nnUNetTrainer__nnUNetPlans__{given.configuration}"
        for fold in range(given.folds):
            (target / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
            shutil.copy(results / f"fold_{fold}" / "checkpoint_final.pth", target / f"fold_{fold}")
        for name in ("dataset.json", "plans.json"):
            shutil.copy(results / name, target / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _train(work: Path, given: argparse.Namespace, steps: int) -> None:
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    _make_dataset(work / "nnUNet_raw", given, np.random.default_rng(0))
    extract_fingerprints([901], num_processes=1, check_dataset_integrity=True)
    plan_experiments([901])
    folder = work / "nnUNet_preprocessed" / NAME
    plans = _shrink(json.loads((folder / "nnUNetPlans.json").read_text()), given.configuration)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    preprocess([901], configurations=(given.configuration,), num_processes=(1,))
    os.environ.update(nnUNet_n_proc_DA="0")
    described = json.loads((folder / "dataset.json").read_text())
    for fold in range(given.folds):
        torch.manual_seed(fold)
        np.random.seed(fold)
        copied = {**json.loads(json.dumps(plans)), "continue_training": False}  # which 2.8 takes out of them
        trainer = nnUNetTrainer(copied, given.configuration, fold, described, torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, steps, 1
        trainer.initial_lr = 0.02
        trainer.run_training()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["model", "scans"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configuration", default="3d_fullres", choices=["2d", "3d_fullres"])
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--regions", action="store_true")
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--ending", default=".nii.gz", choices=[".nii.gz", ".png"])
    parser.add_argument("--cases", type=int, default=6)
    given = parser.parse_args()
    if given.what == "model":
        make_model(given.folder, given)
    elif given.ending == ".png":
        make_pictures(given.folder, given.cases)
    else:
        make_scans(given.folder, given.cases, given.channels)


if __name__ == "__main__":  # nnunetv2 starts processes, which import this file again
    main()
