"""Record what transformers 4.57.0, on which Sa2VA's Qwen-VL models were trained, computes with tiny random weights.

    python -m venv apart
    apart/bin/pip install torch==2.13.0 transformers==4.57.0 numpy
    PYTHONPATH=. apart/bin/python tests/data/sa2va/qwen-vl/record.py

Writes ``<family>.npz`` beside itself: for each of two pictures and their words the inputs, the logits, and the states
behind the last norm and before it. Weights follow from their names and a seed (`tests.sa2va_folder.values`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.sa2va_folder import values

HERE = Path(__file__).parent
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
SEED = 5
PATCHES = {"qwen2_5_vl": (14, 3 * 2 * 14 * 14), "qwen3_vl": (16, 3 * 2 * 16 * 16)}
"""Side of a patch in pixels, and how many values one has, both frames of a still picture included."""
GRIDS = ((1, 4, 6), (1, 8, 4))
"""Frames, rows and columns of patches; two by two of them make one visual token."""


def main() -> None:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    kinds: dict[str, Any] = {
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
        "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    }
    for family in FAMILIES:
        config_class, model_class = kinds[family]
        config = config_class(**json.loads((HERE / f"{family}.json").read_text()))
        config._attn_implementation = "eager"
        model = model_class(config).eval()
        model.load_state_dict(
            {name: values(name, tuple(each.shape), SEED) for name, each in model.state_dict().items()}
        )
        before: list[torch.Tensor] = []
        norm = model.model.language_model.norm
        norm.register_forward_pre_hook(lambda _module, inputs, kept=before: kept.append(inputs[0]))
        behind: list[torch.Tensor] = []
        norm.register_forward_hook(lambda _module, _inputs, output, kept=behind: kept.append(output))
        recorded: dict[str, np.ndarray] = {}
        for number, grid in enumerate(GRIDS):
            given = inputs_of(family, grid, number, config)
            with torch.no_grad():
                said = model(**given, output_hidden_states=True, return_dict=True)
            recorded |= {f"{key}_{number}": each.numpy() for key, each in given.items() if key != "pixel_values"}
            recorded |= {
                f"logits_{number}": said.logits[0].numpy(),
                f"last_hidden_state_{number}": said.hidden_states[-1][0].numpy(),
                f"before_norm_{number}": before[-1][0].numpy(),
                f"behind_norm_{number}": behind[-1][0].numpy(),
            }
        np.savez_compressed(HERE / f"{family}.npz", **recorded)


def inputs_of(family: str, grid: tuple[int, int, int], seed: int, config: Any) -> dict[str, torch.Tensor]:
    """Words around one picture, and its patches as the processor would flatten them."""
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1] * grid[2]
    before = torch.randint(0, 90, (4 + seed,), generator=generator).tolist()
    after = torch.randint(0, 90, (7,), generator=generator).tolist()
    ids = [
        *before,
        config.vision_start_token_id,
        *[config.image_token_id] * (count // 4),
        config.vision_end_token_id,
        *after,
    ]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values": patches(family, grid, seed),
        "image_grid_thw": torch.tensor([grid]),
    }


def patches(family: str, grid: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Flattened patches (patches, values) of about unit deviation; not recorded, for they follow from a name."""
    width = PATCHES[family][1]
    return values("patches", (grid[0] * grid[1] * grid[2], width), seed) * width**0.5


if __name__ == "__main__":
    main()
