"""What watcherd sees of a Hugging Face segmentation model: whole pictures, sliding windows, flips, label masks."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import UnavailableError
from watcherd.inference import loading, transfer
from watcherd.inference.base import Frame, ModelInfo, Pending, Prediction
from watcherd.inference.faults import not_numbers
from watcherd.inference.segmenters.semantic.classes import Classes
from watcherd.inference.segmenters.semantic.network import Network, describe
from watcherd.inference.segmenters.semantic.recipe import Geometry, Recipe
from watcherd.inference.segmenters.semantic.scaling import starts
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import torch
    from torch import nn

    from watcherd.config import Model
    from watcherd.inference.base import Golden, Mark, Placement

VERSION = "semantic-2"
"""Part of the revision: raised whenever this code may give other masks for the same weights."""
WINDOWS_AT_ONCE = 4
"""Windows of one scan that go through the model together."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Test-time augmentation: the axes along which each view is mirrored."""


class SemanticSegmenter:
    """The model in the Hugging Face folder ``model.path``. Raises `ConfigError` for a folder that cannot be used."""

    def __init__(self, model: Model) -> None:
        self._setting = model.semantic
        self._description = describe(model.path)
        self._recipe = Recipe.read(self._description.folder, model.semantic, self._description.config.model_type)
        labels = self._description.config.id2label
        self._classes = Classes.choose(labels, model.semantic, shifted=self._recipe.shifted_labels)
        self._network: Network | None = None
        self._dtype = "float32"

    def info(self) -> ModelInfo:
        """Name, model and revision; the revision also changes with the settings that change masks."""
        return ModelInfo(
            segmenter="semantic",
            model=self._description.folder.name,
            revision=self._revision,
            dtype=self._dtype,
            parameters=self._parameters,
        )

    @cached_property
    def _revision(self) -> str:
        return loading.fingerprint(self._description.folder, extra=f"{VERSION} {self._setting!r}")

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    def load(self, placement: Placement, mark: Mark) -> None:
        """Put the model onto the devices of ``placement``. Raises `UnavailableError` if it cannot be loaded."""
        mark("loading weights", None)
        self._network = Network(self._description, placement)
        self._dtype = placement.dtype
        mark("loading weights", 1.0)

    def batch_key(self, frame: Frame) -> Hashable:
        """Frames that look alike to the model: scaled to one size, both whole or both tiled, both flipped or not."""
        return self._geometry(frame), frame.options.tta

    def _geometry(self, frame: Frame) -> Geometry:
        height, width = frame.pixels.shape[:2]
        return self._recipe.geometry(height, width)

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction for each frame. Raises `InputError` for pixels that are not 8-bit grey or RGB."""
        return self.dispatch(frames).result()

    def dispatch(self, frames: Sequence[Frame]) -> Pending:
        """`predict` in two halves: start, and wait."""
        import torch

        if self._network is None:
            raise UnavailableError("The model is not loaded yet.", hint="Call load first.")
        geometry = self._geometry(frames[0])
        with torch.inference_mode():
            pictures = self._recipe.prepare(frames, geometry.size, self._network.device)
            views = FLIPS if frames[0].options.tta else FLIPS[:1]
            sizes = [(frame.pixels.shape[0], frame.pixels.shape[1]) for frame in frames]
            maps = self._view(self._network, pictures, geometry, sizes, views[0])
            for axes in views[1:]:
                others = self._view(self._network, pictures, geometry, sizes, axes)
                maps = [one + other for one, other in zip(maps, others, strict=True)]
            return self._predictions(frames, [each / len(views) if len(views) > 1 else each for each in maps])

    def _view(
        self,
        network: Network,
        pictures: torch.Tensor,
        geometry: Geometry,
        sizes: Sequence[tuple[int, int]],
        axes: tuple[int, ...],
    ) -> list[torch.Tensor]:
        """Probabilities of the mirrored pictures, mirrored back, at the frames' own sizes.

        In order as (frames, classes, height, width): all together if their sizes are equal, else each by itself.
        """
        seen = pictures.flip(axes) if axes else pictures
        if geometry.sliding:
            return self._slide(network, seen, sizes, axes)
        scores = self._whole(network, seen)
        scores = scores.flip(axes) if axes else scores
        if len(set(sizes)) == 1:
            return [network.probability(scores, sizes[0])]
        return [network.probability(scores[i : i + 1], size) for i, size in enumerate(sizes)]

    def _whole(self, network: Network, pictures: torch.Tensor) -> torch.Tensor:
        """Scores of whole pictures; of a model that sees squares only, as its processor makes these of them."""
        if self._recipe.placing == "as it is":
            return network.scores(pictures)
        height, width = pictures.shape[-2:]
        if self._recipe.placing == "padded":
            return network.scores(self._recipe.padded(pictures))[..., :height, :width]
        axis, side = (-2 if height > width else -1), min(height, width)
        sums = pictures.new_zeros((len(pictures), len(self._description.config.id2label), height, width))
        counts = pictures.new_zeros((1, 1, height, width))
        for place in starts(max(height, width), side):
            sums.narrow(axis, place, side).add_(network.scores(pictures.narrow(axis, place, side)))
            counts.narrow(axis, place, side).add_(1)
        return sums / counts

    def _slide(
        self, network: Network, pictures: torch.Tensor, sizes: Sequence[tuple[int, int]], axes: tuple[int, ...]
    ) -> list[torch.Tensor]:
        """Overlapping windows of the model's own size, blended so that a window's rim counts little.

        They are blended in the pictures' dtype, which is float32 whatever the model runs in.
        """
        from torch.nn.functional import interpolate

        from watcherd.inference.windows import slide

        window = self._recipe.window
        found = slide(
            pictures,
            window,
            lambda part: network.probability(network.scores(part), window),
            overlap=self._setting.overlap,
            at_once=WINDOWS_AT_ONCE,
        )
        found = found.flip(axes) if axes else found
        if {found.shape[-2:]} == set(sizes):
            return [found]
        return [
            one if one.shape[-2:] == size else interpolate(one, size=size, mode="bilinear")
            for one, size in zip(found.split(1), sizes, strict=True)
        ]

    def _predictions(self, frames: Sequence[Frame], maps: Sequence[torch.Tensor]) -> Pending:
        """Masks of the maps that `_view` gave, made where these are; probabilities come along when a frame asks.

        A hundred and fifty classes of one frame are more than a hundred masks to copy.
        """
        parts, start = [], 0
        for each in maps:
            parts.append(self._masks(frames[start : start + len(each)], each))
            start += len(each)
        return Pending(done=parts[-1].done, result=lambda: [found for part in parts for found in part.result()])

    def _masks(self, frames: Sequence[Frame], maps: torch.Tensor) -> Pending:
        """The same for frames of one size: ``maps`` are (frames, classes, height, width)."""
        asked = any(frame.options.asks_for_probability for frame in frames)
        findings = list(self._classes.findings)
        finite = transfer.to_host(maps.flatten(1).sum(dim=1).isfinite())
        if len(findings) == 1:
            maps = maps[:, findings[0]].clamp(0, 1)
            masks = transfer.to_host((maps > _thresholds(frames, maps)).view(loading.torch_dtype("uint8")))
        else:
            masks = transfer.to_host(self._label_values(maps.device)[maps.argmax(dim=1)])
            maps = maps[:, findings].clamp(0, 1) if asked else maps
        probabilities = transfer.to_host(maps) if asked else None

        def result() -> list[Prediction]:
            found = [None] * len(frames) if probabilities is None else probabilities.result()
            if not all(finite.result()):
                raise not_numbers()
            return [
                Prediction(probability=probability, mask=mask, labels=self._classes.names)
                for probability, mask in zip(found, masks.result(), strict=True)
            ]

        return Pending(done=(probabilities or masks).done, result=result)

    @cache  # noqa: B019 - a segmenter lives as long as its process
    def _label_values(self, device: torch.device) -> torch.Tensor:
        """The label value of each of the model's classes; 0 for those that are not asked for."""
        import torch

        values = torch.zeros(len(self._description.config.id2label), dtype=torch.uint8)
        values[list(self._classes.findings)] = torch.arange(1, len(self._classes.findings) + 1, dtype=torch.uint8)
        return values.to(device)

    def golden(self) -> Golden | None:
        """None: a model that somebody trained has no mask that we know."""
        return None

    def probe_frame(self) -> Frame:
        """A frame of the model's own size: its activations are those of every window."""
        noise = np.random.default_rng(0).integers(0, 256, (*self._recipe.window, 3), dtype=np.uint8)
        return Frame(pixels=noise, options=Options())

    def skeleton(self) -> nn.Module:
        """The model's modules with parameters on the meta device."""
        return self._description.skeleton()

    def no_split(self) -> tuple[str, ...]:
        """Class names of the parts that stay on one device."""
        return self._description.no_split(self.skeleton())

    def reserve_gib(self, batch_size: int) -> float:
        """Activations of a transformer of SegFormer-B5's size, which need about 0.4 GiB for 512 x 512 pixels."""
        height, width = self._recipe.window
        return 0.25 + 0.4 * batch_size * (height * width) / 512**2


def _thresholds(frames: Sequence[Frame], maps: torch.Tensor) -> float | torch.Tensor:
    """The frames' thresholds, to be compared with ``maps`` (frames, height, width)."""
    own = [frame.options.threshold for frame in frames]
    return own[0] if len(set(own)) == 1 else maps.new_tensor(own).view(-1, 1, 1)
