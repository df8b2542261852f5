"""Writing the model folders of the recorded references: real sizes of SAM2, small language models, made-up weights.

Every weight follows from its name, its shape and a seed alone, by integer random numbers, so the same values come out
everywhere; ``tests/data/sa2va/README.md`` says where the recorded arrays come from.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parent / "data" / "sa2va"
MODELS = ("layer-norm", "rms-norm")

# A weight that multiplies a normalised value: its mean is one. Some norms are named by their place in a sequence.
_NORMS = re.compile(
    r"(^|\.)(norm\d*|norm_final_attn|layernorm|input_layernorm|post_attention_layernorm|[qk]_norm|ln_\w+)\.weight$"
    r"|^mlp1\.0\.weight$"
    r"|sam_mask_decoder\.output_upscaling\.1\.weight$"
    r"|sam_prompt_encoder\.mask_downscaling\.[14]\.weight$"
    r"|memory_encoder\.mask_downsampler\.encoder\.(1|4|7|10)\.weight$"
)
_POSITIONS = re.compile(
    r"(pos_embed|pos_embed_window|position_embedding|class_embedding|tpos_enc|no_mem_embed|no_mem_pos_enc|no_obj_ptr)$"
)
_EMBEDDINGS = re.compile(r"(embed_tokens|tok_embeddings|wte|_tokens?|_embed|point_embeddings\.\d+)\.weight$")


def write_model(folder: Path, model: str = "layer-norm", *, shards: int = 1) -> Path:
    """Write the model folder ``model`` (one of `MODELS`; 0.9 GB) to ``folder``, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DATA / model / "config.json", folder / "config.json")
    write_tokenizer(folder)
    shapes = json.loads((DATA / model / "shapes.json").read_text())
    meta = json.loads((DATA / model / "meta.json").read_text())
    write_weights(folder, fill(shapes, meta["seed"]), shards=shards)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Copy the references' tokenizer, of 356 tokens, into ``folder``."""
    for file in (DATA / "tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], *, shards: int = 1) -> None:
    """Save ``tensors`` as one safetensors file, or as several with their index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def fill(shapes: dict[str, list[int]], seed: int) -> dict[str, torch.Tensor]:
    """Values for a checkpoint's names and shapes, float32."""
    return {name: values(name, tuple(shape), seed) for name, shape in shapes.items()}


def values(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Uniform values of the mean and deviation that suit the name; exact, from 24-bit integers."""
    mean, deviation = spread(name, shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    integers = torch.randint(0, 1 << 24, shape, generator=generator, dtype=torch.int32)
    unit = integers.float().mul_(2.0**-24).sub_(0.5)
    return unit.mul_(torch.tensor(deviation * 12**0.5)).add_(torch.tensor(mean))


def spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if name.endswith("positional_encoding_gaussian_matrix"):
        return 0.0, 1.0
    if name.endswith((".ls1", ".ls2")):
        return 0.5, 0.05
    if name.endswith(".g_weight"):
        return 0.1, 0.02
    if _NORMS.search(name):
        return 1.0, 0.05
    if len(shape) <= 1:
        return 0.0, 0.05
    if _POSITIONS.search(name):
        return 0.0, 0.2
    if _EMBEDDINGS.search(name):
        return 0.0, 0.5
    # A transposed convolution's first axis is its input.
    inputs = shape[0] if "output_upscaling" in name else prod(shape[1:])
    return 0.0, inputs**-0.5
