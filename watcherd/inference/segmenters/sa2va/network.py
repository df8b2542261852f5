"""The model, composed of transformers' own modules, and where its parts are.

The parts are cut apart only here: between the top-level children, and between the layers of the language model.
Whoever hands a tensor from one part to another moves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoModel

from watcherd.inference.segmenters.sa2va import internvl, qwen_vl
from watcherd.inference.segmenters.sa2va.hiera import lean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.inference.segmenters.sa2va.config import Hiera, Sa2vaConfig

PARTS = {"tiles": internvl.parts, "patches": qwen_vl.parts}
"""What makes a family's language-and-vision part, by the way in which it sees (`families.Family.sees`)."""

NO_SPLIT = (*internvl.NO_SPLIT, *qwen_vl.NO_SPLIT, "SegProjection", "Sam2VideoModel")
"""Classes of modules that stay on one device; anything between them may be cut."""

GROUNDING_WIDTH = 256
"""Width of the vector that stands for one ``[SEG]`` in SAM2's mask decoder."""


class SegProjection(nn.Sequential):
    """From the language model's state at ``[SEG]`` to SAM2's prompt."""

    def __init__(self, language_width: int) -> None:
        super().__init__(
            nn.Linear(language_width, language_width), nn.ReLU(), nn.Linear(language_width, GROUNDING_WIDTH)
        )


class Sa2vaNetwork(nn.Module):
    """All parts of the model. It has no forward: `engine.py` says in which order they work.

    ``projector`` is only there in a family that sees tiles.
    """

    vision: Any
    projector: Any
    language: Any

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        self.built_on = config.built_on
        for name, part in PARTS[config.built_on.sees](config).items():
            self.add_module(name, part)
        self.text_hidden_fcs = SegProjection(config.hidden_size)
        self.sam2 = Sam2VideoModel(_sam2_config(config.hiera))
        lean(self.sam2.vision_encoder)

    def see(self, tiles: torch.Tensor) -> torch.Tensor:
        """Visual tokens (tiles, 256, D), on the projector's device, of normalised tiles (tiles, 3, 448, 448) on the
        vision tower's; of a family that sees tiles."""
        patches = self.vision(pixel_values=tiles).last_hidden_state
        return self.projector(patches.to(device_of(self.projector)))  # type: ignore[no-any-return]


def skeleton(config: Sa2vaConfig) -> Sa2vaNetwork:
    """The network with its parameters on the meta device and its buffers, which are small, on the CPU."""
    with init_empty_weights(include_buffers=False):
        return Sa2vaNetwork(config).eval().requires_grad_(requires_grad=False)


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
