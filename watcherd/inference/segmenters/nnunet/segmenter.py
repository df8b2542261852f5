"""What watcherd sees of a trained nnU-Net: whole volumes in, label values on their own voxels out."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import loading
from watcherd.inference.base import ModelInfo, Prediction, Volume, VolumePrediction
from watcherd.inference.machine.devices import GIB
from watcherd.inference.segmenters.nnunet import folder, prepare
from watcherd.inference.segmenters.nnunet import predictor as engine
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from watcherd.config import Model
    from watcherd.inference.base import Frame, Golden, Mark, Placement

VERSION = "nnunet-1"
"""Part of the revision: raised whenever this code may give other masks for the same weights."""
DTYPE = "float32"
"""Dtype of the weights. On a GPU nnU-Net itself computes under float16 autocast."""
MAPS = 14
"""Maps of the first stage's features that are held at once while a tile is computed, an upper bound: the decoder's last
stage has its inputs side by side, and convolution, norm and activation each make one anew."""
HALF = 2
"""Bytes of a number in half precision."""


class NnunetSegmenter:
    """The model in the results folder ``model.path``.

    Raises `ConfigError` or `UnavailableError` for a folder that cannot be used, then where nnunetv2 is not installed.
    """

    def __init__(self, model: Model) -> None:
        self._setting = model.nnunet
        self._results = folder.read(model)
        if model.dtype not in ("auto", DTYPE):
            raise ConfigError(
                f'model.dtype = "{model.dtype}": nnU-Net keeps its weights in {DTYPE}, and computes in half precision '
                "on GPUs by itself.",
                hint='Set dtype to "auto".',
            )
        folder.refuse_missing_extra()
        self._predictor: engine.Predictor | None = None

    # ------------------------------------------------------------------------------------------------- what it is

    def info(self) -> ModelInfo:
        """Name, model and revision; the revision also changes with what changes masks."""
        return ModelInfo(
            segmenter="nnunet",
            model=self._results.folder.name,
            revision=self._revision,
            dtype=DTYPE,
            parameters=self._parameters,
        )

    @cached_property
    def _revision(self) -> str:
        extra = f"{VERSION} {version('nnunetv2')} {self._setting!r} {self._results.folds}"
        return loading.fingerprint_of(self._results.folder, self._results.files, extra=extra)

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    @cached_property
    def _head(self) -> engine.Head:
        return engine.head(self._results)

    def own_dtype(self) -> str:
        """nnU-Net decides by itself."""
        return DTYPE

    def skeleton(self) -> nn.Module:
        """The network with parameters on the meta device; all folds take turns in one."""
        return engine.skeleton(self._results, self._head.configuration)

    def no_split(self) -> tuple[str, ...]:
        """All of it: nnU-Net moves its network to one device."""
        return (type(self.skeleton()).__name__,)

    def reserve_gib(self, batch_size: int) -> float:
        """A tile's activations in half precision, and the sums of a scan as large as half of those of the training."""
        chosen = self._head.configuration
        tile = MAPS * chosen.features * float(np.prod(chosen.patch)) * HALF
        scan = (self._results.labels.heads + len(self._results.channels) + 1) * float(np.prod(chosen.median)) * HALF
        return 0.25 + batch_size * (tile + scan) / GIB

    def load(self, placement: Placement, mark: Mark) -> None:
        """Read every fold.

        Raises `UnavailableError` if one cannot be loaded, and `ConfigError` for what is not followed.
        """
        if len(placement.devices) > 1:
            raise UnavailableError(
                f"nnU-Net runs on one device, and was given {len(placement.devices)}.",
                hint='Set devices.per_replica to 1, or "auto".',
            )
        step = self._setting.step
        self._predictor = engine.Predictor(self._results, placement.devices[0], step=step, mark=mark)
        mark("loading weights", 1.0)

    # ---------------------------------------------------------------------------------------------------- volumes

    def files_per_case(self) -> int:
        """A file for each channel, but colours."""
        return self._results.files_per_case

    def takes_whole(self, volume: Volume) -> bool:
        """As nnU-Net's own reader would give it."""
        return prepare.takes_whole(volume, self._results, self._head.configuration)

    def predict_volume(self, volume: Volume, mark: Mark) -> VolumePrediction:
        """What nnU-Net's command writes for the file, value for value."""
        if self._predictor is None:
            raise UnavailableError("The model is not loaded yet.", hint="Call load first.")
        array, spacing = prepare.prepared(volume, self._results, self._head.configuration)
        asked = volume.options.asks_for_probability
        mask, maps = self._predictor.predict(
            array, spacing, mirroring=volume.options.tta, probabilities=asked, mark=mark
        )
        return VolumePrediction(
            mask=mask,
            probability=None if maps is None else self._likeliest(maps),
            labels=self._results.labels.names,
        )

    def _likeliest(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of regions there is no map for the background."""
        findings = maps if self._results.labels.has_regions else maps[1:]
        likeliest: NDArray[np.float32] = findings.max(axis=0).clip(0, 1)
        return likeliest

    def worn(self) -> str:
        """Why the process should not go on; empty as long as all is well."""
        if self._predictor is None or not self._predictor.has_left_threads():
            return ""
        return "a scan did not fit onto the device, was computed on the host, and is left there"

    def probe_volume(self) -> Volume:
        """One tile, smooth and bright in the middle."""
        chosen = self._head.configuration
        sides = chosen.patch if chosen.is_3d else (1, *chosen.patch)
        spacing = chosen.spacing if chosen.is_3d else (max(chosen.spacing), *chosen.spacing)
        shape, own = [0] * 3, [0.0] * 3
        for axis, side, step in zip(chosen.forward, sides, spacing, strict=True):
            shape[axis], own[axis] = side, step
        return Volume(
            channels=tuple(self._ball(shape, channel) for channel in range(len(self._results.channels))),
            options=Options(),
            spacing_mm=(own[0], own[1], own[2]),
            format="NIFTI",
        )

    def _ball(self, shape: Sequence[int], channel: int) -> NDArray[np.float32]:
        known = self._results.plans.get("foreground_intensity_properties_per_channel", {}).get(str(channel), {})
        mean, deviation = float(known.get("mean", 100.0)), float(known.get("std", 25.0)) or 1.0
        grid = np.indices(shape, np.float32)
        half = np.maximum(np.array(shape, np.float32) - 1, 1)[:, np.newaxis, np.newaxis, np.newaxis] / 2
        distance = np.sqrt((((grid - half) / half) ** 2).sum(axis=0))
        return np.asarray(mean + 2 * deviation * np.cos(3 * distance), np.float32)

    # ----------------------------------------------------------------------------------------------------- frames

    def batch_key(self, frame: Frame) -> Hashable:
        """Frames are computed one by one."""
        return frame.pixels.shape, frame.options.tta

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """Frames as planes, for a network of slices. The service gives volumes, whose numbers are the file's own."""
        return [self._of_frame(frame) for frame in frames]

    def _of_frame(self, frame: Frame) -> Prediction:
        pixels = frame.pixels if frame.pixels.ndim == 3 else frame.pixels[..., np.newaxis]
        channels = tuple(pixels[np.newaxis, ..., channel] for channel in range(pixels.shape[2]))
        found = self.predict_volume(Volume(channels=channels, options=frame.options), lambda *_: None)
        probability = None if found.probability is None else found.probability[0]
        return Prediction(probability=probability, mask=found.mask[0], labels=found.labels)

    def golden(self) -> Golden | None:
        """None: a model that somebody trained has no mask that we know."""
        return None
