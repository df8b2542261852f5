"""The network of model folders of format 1: a residual U-Net with group normalisation.

It computes what MONAI's 2D `SegResNet` does (Myronenko, "3D MRI brain tumor segmentation using autoencoder
regularization", 2018) and its tensors have the same names, so that weights trained with that class fit. It is here
because the import of MONAI takes longer than everything else that a replica does before its first scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class SegResNet(nn.Module):
    """``channels`` of input, one of output; the other arguments are MONAI's.

    Raises ValueError for a normalisation that is not of groups.
    """

    def __init__(
        self,
        *,
        channels: int,
        init_filters: int = 8,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        norm: Sequence[Any] = ("GROUP", {"num_groups": 8}),
    ) -> None:
        super().__init__()
        groups = _groups(norm)
        self.convInit = _Convolution(channels, init_filters)  # MONAI's name
        self.down_layers = nn.ModuleList(
            nn.Sequential(
                _Convolution(width // 2, width, stride=2) if level else nn.Identity(),
                *[_Block(width, groups) for _ in range(count)],
            )
            for level, count in enumerate(blocks_down)
            for width in [init_filters * 2**level]
        )
        finer = [init_filters * 2 ** (len(blocks_up) - level - 1) for level in range(len(blocks_up))]
        self.up_layers = nn.ModuleList(
            nn.Sequential(*[_Block(width, groups) for _ in range(count)])
            for width, count in zip(finer, blocks_up, strict=True)
        )
        self.up_samples = nn.ModuleList(nn.Sequential(_Convolution(2 * width, width, side=1)) for width in finer)
        self.conv_final = nn.Sequential(
            nn.GroupNorm(groups, init_filters), nn.ReLU(), _Convolution(init_filters, 1, side=1, bias=True)
        )

    def forward(self, given: Tensor) -> Tensor:
        """(batch, channels, height, width), sides that halve evenly on every level, to logits (batch, 1, ...)."""
        found = self.convInit(given)
        passed: list[Tensor] = []
        for level in self.down_layers:
            found = level(found)
            passed.append(found)
        passed.pop()
        for narrow, up in zip(self.up_samples, self.up_layers, strict=True):
            wide = functional.interpolate(narrow(found), scale_factor=2.0, mode="bilinear", align_corners=False)
            found = up(wide + passed.pop())
        return cast("Tensor", self.conv_final(found))


class _Convolution(nn.Module):
    """MONAI keeps a convolution in a module of its own, under the name ``conv``."""

    def __init__(self, before: int, after: int, *, side: int = 3, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, side, stride=stride, padding=side // 2, bias=bias)

    def forward(self, given: Tensor) -> Tensor:
        return cast("Tensor", self.conv(given))


class _Block(nn.Module):
    """Normalisation, ReLU and convolution, twice; what came in is added."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = _Convolution(width, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = _Convolution(width, width)

    def forward(self, given: Tensor) -> Tensor:
        found = self.conv1(functional.relu_(self.norm1(given)))
        return cast("Tensor", self.conv2(functional.relu_(self.norm2(found))) + given)


def _groups(norm: Sequence[Any]) -> int:
    match norm:
        case [str(name), {"num_groups": int(groups)}] if name.upper() == "GROUP":
            return groups
        case _:
            raise ValueError(f'norm = {norm!r} is not ["GROUP", {{"num_groups": a number}}]')
