"""Random crops, made on the device that trains: turned, scaled, bent, relit, blurred, noisy.

One `Source` is one kind of material; `Mix` draws a batch from several. All randomness comes from one generator, so a
seed fixes the batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from training.data import FIELD, IGNORE, VESSEL
from watcherd.inference.segmenters.vessel.network import inputs

if TYPE_CHECKING:
    from torch import Generator, Tensor

CROP = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """``images``: uint8 (n, side, side) or (n, side, side, 3); ``labels``: uint8 (n, side, side), bits.

    ``is_xray``: the kind that the network is told. ``scale``: from and to which the side is scaled, evenly in its
    logarithm. ``share``: of a batch. ``turn``: the largest angle in radians by which most crops are turned; every
    fourth may be turned by any. ``real``: whether these are pictures of the kind from patients.
    """

    images: Tensor
    labels: Tensor
    is_xray: bool
    scale: tuple[float, float]
    share: float
    turn: float = torch.pi
    real: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """``inputs``: what the network is given. ``target``: 1 on vessels. ``weight``: 1 where it counts."""

    inputs: Tensor
    target: Tensor
    weight: Tensor


class Mix:
    """Draws batches of crops from several sources.

    ``strays``: uint8 (n, side, side), hundredths of absorption of leads, wires and catheters that are laid over every
    third of the real pictures, where they are background.
    """

    def __init__(
        self, sources: list[Source], *, batch: int, generator: Generator, strays: Tensor | None = None
    ) -> None:
        self._sources = sources
        self._batch = batch
        self._generator = generator
        self._strays = strays
        self._device = sources[0].images.device

    def apart(self) -> list[Mix]:
        """The real pictures and the others, each as a mix of its own with its share of a batch.

        A network with batch normalisation sees them one after the other: statistics of both together fit neither.
        """
        total = sum(source.share for source in self._sources)
        parts = [[source for source in self._sources if source.real is real] for real in (True, False)]
        return [
            Mix(
                part,
                batch=max(1, round(self._batch * sum(source.share for source in part) / total)),
                generator=self._generator,
                strays=self._strays,
            )
            for part in parts
            if part
        ]

    def draw(self) -> Batch:
        """One batch; every source gives its share of it."""
        total = sum(source.share for source in self._sources)
        parts = [self._crops(source, max(1, round(self._batch * source.share / total))) for source in self._sources]
        grey, target, ignore, field, kind = (torch.cat(column) for column in zip(*parts, strict=True))
        grey, target = self._borrow_vessels(grey, target, field, kind)
        grey = self._relight(grey)
        with torch.no_grad():
            return Batch(inputs=inputs(grey, field, kind), target=target, weight=field * (1 - ignore))

    def _uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator, device=self._device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    def _crops(self, source: Source, count: int) -> tuple[Tensor, ...]:
        index = torch.randint(len(source.images), (count,), generator=self._generator, device=self._device)
        grey = self._channel(source.images[index])
        labels = source.labels[index]
        grey = self._strewn(grey) if source.real else grey
        planes = [grey] + [((labels & bit) > 0).float() for bit in (VESSEL, IGNORE, FIELD)]
        stack = torch.stack(planes, dim=1)
        low, high = source.scale
        scale = low * (high / low) ** float(self._uniform(1))
        if scale < 0.75:  # averaged before it is made much smaller, as inference does
            stack, scale = functional.avg_pool2d(stack, 2), scale * 2
        cropped = functional.grid_sample(stack, self._grid(stack, scale, source.turn), align_corners=False)
        vessel, ignore, field = ((cropped[:, k : k + 1] > 0.5).float() for k in (1, 2, 3))
        kind = torch.full((count,), float(source.is_xray), device=self._device)
        return cropped[:, :1], vessel * field, ignore * (1 - vessel), field, kind

    def _strewn(self, grey: Tensor) -> Tensor:
        """With things over it that are no vessels, now and then."""
        if self._strays is None:
            return grey
        count = len(grey)
        index = torch.randint(len(self._strays), (count,), generator=self._generator, device=self._device)
        layer = self._strays[index].float() / 100
        layer = layer.flip(2) if float(self._uniform(1)) < 0.5 else layer
        strength = self._uniform(count, 1, 1, low=0.15, high=0.9) * (self._uniform(count, 1, 1) < 0.33)
        return grey * torch.exp(-strength * layer)

    def _channel(self, images: Tensor) -> Tensor:
        """Grey as it is; of colours the green with a little of the others, which look as other cameras' green."""
        pixels = images.float() / 255
        if pixels.ndim == 3:
            return pixels
        count, ones = len(pixels), torch.ones(len(pixels), device=self._device)
        red, blue = self._uniform(count, low=-0.1, high=0.5), self._uniform(count, low=-0.1, high=0.35)
        weights = torch.stack([red, ones, blue], dim=1)
        return (pixels * weights[:, None, None]).sum(-1).clamp(0, 1.6) / weights.sum(1)[:, None, None]

    def _grid(self, stack: Tensor, scale: float, turn: float) -> Tensor:
        """Where each pixel of the crops comes from: turned, flipped, stretched a little, bent a little, moved."""
        count, side = len(stack), stack.shape[-1]
        most = torch.where(self._uniform(count) < 0.25, torch.pi, turn)
        angle = most * self._uniform(count, low=-1, high=1)
        flip = torch.where(self._uniform(count) < 0.5, -1.0, 1.0)
        zoom = CROP / (side * scale) * torch.exp(0.12 * self._normal(count, 2))
        room = (1 - zoom.mean(1, keepdim=True)).clamp_min(0.15)
        move = self._uniform(count, 2, low=-1, high=1) * room
        rows = [
            torch.stack([torch.cos(angle) * zoom[:, 0] * flip, -torch.sin(angle) * zoom[:, 1], move[:, 0]], 1),
            torch.stack([torch.sin(angle) * zoom[:, 0] * flip, torch.cos(angle) * zoom[:, 1], move[:, 1]], 1),
        ]
        grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, CROP, CROP], align_corners=False)
        for cells, strongest in ((6, 0.03), (16, 0.008)):
            bends = self._normal(count, 2, cells, cells) * self._uniform(count, 1, 1, 1, high=strongest)
            bend = functional.interpolate(bends, (CROP, CROP), mode="bicubic", align_corners=False)
            grid = grid + bend.permute(0, 2, 3, 1)
        return grid

    def _borrow_vessels(self, grey: Tensor, target: Tensor, field: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """On a few X-ray scenes real retinal vessels are laid, by their relief over their own background."""
        real = [i for i, source in enumerate(self._sources) if source.images.ndim == 4]
        if not real or float(kind.mean()) == 0.0:
            return grey, target
        donor = self._sources[real[0]]
        chosen = torch.nonzero((kind > 0.5) & (self._uniform(len(kind)) < 0.12)).flatten()
        if len(chosen) == 0:
            return grey, target
        vessels, lent, _, seen, _ = self._crops(donor, len(chosen))
        near = functional.avg_pool2d(vessels, 25, 1, 12, count_include_pad=False).clamp_min(0.02)
        soft = functional.avg_pool2d(functional.max_pool2d(lent, 5, 1, 2), 3, 1, 1)
        relief = (vessels / near).clamp(0.3, 1.2) ** self._uniform(len(chosen), 1, 1, 1, low=0.5, high=1.3)
        out, truth = grey.clone(), target.clone()
        out[chosen] = grey[chosen] * (1 + (relief - 1) * soft * seen)
        truth[chosen] = torch.maximum(target[chosen], lent * seen * field[chosen])
        return out, truth

    def _relight(self, grey: Tensor) -> Tensor:
        """Gamma, uneven light, a coarser camera, blur or sharpening, grain."""
        count = len(grey)
        few = functional.interpolate(functional.avg_pool2d(grey, 2), (CROP, CROP), mode="bilinear")
        grey = torch.where(self._uniform(count, 1, 1, 1) < 0.15, few, grey)
        out = grey.clamp_min(1e-3) ** torch.exp(0.3 * self._normal(count, 1, 1, 1))
        light = functional.interpolate(self._normal(count, 1, 4, 4), (CROP, CROP), mode="bicubic", align_corners=False)
        out = out * torch.exp(light * self._uniform(count, 1, 1, 1, high=0.3))
        blurred = functional.avg_pool2d(
            functional.avg_pool2d(out, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False
        )
        amount = self._uniform(count, 1, 1, 1, low=-0.9, high=1.0) * (self._uniform(count, 1, 1, 1) < 0.4)
        out = out + amount * (blurred - out)
        spread = out.std((2, 3), keepdim=True)
        grain = self._normal(*out.shape)
        coarse = functional.interpolate(self._normal(count, 1, CROP // 2, CROP // 2), (CROP, CROP), mode="bilinear")
        mixed = torch.where(self._uniform(count, 1, 1, 1) < 0.5, grain, coarse)
        strength = 0.25 * self._uniform(count, 1, 1, 1) ** 2 * (self._uniform(count, 1, 1, 1) < 0.6)
        return out + mixed * strength * spread
