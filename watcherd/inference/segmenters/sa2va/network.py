"""The model, composed of transformers' own modules, and where its parts are.

The parts are cut apart only here: between the top-level children, and between the layers of the language model.
Whoever hands a tensor from one part to another moves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    InternVLVisionConfig,
    InternVLVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoModel

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.hiera import lean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.inference.segmenters.sa2va.config import Hiera, Sa2vaConfig

NO_SPLIT = (
    "InternVLVisionModel",
    "Projector",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
    "SegProjection",
    "Sam2VideoModel",
)
"""Classes of modules that stay on one device; anything between them may be cut."""

LANGUAGE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
)
"""Keys of ``llm_config`` that change what the language model computes."""

PATCHES = 32
"""Patches along one side of a tile; two by two of them make one visual token."""

TOKENS_PER_TILE = (PATCHES // 2) ** 2
GROUNDING_WIDTH = 256
"""Width of the vector that stands for one ``[SEG]`` in SAM2's mask decoder."""


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


class SegProjection(nn.Sequential):
    """From the language model's state at ``[SEG]`` to SAM2's prompt."""

    def __init__(self, language_width: int) -> None:
        super().__init__(
            nn.Linear(language_width, language_width), nn.ReLU(), nn.Linear(language_width, GROUNDING_WIDTH)
        )


class NoPositions(nn.Module):
    """Instead of SAM2's sine positions of every feature level: only tracking needs one of them, and makes its own."""

    def forward(self, _shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(0, device=device, dtype=dtype)


class Sa2vaNetwork(nn.Module):
    """All parts of the model. It has no forward: `segmenter.py` says in which order they work."""

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        self.vision = InternVLVisionModel(_vision_config(config.vision))
        self.projector = Projector(int(config.vision["hidden_size"]), config.hidden_size)
        self.language = _language_model(config)
        self.text_hidden_fcs = SegProjection(config.hidden_size)
        self.sam2 = Sam2VideoModel(_sam2_config(config.hiera))
        self.sam2.vision_encoder.neck.position_encoding = NoPositions()
        lean(self.sam2.vision_encoder.backbone)

    def see(self, tiles: torch.Tensor) -> torch.Tensor:
        """Visual tokens (tiles, 256, D), on the projector's device, of normalised tiles (tiles, 3, 448, 448) on the
        vision tower's."""
        patches = self.vision(pixel_values=tiles).last_hidden_state
        return self.projector(patches.to(device_of(self.projector)))  # type: ignore[no-any-return]


def skeleton(config: Sa2vaConfig) -> Sa2vaNetwork:
    """The network with its parameters on the meta device and its buffers, which are small, on the CPU."""
    with init_empty_weights(include_buffers=False):
        return Sa2vaNetwork(config).eval().requires_grad_(requires_grad=False)


def merge_patches(patches: torch.Tensor) -> torch.Tensor:
    """(n, 1024, C) to (n, 256, 4C): two by two neighbours side by side, row by row (pixel shuffle "v2")."""
    count, _, width = patches.shape
    half = PATCHES // 2
    grid = patches.view(count, half, 2, half, 2, width)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(count, half * half, 4 * width)


def device_of(module: nn.Module) -> torch.device:
    """Where a part that is never split is."""
    return next(module.parameters()).device


def place(name: str, device_map: Mapping[str, str]) -> str | None:
    """The device that a map gives to a parameter's or a module's name: that of the longest prefix in it."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return device_map[name]


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
    # Only what shapes the model: exported configurations also carry dtypes and settings for generation.
    values = {key: config.language[key] for key in LANGUAGE_KEYS if config.language.get(key) is not None}
    # The reference code unties them whatever the folder says, and its checkpoints hold both.
    values |= {"tie_word_embeddings": False, "attn_implementation": "sdpa"}
    if config.family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**values))
    return Qwen2ForCausalLM(Qwen2Config(**values))


def _sam2_config(hiera: Hiera) -> Sam2VideoConfig:
    trunk = Sam2HieraDetConfig(
        hidden_size=hiera.width,
        num_attention_heads=hiera.heads,
        blocks_per_stage=list(hiera.blocks),
        embed_dim_per_stage=list(hiera.widths),
        num_attention_heads_per_stage=[hiera.heads * 2**stage for stage in range(len(hiera.blocks))],
        window_size_per_stage=list(hiera.windows),
        global_attention_blocks=list(hiera.global_blocks),
        window_positional_embedding_background_size=list(hiera.background),
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=list(reversed(hiera.widths))),
        # These came with SAM2.1; Sa2VA has SAM2.
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
    )
