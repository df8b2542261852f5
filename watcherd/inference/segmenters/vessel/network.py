"""The networks that `config.json` may name, their weights, what they are given; for training and inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import ModuleList, functional

from watcherd.inference.segmenters.vessel.compact import Compact
from watcherd.inference.segmenters.vessel.segresnet import SegResNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

CHANNELS = 4
"""Grey standardised over the field, grey standardised over its neighbourhood, the field, the kind of image."""
NEIGHBOURHOOD = 41
"""Side in pixels of the (twice applied) box over which the neighbourhood's mean and deviation are taken: four to
five times the widest vessel at the network's scale."""
MULTIPLE = 8
"""Sides of the network's input are multiples of this: it halves them three times."""
CLIP = 5.0
SCALE = ".scale"
"""Ending of the name of what a tensor of whole numbers is multiplied by."""


def build(network: Mapping[str, Any], *, members: int, architecture: str = "SegResNet") -> nn.ModuleList:
    """``members`` networks of that architecture with the arguments of ``config.json``; weights are random.

    Raises TypeError or ValueError for arguments that it does not have.
    """
    kind = {"SegResNet": SegResNet, "Compact": Compact}[architecture]
    return ModuleList(kind(channels=CHANNELS, **network) for _ in range(members))


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are kept: convolutions as whole numbers of 8 bits with a scale for each of their outputs."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 4:
            scale = tensor.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
            out[name] = (tensor / scale).round().to(torch.int8)
            out[name + SCALE] = scale.float()
        else:
            out[name] = tensor.float()
    return out


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` kept; weights that are kept in another way are left as they are."""
    return {
        name: tensor * tensors[name + SCALE] if name + SCALE in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def inputs(grey: Tensor, field: Tensor, is_xray: Tensor) -> Tensor:
    """The network's input, (batch, CHANNELS, height, width).

    ``grey``: (batch, 1, height, width), any scale, vessels dark. ``field``: the same shape, 1 where the camera saw
    anything, else 0. ``is_xray``: (batch,), 1 for X-ray frames and 0 for fundus photographs. Linear changes of
    brightness and contrast leave the result as it is.
    """
    weight = field.sum((2, 3), keepdim=True).clamp_min(1)
    mean = (grey * field).sum((2, 3), keepdim=True) / weight
    centred = (grey - mean) * field
    deviation = (centred.square().sum((2, 3), keepdim=True) / weight).sqrt().clamp_min(1e-6)
    overall = centred / deviation
    share = _box(_box(field)).clamp_min(1e-4)
    near = (overall - _box(_box(overall)) / share) * field
    spread = (_box(_box(near.square())) / share).clamp_min(0).sqrt()
    typical = (spread * field).sum((2, 3), keepdim=True) / weight
    local = near / (spread + 0.25 * typical + 1e-3) * field
    kind = is_xray.to(grey.dtype).view(-1, 1, 1, 1).expand_as(grey)
    return torch.cat([overall.clamp(-CLIP, CLIP), local.clamp(-CLIP, CLIP), field, kind], dim=1)


def _box(values: Tensor) -> Tensor:
    """The mean over a square neighbourhood, row by row and column by column (zeros count outside)."""
    return _mean_along(_mean_along(values, -1), -2)


def _mean_along(values: Tensor, dim: int) -> Tensor:
    """By differences of running sums, of which the neighbourhood's width costs nothing; in float64, for running sums
    of float32 would lose what the differences are made of."""
    before, after = NEIGHBOURHOOD // 2 + 1, NEIGHBOURHOOD // 2
    around = (before, after) if dim == -1 else (0, 0, before, after)
    sums = functional.pad(values, around).cumsum(dim, dtype=torch.float64)
    size = values.shape[dim]
    means = (sums.narrow(dim, NEIGHBOURHOOD, size) - sums.narrow(dim, 0, size)) / NEIGHBOURHOOD
    return means.to(values.dtype)
