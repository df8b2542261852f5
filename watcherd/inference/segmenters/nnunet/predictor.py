"""nnU-Net's own predictor, kept loaded. Importing nnunetv2 happens here and nowhere else.

Its sliding window sums in half precision, on a CPU too, so that no window but its own gives its masks.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from watcherd.errors import UnavailableError
from watcherd.inference.segmenters.nnunet import trainers
from watcherd.inference.segmenters.nnunet.folder import (
    AGAIN,
    ARCHITECTURES,
    configuration,
    refuse_missing_extra,
    resolved,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from watcherd.inference.base import Mark
    from watcherd.inference.segmenters.nnunet.folder import Configuration, Results
    from watcherd.inference.segmenters.nnunet.prepare import Spacing

BESIDES: Final = frozenset({"torch.device"})
"""What nnU-Net's checkpoints name besides tensors, containers and numpy's scalars."""

DROPPED: Final = ("nnUNet_compile", "nnUNet_extTrainer")
"""Variables of the environment that would change what is computed, or import code from a folder."""

ALIVE_SECONDS: Final = 1.0
"""Seconds between two signs of life while tiles are computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a checkpoint says besides its weights. ``mirroring``: the axes over which its trainer allows to mirror."""

    configuration: Configuration
    trainer: str
    mirroring: tuple[int, ...] | None


def head(results: Results) -> Head:
    """That of the first fold, which decides for all. Reads no weights.

    Raises `UnavailableError` for a file that cannot be read or names what weights do not need, or a trainer that is not
    known, and `ConfigError` for a configuration that is not followed.
    """
    path = results.checkpoints[0]
    return _head(results, _opened(path), path)


def _head(results: Results, content: Mapping[Any, Any], path: Path) -> Head:
    try:
        name, trainer = content["init_args"]["configuration"], content["trainer_name"]
        axes = content.get("inference_allowed_mirroring_axes")
        mirroring = None if axes is None else tuple(int(axis) for axis in axes)
    except (KeyError, TypeError, ValueError) as error:
        raise UnavailableError(
            f"{path} is no checkpoint of nnU-Net v2: it does not say how it was trained ({error}).", hint=AGAIN
        ) from error
    trainers.refuse_unknown(trainer, path)
    return Head(configuration=configuration(results, str(name)), trainer=str(trainer), mirroring=mirroring)


def _opened(path: Path) -> Mapping[Any, Any]:
    from watcherd.inference.segmenters.sa2va import pickled

    return pickled.read(path, besides=BESIDES)


def skeleton(results: Results, chosen: Configuration) -> nn.Module:
    """The network on the meta device."""
    from watcherd.inference import loading

    refuse_missing_extra()
    with _quiet():
        return loading.skeleton(lambda: _network(results, chosen)[0])


def _plans(results: Results) -> dict[str, Any]:
    """The plans with the networks where they are now: nnU-Net looks for one that has moved by importing everything."""
    plans = {**results.plans, "configurations": {}}
    for name in results.plans["configurations"]:
        found = resolved(results.plans, name)
        found.pop("inherits_from", None)
        if "architecture" in found:
            place = ARCHITECTURES.get(found["architecture"]["network_class_name"])
            new = f"dynamic_network_architectures.architectures.{place}"
            found["architecture"] = {**found["architecture"], "network_class_name": new}
        plans["configurations"][name] = found
    return plans


def _network(results: Results, chosen: Configuration) -> tuple[nn.Module, Any, Any]:
    """The network without weights, and nnU-Net's managers of its plans and of the configuration."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(_plans(results))
    manager = plans.get_configuration(chosen.name)
    network: nn.Module = get_network_from_plans(
        manager.network_arch_class_name,
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        len(results.channels),
        plans.get_label_manager(dict(results.dataset)).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    return network, plans, manager


class Predictor:
    """The model of all folds on one device. ``step``: of the tiles, as a part of their size."""

    def __init__(self, results: Results, device: str, *, step: float, mark: Mark) -> None:
        refuse_missing_extra()
        self._mark = mark
        self._marked = time.monotonic()
        self._before = _preparing()
        with _quiet():
            self._load(results, device, step)

    def _load(self, results: Results, device: str, step: float) -> None:
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        saved = []
        for number, path in enumerate(results.checkpoints):
            self._mark(f"loading fold {results.folds[number]}", number / len(results.folds))
            content = _opened(path)
            if number == 0:
                self.head = _head(results, content, path)
            saved.append(_weights(content, path))
        network, plans, manager = _network(results, self.head.configuration)
        for weights, path in zip(reversed(saved), reversed(results.checkpoints), strict=True):  # the first is left in
            _fill(network, weights, path)
        network.eval()
        network.register_forward_pre_hook(self._alive)
        self._predictor: Any = nnUNetPredictor(
            tile_step_size=step, use_mirroring=True, device=torch.device(device), allow_tqdm=False
        )
        self._predictor.manual_initialization(
            network, plans, manager, saved, dict(results.dataset), self.head.trainer, self.head.mirroring
        )
        self._predictor.network = network.to(device)

    def _alive(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._marked > ALIVE_SECONDS:
            self._marked = now
            self._mark("segmenting", None)

    def predict(
        self, array: NDArray[np.float32], spacing: Spacing, *, mirroring: bool, probabilities: bool, mark: Mark
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Labels (slices, rows, columns), and if asked for the probabilities, with classes or regions in front."""
        self._mark, self._before = mark, _preparing()
        self._predictor.use_mirroring = mirroring
        with _quiet():
            found: Any = self._predictor.predict_single_npy_array(
                array, {"spacing": list(spacing)}, save_or_return_probabilities=probabilities
            )
        labels, maps = found if probabilities else (found, None)
        return np.asarray(labels).astype(np.uint8), None if maps is None else np.asarray(maps, np.float32)

    def has_left_threads(self) -> bool:
        """Whether the last prediction has: a try that failed on the device, and was made up for on the host, leaves its
        thread and its scan there for ever."""
        return _preparing() > self._before


def _preparing() -> int:
    """Threads of nnU-Net's that put tiles into its queue: none, between two predictions, unless one was left."""
    return sum("(producer)" in thread.name for thread in threading.enumerate())


def _weights(content: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """The weights in memory of their own. nnU-Net names each layer several times: these stay one."""
    from watcherd.inference.segmenters.sa2va import pickled

    named = content.get("network_weights")
    if not isinstance(named, dict):
        raise UnavailableError(f"{path} holds no network_weights: it is no checkpoint of nnU-Net v2.", hint=AGAIN)
    copies: dict[tuple[int, tuple[int, ...], tuple[int, ...]], torch.Tensor] = {}
    found = {}
    for name, tensor in pickled.tensors(named, path).items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if key not in copies:
            copies[key] = tensor.detach().clone()
        found[name] = copies[key]
    return found


def _fill(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines()[1:2]]
        raise UnavailableError(
            f"The weights in {path} are not those of the network in plans.json: {' '.join(said)}",
            hint="Folds of another training lie in the folder, or its trainer builds a network of its own.",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """nnunetv2 prints, warns, and reads the environment: how many threads it takes, when it is imported. Its module of
    settings would ask a shell for the machine's name if it were not told how many processes train."""
    import torch

    before = dict(os.environ)
    for name in DROPPED:
        os.environ.pop(name, None)
    os.environ.update(nnUNet_n_proc_DA="1", nnUNet_def_n_proc=str(torch.get_num_threads()))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in (*DROPPED, "nnUNet_n_proc_DA", "nnUNet_def_n_proc"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
