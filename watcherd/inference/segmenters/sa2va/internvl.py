"""The language-and-vision part of an InternVL: a tower that sees tiles, a projector, and a Qwen2 or Qwen3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    InternVLVisionConfig,
    InternVLVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.internvl.modeling_internvl import InternVLVisionLayer

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.hiera import widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.inference.segmenters.sa2va.config import Sa2vaConfig

NO_SPLIT = ("InternVLVisionModel", "Projector", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Classes of modules that stay on one device."""

PATCHES = 32
"""Patches along one side of a tile; two by two of them make one visual token."""

TOKENS_PER_TILE = (PATCHES // 2) ** 2


class LeanVisionLayer(InternVLVisionLayer):  # type: ignore[no-untyped-call]
    """A layer of the tower in fewer steps: where it adds, it scales, and GELU is a part of its product."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        attended, _weights = self.attention(self.layernorm_before(hidden_states))
        hidden_states = torch.addcmul(hidden_states, attended, self.lambda_1)
        mlp = self.mlp
        found = mlp.fc2(widened(self.layernorm_after(hidden_states), mlp.fc1, mlp.activation_fn))
        return torch.addcmul(hidden_states, found, self.lambda_2)


class Projector(nn.Sequential):
    """From merged patches of the vision tower to the language model's width."""

    def __init__(self, vision_width: int, language_width: int) -> None:
        merged = 4 * vision_width
        super().__init__(
            nn.LayerNorm(merged),
            nn.Linear(merged, language_width),
            nn.GELU(),
            nn.Linear(language_width, language_width),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(tiles, 1 + 1024, C) from the tower to (tiles, 256, D); the first row, the class token, is left out."""
        projected: torch.Tensor = super().forward(merge_patches(patches[:, 1:]))  # type: ignore[no-untyped-call]
        return projected


def parts(config: Sa2vaConfig) -> dict[str, nn.Module]:
    """``vision``, ``projector`` and ``language``."""
    vision = InternVLVisionModel(_vision_config(config.vision))
    for layer in vision.encoder.layer:
        layer.__class__ = LeanVisionLayer
    return {
        "vision": vision,
        "projector": Projector(int(config.vision["hidden_size"]), config.hidden_size),
        "language": _language_model(config),
    }


def merge_patches(patches: torch.Tensor) -> torch.Tensor:
    """(n, 1024, C) to (n, 256, 4C): two by two neighbours side by side, row by row (pixel shuffle "v2")."""
    count, _, width = patches.shape
    half = PATCHES // 2
    grid = patches.view(count, half, 2, half, 2, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(count, half * half, 4 * width)


def _vision_config(values: Mapping[str, Any]) -> InternVLVisionConfig:
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "norm_type", "hidden_act")
    settings: dict[str, Any] = {"attn_implementation": "sdpa"}
    return InternVLVisionConfig(
        **{key: values[key] for key in same},
        layer_norm_eps=values.get("layer_norm_eps", 1e-6),
        attention_bias=values["qkv_bias"],
        use_qk_norm=values["qk_normalization"],
        image_size=TILE,
        patch_size=values["patch_size"],
        # Otherwise the tower ends in a norm, which InternViT has not.
        use_mean_pooling=True,
        **settings,
    )


def _language_model(config: Sa2vaConfig) -> nn.Module:
    values = config.language_shape()
    # The reference code unties them whatever the folder says, and its checkpoints hold both.
    values |= {"tie_word_embeddings": False, "attn_implementation": "sdpa"}
    if config.family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**values))
    return Qwen2ForCausalLM(Qwen2Config(**values))
