"""Record how transformers 4.57.0 and qwen-vl-utils 0.0.14 prepare pictures, and what greedy generation then says.

    python -m venv apart
    apart/bin/pip install torch==2.13.0 torchvision==0.28.0 transformers==4.57.0 qwen-vl-utils==0.0.14 numpy
    PYTHONPATH=. apart/bin/python tests/data/sa2va/qwen-vl/record_more.py

Writes ``pictures.npz``: for each family and size of `SIZES` the grid of patches, and every `STEP`-th value of them. And
``<family>-said.npz``: two pictures in one prompt, as frames of a run are asked about, the tokens that are said, and
the state of each as it was fed in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.sa2va_folder import values

HERE = Path(__file__).parent
SEED = 5
SIZES = ((512, 512), (300, 200), (1024, 1024), (1920, 1080), (60, 700), (2600, 2000))
"""Widths and heights in pixels."""
STEP = 997
LOOKS = {
    "qwen2_5_vl": (14, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "qwen3_vl": (16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Side of a patch, mean and deviation of the channels: the published folders' preprocessor_config.json."""
GRIDS = ((1, 4, 6), (1, 8, 4))
LEAST, MOST = 512 * 28 * 28, 2048 * 28 * 28
"""Pixels of a picture, as Sa2VA asks for them in both families."""


def picture(width: int, height: int) -> Image.Image:
    """Noise with long waves in it, of whole numbers alone."""
    noise = np.random.default_rng(width).integers(0, 64, (height, width, 3))
    down, across = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    waves = (down * 3 + across * 5) // 7 % 160 + np.array([0, 16, 32])
    return Image.fromarray((noise + waves).astype(np.uint8))


def main() -> None:
    from qwen_vl_utils import process_vision_info
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorFast,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    found: dict[str, np.ndarray] = {}
    for family, (patch, mean, std) in LOOKS.items():
        processor = Qwen2VLImageProcessorFast(patch_size=patch, image_mean=mean, image_std=std)
        for number, size in enumerate(SIZES):
            said = [{"role": "user", "content": [{"type": "image", "image": picture(*size)}]}]
            images, _ = process_vision_info(said)
            made = processor(images=images, min_pixels=LEAST, max_pixels=MOST, return_tensors="pt")
            found[f"{family}_grid_{number}"] = made["image_grid_thw"][0].numpy()
            found[f"{family}_values_{number}"] = made["pixel_values"].flatten()[::STEP].numpy()
    np.savez_compressed(HERE / "pictures.npz", **found)
    kinds: dict[str, Any] = {
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
        "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    }
    for family, (config_class, model_class) in kinds.items():
        config = config_class(**json.loads((HERE / f"{family}.json").read_text()))
        config._attn_implementation = "eager"
        model = model_class(config).eval()
        model.load_state_dict(
            {name: values(name, tuple(each.shape), SEED) for name, each in model.state_dict().items()}
        )
        np.savez_compressed(HERE / f"{family}-said.npz", **said_of(model, family, config))


def said_of(model: Any, family: str, config: Any) -> dict[str, np.ndarray]:
    """As Sa2VA asks: greedy, with all states; the last of each step is what becomes a mask."""
    patch = LOOKS[family][0]
    ids = [3, 5]
    for grid in GRIDS:
        run = [config.image_token_id] * (grid[1] * grid[2] // 4)
        ids += [config.vision_start_token_id, *run, config.vision_end_token_id]
    ids += [7, 11, 13]
    width = 3 * 2 * patch**2
    patches = [values("patches", (grid[1] * grid[2], width), n) * width**0.5 for n, grid in enumerate(GRIDS)]
    with torch.no_grad():
        said = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values=torch.cat(patches),
            image_grid_thw=torch.tensor(GRIDS),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=127,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    states = torch.cat([step[-1][0] for step in said.hidden_states])
    return {"ids": np.array(ids), "said": said.sequences[0, len(ids) :].numpy(), "states": states[len(ids) :].numpy()}


if __name__ == "__main__":
    main()
