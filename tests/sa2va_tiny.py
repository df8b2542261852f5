"""Small Sa2VA models with random weights: every part real, SAM2's trunk narrow, quick on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.sa2va_folder import DATA
from watcherd.inference.segmenters.sa2va.config import Hiera, Sa2vaConfig
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
from watcherd.inference.segmenters.sa2va.prompt import Words

if TYPE_CHECKING:
    from typing import Any

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "norm_type": "layer_norm",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "qk_normalization": False,
    "patch_size": 14,
    "image_size": 448,
}
LANGUAGE = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 356,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
TRUNK = Hiera(width=8, heads=1, blocks=(1, 1, 2, 1), global_blocks=(3,))


def tiny_config(**language: Any) -> Sa2vaConfig:
    """The configuration of a small model; ``language`` changes keys of its language model."""
    family = "qwen3" if language.pop("family", "qwen2") == "qwen3" else "qwen2"
    return Sa2vaConfig(
        vision=VISION,
        language=LANGUAGE | language,
        family=family,
        lora_ranks={"vision": 0, "language": 0},
        hiera=TRUNK,
    )


def tiny_network(seed: int = 0, **language: Any) -> Sa2vaNetwork:
    """A small network with random weights, on the CPU."""
    torch.manual_seed(seed)
    network = Sa2vaNetwork(tiny_config(**language)).eval().requires_grad_(requires_grad=False)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and "positional" not in name:
            # Wide enough for answers to differ from prompt to prompt.
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network


def tiny_engine(seed: int = 0, **language: Any) -> Engine:
    """A small model, ready to segment, with the references' tokenizer."""
    return Engine(tiny_network(seed, **language), Words(DATA / "tokenizer"), max_new_tokens=24)
