"""Modules on the meta device with the sizes of real models."""

from __future__ import annotations

import torch
from torch import nn


class Layer(nn.Module):
    """One layer of Qwen2-7B (233,057,792 parameters with these sizes)."""

    def __init__(self, hidden: int, inner: int, heads_width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, heads_width)
        self.v_proj = nn.Linear(hidden, heads_width)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)


class Block(nn.Module):
    """One layer of InternViT-300M."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)


class Language(nn.Module):
    def __init__(self, vocabulary: int, hidden: int, inner: int, layers: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(hidden, inner, hidden // 7) for _ in range(layers))
        self.lm_head = nn.Linear(hidden, vocabulary, bias=False)


class EightBillion(nn.Module):
    """About the parameters of Sa2VA-InternVL3-8B, in about the same modules: 8.18 billion."""

    no_split = ("Layer", "Block")

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = nn.ModuleList(Block(1024, 4096) for _ in range(24))
        self.mlp1 = nn.Sequential(nn.LayerNorm(4096), nn.Linear(4096, 3584), nn.GELU(), nn.Linear(3584, 3584))
        self.language_model = Language(151679, 3584, 18944, 28)
        self.grounding_encoder = nn.ModuleList(Block(1152, 4608) for _ in range(14))
        self.text_hidden_fcs = nn.Sequential(nn.Linear(3584, 3584), nn.ReLU(), nn.Linear(3584, 256))


def eight_billion() -> EightBillion:
    with torch.device("meta"):
        return EightBillion()
