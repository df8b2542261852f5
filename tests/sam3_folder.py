"""A tiny SAM 3 with random weights, in a folder as transformers saves one, with a byte-level tokenizer of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import CLIPTokenizer, Sam3Config, Sam3Model
from transformers.utils import logging

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 112
"""Pixels of its square input: 8 x 8 patches of 14."""


def config(side: int = SIDE) -> Sam3Config:
    """As the published one is built, in small."""
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    grid = side // 14
    return Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", **small, "num_hidden_layers": 2, "image_size": side, "patch_size": 14,
                "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[4 * grid, 4 * grid], [2 * grid, 2 * grid], [grid, grid]],
        },
        text_config={
            "model_type": "clip_text_model", **small, "vocab_size": 514, "projection_dim": 32, "num_hidden_layers": 2,
            "max_position_embeddings": 32, "hidden_act": "gelu", "bos_token_id": 512, "eos_token_id": 513,
            "pad_token_id": 513,
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 2},
        detr_decoder_config={**small, "num_layers": 2, "num_queries": 8},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip


def model(seed: int = 0, *, presence: float = 0.0) -> Sam3Model:
    """Random weights, spread so that answers differ; ``presence``: added to the logit of presence."""
    torch.manual_seed(seed)
    made = Sam3Model(config()).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.2 / fan**0.5))
            elif name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        made.detr_decoder.presence_head.layer3.bias.add_(presence)
    return made


def save(made: Sam3Model, folder: Path, **processor: Any) -> Path:
    """The folder, with ``processor`` over the settings of the image processor."""
    logging.disable_progress_bar()
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    side = made.config.vision_config.backbone_config.image_size
    said = {
        "image_processor_type": "Sam3ImageProcessor", "do_resize": True, "size": {"height": side, "width": side},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said | processor))
    return folder


def tokenizer() -> CLIPTokenizer:
    """CLIP's own alphabet, a printable sign for each byte, alone and at the end of a word; no merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [chr(number) for number in printable] + [chr(256 + place) for place in range(256 - len(printable))]
    vocabulary = {sign: number for number, sign in enumerate(signs)}
    vocabulary |= {f"{sign}</w>": 256 + number for number, sign in enumerate(signs)}
    vocabulary |= {"<|startoftext|>": 512, "<|endoftext|>": 513}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)
