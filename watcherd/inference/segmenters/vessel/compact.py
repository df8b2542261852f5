"""The network of the shipped weights: a small residual U-Net that works at half of its input's resolution.

Its batch normalisation is folded into the convolutions when a model is exported, so that a layer is a convolution
with a bias and nothing else: that is what a CPU does quickest. Half the resolution costs a quarter; the stem sees
every pixel, and the head answers for four at once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Compact(nn.Module):
    """``widths``: channels of each level, each half as fine as the one before; ``blocks_down`` and ``blocks_up``:
    residual blocks on the way down (one number a level) and up (one number a level but the last). ``folded``: without
    batch normalisation, which training needs and inference does not. Takes (batch, ``channels``, height, width), any
    size; gives logits (batch, 1, height, width)."""

    def __init__(
        self,
        *,
        channels: int,
        widths: Sequence[int],
        blocks_down: Sequence[int],
        blocks_up: Sequence[int],
        folded: bool = True,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        self.stem = _layer(channels, widths[0], 5, stride=2, folded=folded)
        finer = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(
                _layer(before, width, 3, stride=2, folded=folded) if level else nn.Identity(),
                *[Block(width, folded=folded) for _ in range(blocks_down[level])],
            )
            for level, (before, width) in enumerate(zip(finer, widths, strict=True))
        )
        self.narrow = nn.ModuleList(_layer(after, width, 1, folded=folded) for width, after in pairwise(widths))
        self.up = nn.ModuleList(
            nn.Sequential(*[Block(width, folded=folded) for _ in range(count)])
            for width, count in zip(widths[:-1], blocks_up, strict=True)
        )
        self.head = nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, given: Tensor) -> Tensor:
        height, width = given.shape[-2:]
        # Zeros are what lies outside the field, so a rim of them says nothing.
        found = functional.pad(given, (0, -width % self.multiple, 0, -height % self.multiple))
        found = functional.relu_(self.stem(found))
        passed: list[Tensor] = []
        for level in self.down:
            found = level(found)
            passed.append(found)
        passed.pop()
        for narrow, up in zip(reversed(self.narrow), reversed(self.up), strict=True):
            found = functional.interpolate(narrow(found), scale_factor=2.0, mode="bilinear", align_corners=False)
            found = up(found + passed.pop())
        return functional.pixel_shuffle(self.head(found), 2)[..., :height, :width]


class Block(nn.Module):
    """Two convolutions whose answer is added to what came in."""

    def __init__(self, width: int, *, folded: bool) -> None:
        super().__init__()
        self.first = _layer(width, width, 3, folded=folded)
        self.second = _layer(width, width, 3, folded=folded)

    def forward(self, given: Tensor) -> Tensor:
        return functional.relu_(self.second(functional.relu_(self.first(given))) + given)


def _layer(before: int, after: int, side: int, *, stride: int = 1, folded: bool) -> nn.Module:
    convolution = nn.Conv2d(before, after, side, stride=stride, padding=side // 2, bias=folded)
    return convolution if folded else nn.Sequential(convolution, nn.BatchNorm2d(after))


def fold(trained: nn.Module, folded: nn.Module) -> None:
    """Fill ``folded`` with what ``trained`` (in evaluation mode) computes, normalisation inside the convolutions."""
    into = dict(folded.named_modules())
    for name, module in trained.named_modules():
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.BatchNorm2d):
            fused = nn.utils.fusion.fuse_conv_bn_eval(cast("nn.Conv2d", module[0]), module[1])
            into[name].load_state_dict(fused.state_dict())
    into["head"].load_state_dict(trained.get_submodule("head").state_dict())


__all__ = ["Compact", "fold"]
