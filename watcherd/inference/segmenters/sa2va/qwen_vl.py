"""The language-and-vision part of a Qwen2.5-VL or Qwen3-VL: a tower that sees pictures of any size in patches, and its
language model.

The towers' attention stays within a picture, in Qwen2.5-VL mostly within windows of it. transformers computes each
such segment by itself, thousands of small products for a batch; here segments of one length are computed together.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLTextModel, Qwen3VLConfig, Qwen3VLTextModel, Qwen3VLVisionModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from watcherd.inference.segmenters.sa2va.families import MERGE
from watcherd.inference.transfer import pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watcherd.inference.segmenters.sa2va.config import Sa2vaConfig

NO_SPLIT = (
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
    "Qwen2_5_VLDecoderLayer",
    "Qwen3VLTextDecoderLayer",
)
"""Classes of modules that stay on one device."""

VISION_KEYS = (
    "depth",
    "hidden_size",
    "hidden_act",
    "intermediate_size",
    "num_heads",
    "patch_size",
    "out_hidden_size",
    "window_size",
    "fullatt_block_indexes",
    "num_position_embeddings",
    "deepstack_visual_indexes",
)
"""Keys of ``vision_config`` that change what the tower computes."""

Grid = tuple[int, int]
"""Rows and columns of a picture's patches."""


class Speaker(nn.Module):
    """A language model with its head, under the names that all families have."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.model = model
        self.lm_head = nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)


def parts(config: Sa2vaConfig) -> dict[str, nn.Module]:
    """``vision`` and ``language``."""
    vision = {key: config.vision[key] for key in VISION_KEYS if config.vision.get(key) is not None}
    asked: dict[str, Any] = {"text_config": config.language_shape(), "vision_config": vision}
    asked |= {"attn_implementation": "sdpa", "tie_word_embeddings": False}
    tower: Any
    speaker: Any
    if config.built_on.base == "qwen3_vl":
        said: Any = Qwen3VLConfig(**asked)
        tower, speaker = Qwen3VLVisionModel(said.vision_config), Qwen3VLTextModel(said.text_config)
    else:
        said = Qwen2_5_VLConfig(**asked)
        tower = Qwen2_5_VisionTransformerPretrainedModel(said.vision_config)
        speaker = Qwen2_5_VLTextModel(said.text_config)
    _pack(tower)
    return {"vision": tower, "language": Speaker(speaker)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Which patches attend to each other: those of each segment, which lie behind one another.

    ``even``: how many segments of one length there are, where all are of one; else 0. ``groups``: the segments of each
    length as places (segments, length).
    """

    even: int
    groups: tuple[torch.Tensor, ...]

    @staticmethod
    def of(lengths: Sequence[int]) -> Segments:
        """Segments of these ``lengths``."""
        begins: dict[int, list[int]] = defaultdict(list)
        for begin, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
            begins[length].append(begin)
        if len(begins) == 1:
            return Segments(even=len(lengths), groups=())
        groups = [torch.tensor(found)[:, None] + torch.arange(length) for length, found in begins.items()]
        return Segments(even=0, groups=tuple(groups))

    def to(self, device: torch.device) -> Segments:
        """With its places on ``device``."""
        return Segments(
            even=self.even, groups=tuple(pinned(group, device).to(device, non_blocking=True) for group in self.groups)
        )


class PackedAttention(nn.Module):
    """Attention of a tower, for segments of one length at a time, instead of transformers' own."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: Segments,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """Patches (n, C) that have looked at those of their segments, which stand where others have their limits."""
        query, key, value = self.qkv(hidden_states).view(len(hidden_states), 3, self.heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        if cu_seqlens.even:
            shape = (cu_seqlens.even, -1, *query.shape[1:])
            attended = _attend(query.view(shape), key.view(shape), value.reshape(shape)).flatten(0, 1)
        else:
            attended = torch.empty_like(query)
            for places in cu_seqlens.groups:
                found = _attend(query[places], key[places], value[places])
                attended.index_copy_(0, places.flatten(), found.flatten(0, 1))
        return self.proj(attended.flatten(1))  # type: ignore[no-any-return]


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(segments, length, heads, width), each segment by itself."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def _pack(tower: Any) -> None:
    """Give every block of a ``tower`` that was just built, and not filled yet, such attention."""
    for block in tower.blocks:
        block.attn = PackedAttention(tower.config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What follows from the sizes of a batch's pictures alone, on the CPU, by the names by which a tower takes it."""

    tensors: Mapping[str, torch.Tensor]
    segments: Mapping[str, Segments]
    grids: torch.Tensor = field(repr=False)

    def on(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of a tower's call."""
        moved: dict[str, Any] = {
            name: pinned(tensor, device).to(device, non_blocking=True) for name, tensor in self.tensors.items()
        }
        return moved | {name: each.to(device) for name, each in self.segments.items()} | {"grid_thw": self.grids}


@lru_cache(maxsize=64)
def layout(grids: tuple[Grid, ...], window: int, patch: int, side: int) -> Layout:
    """The layout of pictures of these ``grids``. ``window`` and ``patch``: pixels of a window's and a patch's side, 0
    for no windows; ``side``: positions along one side of a learned table, 0 for none."""
    known = torch.tensor([(1, *grid) for grid in grids])
    tensors = {"position_ids": get_vision_position_ids(known, MERGE)}
    segments = {"cu_seqlens": Segments.of([rows * columns for rows, columns in grids])}
    if window:
        index, limits = get_vision_window_index(known, MERGE, window, patch)
        tensors["window_index"] = index
        segments["cu_window_seqlens"] = Segments.of(limits.diff().tolist())
    if side:
        found = get_vision_interpolation_indices_and_weights(
            known, num_grid_per_side=side, align_corners=True, spatial_merge_size=MERGE
        )
        tensors["interp_indices"], tensors["interp_weights"] = found
    return Layout(tensors=tensors, segments=segments, grids=known)


def layout_for(tower: Any, grids: Iterable[Grid]) -> Layout:
    """The layout that ``tower`` needs."""
    window, side = getattr(tower, "window_size", 0), getattr(tower, "num_grid_per_side", 0)
    return layout(tuple(grids), window, tower.patch_size, side)
