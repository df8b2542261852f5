"""A results folder of nnU-Net as its files say it, with weights of nothing: for tests that load no network."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "shell": 1, "core": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}

RESAMPLING = "resample_data_or_seg_to_shape"


def configuration(axes: int = 3, **changes: Any) -> dict[str, Any]:
    """As nnU-Net 2.8 plans it, with a small tile."""
    return {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 24, 24][-axes:],
        "median_image_size_in_voxels": [12.0, 40.0, 36.0][-axes:],
        "spacing": [2.5, 0.8, 0.8][-axes:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 8, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    } | changes


PLANS: dict[str, Any] = {
    "dataset_name": "Dataset901_Tiny",
    "plans_name": "nnUNetPlans",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "configurations": {"3d_fullres": configuration(), "2d": configuration(2)},
    "foreground_intensity_properties_per_channel": {"0": {"mean": 150.0, "std": 20.0}},
}


def checkpoint(name: str = "3d_fullres", **changes: Any) -> dict[str, Any]:
    """As nnU-Net saves it: beside tensors with numbers of numpy, and the device."""
    return {
        "network_weights": {"encoder.weight": torch.arange(4.0)},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float32(0.25),
        "current_epoch": 1,
        "init_args": {"configuration": name, "fold": 0, "device": torch.device("cpu"), "dataset_json": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    } | changes


def make(
    folder: Path,
    *,
    dataset: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
    folds: tuple[str, ...] = ("0",),
    saved: dict[str, Any] | None = None,
) -> Path:
    """The folder, with what differs from the above in its files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(deepcopy(DATASET) | (dataset or {})))
    (folder / "plans.json").write_text(json.dumps(deepcopy(PLANS) | (plans or {})))
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(checkpoint(**(saved or {})), folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
