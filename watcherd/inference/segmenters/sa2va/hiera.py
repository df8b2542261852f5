"""SAM2's trunk with its tokens in the order of their windows, and without the product that nobody reads.

transformers brings tokens into windows and back in every block; here they stay so as long as the windows are the same:
attention knows no positions, and what looks at the whole map does not mind the order. It also computes each token's
heads against each other, takes their softmax and then never reads it. Parameters and results are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch.nn import functional
from transformers.models.sam2.modeling_sam2 import (
    Sam2HieraDetModel,
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
    Sam2VisionModel,
)

GELU = "GELUActivation"
"""What transformers calls the exact form."""
HALVES = (torch.bfloat16, torch.float16)
"""Dtypes at which GELU's tanh form differs from the exact one by less than what is rounded away."""


class WindowedAttention(Sam2MultiScaleAttention):
    """Attention within windows, its queries pooled where a stage begins."""

    def forward(self, hidden_states: torch.Tensor, *, whole: bool = False, **_: Any) -> torch.Tensor:
        """Tokens (pictures, windows, tokens of a window, channels), or a quarter of them where they are pooled;
        ``whole``: every token looks at all of its picture."""
        pictures, windows, tokens, _channels = hidden_states.shape
        qkv = self.qkv(hidden_states).view(pictures * windows, tokens, 3, self.num_attention_heads, -1)
        query, key, value = qkv.unbind(2)
        if self.query_stride:
            query = pooled(query.flatten(2)).unflatten(-1, (self.num_attention_heads, -1))
        kept = query.shape[1]
        if whole:
            query, key, value = (part.reshape(pictures, -1, *part.shape[2:]) for part in (query, key, value))
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=self.scale
        )
        return self.proj(attended.transpose(1, 2).reshape(pictures, windows, kept, -1))  # type: ignore[no-any-return]


class WindowedBlock(Sam2MultiScaleBlock):  # type: ignore[no-untyped-call]
    """A block on tokens (pictures, windows, tokens of a window, channels)."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        residual, normed = hidden_states, self.layer_norm1(hidden_states)
        if self.dim != self.dim_out:
            residual = self.proj(normed)
            residual = pooled(residual.flatten(0, 1)).view(*residual.shape[:2], -1, self.dim_out)
        hidden_states = residual + self.attn(normed, whole=self.window_size == 0)
        return hidden_states + self.mlp.proj_out(self._wide(hidden_states))  # type: ignore[no-any-return]

    def _wide(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return widened(self.layer_norm2(hidden_states), self.mlp.proj_in, self.mlp.activation)


def widened(hidden_states: torch.Tensor, linear: Any, activation: Any) -> torch.Tensor:
    """The first half of an MLP with GELU; on a GPU that is computed where the product is, before it is written."""
    if not hidden_states.is_cuda or hidden_states.dtype not in HALVES or type(activation).__name__ != GELU:
        return activation(linear(hidden_states))  # type: ignore[no-any-return]
    rows = hidden_states.flatten(0, -2)
    found = torch._addmm_activation(linear.bias, rows, linear.weight.t(), use_gelu=True)
    return found.view(*hidden_states.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """What each stage of the trunk ends with: tokens (pictures, windows, tokens of a window, channels)."""

    tokens: tuple[torch.Tensor, ...]

    @property
    def last_hidden_state(self) -> torch.Tensor:
        """The last stage's."""
        return self.tokens[-1]


class WindowedTrunk(Sam2HieraDetModel):  # type: ignore[no-untyped-call]
    """The trunk on pictures whose tokens windows divide without a rest."""

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> Stages:
        if pixel_values.is_cuda:
            # A token's channels come out behind one another then, which is how they are needed.
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        patches = self.patch_embed(pixel_values)
        patches = patches + self._get_pos_embed(patches.shape[1:3])
        blocks: Any = self.blocks
        hidden = windowed(patches, blocks[0].window_size)
        found = []
        for number, block in enumerate(blocks):
            if block.window_size not in {0, isqrt(hidden.shape[2])}:
                hidden = windowed(unwindowed(hidden), block.window_size)
            hidden = block(hidden)
            if number in self.stage_ends:
                found.append(hidden)
        return Stages(tokens=tuple(found))


class WindowedEncoder(Sam2VisionModel):  # type: ignore[no-untyped-call]
    """The trunk alone: what its neck makes of its stages is computed by `grounding.Neck`."""

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> Stages:
        return self.backbone(pixel_values)  # type: ignore[no-any-return]


def windowed(tokens: torch.Tensor, side: int) -> torch.Tensor:
    """(n, height, width, channels) to (n, windows, side * side, channels), row by row both times."""
    count, height, width, channels = tokens.shape
    grid = tokens.view(count, height // side, side, width // side, side, channels)
    return grid.transpose(2, 3).reshape(count, -1, side * side, channels)


def unwindowed(tokens: torch.Tensor) -> torch.Tensor:
    """Undo `windowed` on square maps."""
    count, windows, inside, channels = tokens.shape
    rows, side = isqrt(windows), isqrt(inside)
    grid = tokens.view(count, rows, rows, side, side, channels)
    return grid.transpose(2, 3).reshape(count, rows * side, rows * side, channels)


def pooled(windows: torch.Tensor) -> torch.Tensor:
    """The largest of two by two neighbours: (n, side * side, channels) to a quarter of the tokens."""
    side = isqrt(windows.shape[1])
    grid = windows.view(len(windows), side // 2, 2, side // 2, 2, windows.shape[-1])
    return grid.amax((2, 4)).flatten(1, 2)


def lean(encoder: Any) -> None:
    """Make an ``encoder`` that was just built work in the order of its windows."""
    encoder.__class__ = WindowedEncoder
    encoder.backbone.__class__ = WindowedTrunk
    for block in encoder.backbone.blocks:
        block.__class__ = WindowedBlock
        block.attn.__class__ = WindowedAttention
