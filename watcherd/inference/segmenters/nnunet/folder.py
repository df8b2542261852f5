"""A trained results folder of nnU-Net: ``dataset.json``, ``plans.json`` and a checkpoint for each fold.

No torch and no nnunetv2, so that ``watcherd doctor`` can look too. nnU-Net finds classes and functions by the
names in its files, some of them by importing whatever is named; so each name is compared with those that it ships.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders
from watcherd.inference.segmenters.nnunet.labels import Labels
from watcherd.inference.segmenters.nnunet.labels import read as read_labels
from watcherd.outputs import NNUNET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from watcherd.config import Model

READERS: Final = ("SimpleITKIO", "NibabelIO", "Tiff3DIO", "NaturalImage2DIO")
"""nnU-Net's readers whose arrays are made here too. NibabelIOWithReorient turns scans, and is not among them."""

ARCHITECTURES: Final = {
    "dynamic_network_architectures.architectures.unet.PlainConvUNet": "unet.PlainConvUNet",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet": "unet.ResidualEncoderUNet",
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": "unet.ResidualEncoderUNet",
}
"""Names of networks in plans, and where these are now, in dynamic_network_architectures.architectures."""

OLD_ARCHITECTURES: Final = ("PlainConvUNet", "ResidualEncoderUNet")
"""The same in plans of nnU-Net before 2.2, which nnU-Net brings up to date."""

NORMALISATIONS: Final = (
    "CTNormalization", "NoNormalization", "RGBTo01Normalization", "RescaleTo01Normalization", "ZScoreNormalization",
)  # fmt: skip

RESAMPLINGS: Final = (
    "no_resampling_hack", "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "resample_torch_simple",
)  # fmt: skip

OF_TORCH: Final = re.compile(r"torch\.nn(?:\.modules\.[a-z]+)?\.[A-Z][A-Za-z0-9]+")
"""Names of layers in plans, which nnU-Net would import from anywhere."""

AGAIN: Final = "Copy the results folder again from where it was trained."


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What the folder's two JSON files say, and where its checkpoints are.

    ``folds``: their names, ``0`` or ``all``, in the order in which they are averaged. ``channels``: names of the
    channels. ``reader``: nnU-Net's class that read the scans of the training.
    """

    folder: Path
    dataset: Mapping[str, Any]
    plans: Mapping[str, Any]
    folds: tuple[str, ...]
    checkpoint: str
    channels: tuple[str, ...]
    labels: Labels
    reader: str

    @property
    def checkpoints(self) -> list[Path]:
        """The file of each fold."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    @property
    def files(self) -> list[Path]:
        """Everything that decides about masks."""
        return [self.folder / "dataset.json", self.folder / "plans.json", *self.checkpoints]

    @property
    def files_per_case(self) -> int:
        """Colours come as one file, other channels as a file each."""
        return 1 if self.reader == "NaturalImage2DIO" and len(self.channels) == 3 else len(self.channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """One configuration of the plans. ``patch`` and ``spacing``: of as many axes as it has, the slowest first, in the
    order of ``forward``: which axis of the scan each of the three is."""

    name: str
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    forward: tuple[int, int, int]
    features: int
    median: tuple[float, ...]

    @property
    def is_3d(self) -> bool:
        """Whether the network sees volumes, not slices."""
        return len(self.patch) == 3


def read(model: Model) -> Results:
    """Raises `ConfigError` for a folder that is not there or is none of nnU-Net's, or holds what is not followed, and
    `UnavailableError` for files that cannot be read."""
    if model.path is None:
        raise ConfigError(
            "The segmenter nnunet needs a results folder, and model.path is empty.",
            hint="Give the folder that holds dataset.json, plans.json and fold_0.",
        )
    folder = model.path
    folders.refuse_missing(folder)
    folders.refuse_unreadable(folder)
    dataset, plans = (_json(folder, name) for name in ("dataset.json", "plans.json"))
    checkpoint = f"checkpoint_{model.nnunet.checkpoint}.pth"
    reader = plans.get("image_reader_writer")
    _refuse_others("plans.json", "image_reader_writer", [reader], READERS)
    _refuse_others("plans.json", "label_manager", [plans.get("label_manager", "LabelManager")], ("LabelManager",))
    channels = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise ConfigError(f"{folder / 'dataset.json'} names no channels.", hint=AGAIN)
    return Results(
        folder=folder,
        dataset=dataset,
        plans=plans,
        folds=_folds(folder, model.nnunet.folds, checkpoint),
        checkpoint=checkpoint,
        channels=tuple(str(channels[key]) for key in sorted(channels, key=str)),
        labels=read_labels(dataset, folder / "dataset.json"),
        reader=str(reader),
    )


def refuse_missing_extra() -> None:
    """Raise `UnavailableError` where nnunetv2 is not installed."""
    if importlib.util.find_spec(NNUNET.module) is None:
        raise UnavailableError(
            f"The segmenter nnunet needs {NNUNET.library}, which is not installed.",
            hint=f"Install it with watcherd's constraints, or pip may replace torch: {NNUNET.command}",
        )


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inner = sorted(each.parent.name for each in folder.glob(f"*/{name}"))
        hint = f"Did you mean its folder {inner[0]}?" if inner else AGAIN
        raise ConfigError(
            f"model.path = {str(folder)!r} has no {name}: it is no results folder of nnU-Net v2.",
            hint=f"That is the folder named like nnUNetTrainer__nnUNetPlans__3d_fullres, with {name} in it. {hint}",
        ) from None
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}.", hint=AGAIN) from error
    if not isinstance(found, dict):
        raise UnavailableError(f"{path} holds no JSON object.", hint=AGAIN)
    return found


def _folds(folder: Path, wanted: Sequence[int | str], checkpoint: str) -> tuple[str, ...]:
    """Those that are asked for; else all that have a number. ``all`` was trained on everything, and is only taken when
    it is asked for, as nnU-Net does it."""
    there = {path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}")}
    listed = ", ".join(sorted(there)) or "none"
    if wanted:
        missing = [str(fold) for fold in wanted if str(fold) not in there]
        if missing:
            raise ConfigError(
                f"{folder} has no {checkpoint} in fold_{missing[0]}, which model.nnunet.folds asks for.",
                hint=f"Folds with that file: {listed}.",
            )
        return tuple(str(fold) for fold in wanted)
    numbered = sorted((fold for fold in there if fold.isdecimal()), key=int)
    if not numbered:
        hint = 'Set folds = ["all"] in [model.nnunet].' if "all" in there else AGAIN
        raise ConfigError(f"{folder} has no numbered fold with {checkpoint}; there are: {listed}.", hint=hint)
    return tuple(numbered)


def configuration(results: Results, name: str) -> Configuration:
    """The configuration of this name, which is the checkpoint's own.

    Raises `ConfigError` for a cascade, and for names of classes and functions that are not nnU-Net's own.
    """
    try:
        return _configuration(results, name)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{results.folder / 'plans.json'} has no whole configuration {name!r} ({type(error).__name__}: {error}).",
            hint=AGAIN,
        ) from error


def _configuration(results: Results, name: str) -> Configuration:
    found = resolved(results.plans, name)
    if found.get("previous_stage"):
        raise ConfigError(
            f"The configuration {name!r} is the second stage of a cascade, which needs the mask of "
            f"{found['previous_stage']!r} besides the scan.",
            hint="Use 3d_fullres, 3d_lowres or 2d.",
        )
    _refuse_others("plans.json", "preprocessor_name", [found["preprocessor_name"]], ("DefaultPreprocessor",))
    _refuse_others("plans.json", "normalization_schemes", found["normalization_schemes"], NORMALISATIONS)
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        _refuse_others("plans.json", key, [found[key]], RESAMPLINGS)
    features = _check_architecture(found)
    patch, spacing = tuple(map(int, found["patch_size"])), tuple(map(float, found["spacing"]))
    first, second, third = map(int, results.plans["transpose_forward"])
    if len(patch) != len(spacing) or len(patch) not in (2, 3) or {first, second, third} != {0, 1, 2}:
        raise ValueError("patch_size, spacing and transpose_forward do not go together")
    if len(found["normalization_schemes"]) != len(results.channels):
        raise ValueError(f"{len(found['normalization_schemes'])} schemes for {len(results.channels)} channels")
    return Configuration(
        name=name,
        patch=patch,
        spacing=spacing,
        forward=(first, second, third),
        features=features,
        median=tuple(map(float, found["median_image_size_in_voxels"])),
    )


def resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others. Raises KeyError, or ValueError where they go in a circle."""
    chain: list[Mapping[str, Any]] = []
    following: str | None = name
    while following is not None:
        if len(chain) > len(plans["configurations"]):
            raise ValueError("its configurations inherit in a circle")
        chain.append(plans["configurations"][following])
        following = chain[-1].get("inherits_from")
    found: dict[str, Any] = {}
    for each in reversed(chain):
        found |= each
    return found


def _check_architecture(found: Mapping[str, Any]) -> int:
    """Features of the network's first stage. Raises `ConfigError` for names that are not known."""
    if "architecture" not in found:
        _refuse_others("plans.json", "UNet_class_name", [found["UNet_class_name"]], OLD_ARCHITECTURES)
        return int(found["UNet_base_num_features"])
    architecture = found["architecture"]
    _refuse_others("plans.json", "network_class_name", [architecture["network_class_name"]], tuple(ARCHITECTURES))
    arguments = architecture["arch_kwargs"]
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None and not OF_TORCH.fullmatch(str(arguments[key])):
            raise ConfigError(
                f"plans.json names {arguments[key]!r} as {key}, which is no layer of torch.nn.",
                hint="nnU-Net would import whatever is named there. Correct it if it is a mistake.",
            )
    features = arguments["features_per_stage"]
    return int(features[0] if isinstance(features, list) else features)


def _refuse_others(file: str, key: str, found: Sequence[object], known: Sequence[str]) -> None:
    other = next((name for name in found if name not in known), None)
    if other is not None:
        raise ConfigError(
            f"{file} names {other!r} as {key}, which is not followed here.", hint=f"Known are {', '.join(known)}."
        )
