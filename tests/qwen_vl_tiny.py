"""Small Sa2VA models on Qwen2.5-VL and Qwen3-VL: with the recorded references' weights, or random ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tests.sa2va_folder import DATA, values, write_tokenizer
from tests.sa2va_tiny import TRUNK
from watcherd.inference.segmenters.sa2va import families
from watcherd.inference.segmenters.sa2va.config import PATCHED_TEMPLATE, Sa2vaConfig
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
from watcherd.inference.segmenters.sa2va.prompt import Prompt, Words, positions_on_axes
from watcherd.inference.segmenters.sa2va.qwen_vl import layout_for
from watcherd.inference.segmenters.sa2va.renames import sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FOLDER = DATA / "qwen-vl"
FAMILIES = {family.base: family for family in (families.QWEN2_5_VL, families.QWEN3_VL)}
GRIDS = ((4, 6), (8, 4))
"""Rows and columns of patches of the recorded pictures."""
SEED, PICTURE = 5, 120
MARKS = {"<img>": "<|vision_start|>", "<IMG_CONTEXT>": "<|image_pad|>", "</img>": "<|vision_end|>"}
WORDS = 356


def described(base: str, **language: Any) -> dict[str, Any]:
    """What the ``config.json`` of such a Sa2VA says, with the references' small sizes; ``language`` changes keys."""
    said: dict[str, Any] = json.loads((FOLDER / f"{base}.json").read_text())
    vision = said.pop("vision_config") | {"model_type": f"{base}_vision"}
    text = said.pop("text_config", said) | {"model_type": f"{base}_text", "tie_word_embeddings": False} | language
    return {
        "model_type": "sa2va_chat",
        "architectures": ["Sa2VAChatModelQwen"],
        "text_config": text,
        "vision_config": vision,
    }


def tiny_config(base: str, **language: Any) -> Sa2vaConfig:
    """The configuration of a small model, with a narrow SAM2."""
    said = described(base, **language)
    return Sa2vaConfig(
        vision=said["vision_config"],
        language=said["text_config"],
        family=base,
        template=PATCHED_TEMPLATE,
        lora_ranks={"vision": 0, "language": 0},
        hiera=TRUNK,
        built_on=FAMILIES[base],
    )


def recorded_network(base: str) -> Sa2vaNetwork:
    """A network with the language and the vision of the references."""
    network = Sa2vaNetwork(tiny_config(base)).eval().requires_grad_(requires_grad=False)
    parts = {k: each for k, each in network.state_dict().items() if k.startswith(("vision.", "language."))}
    for name, source in sources(parts, FAMILIES[base]).items():
        reference = source.names[0].removeprefix("model.")
        parts[name].copy_(values(reference, tuple(parts[name].shape), SEED))
    return network


def random_network(base: str, seed: int = 0, **language: Any) -> Sa2vaNetwork:
    """A small network with random weights, wide enough for answers to differ from prompt to prompt."""
    torch.manual_seed(seed)
    config = tiny_config(base, vocab_size=WORDS, **language)
    network = Sa2vaNetwork(config).eval().requires_grad_(requires_grad=False)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and "positional" not in name:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network


def write_words(folder: Path) -> Path:
    """The references' tokenizer with Qwen-VL's marks of a picture instead of InternVL's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    for path in folder.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for old, new in MARKS.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        path.write_text(text, encoding="utf-8")
    return folder


def tiny_engine(folder: Path, base: str, seed: int = 0) -> Engine:
    """A small model with random weights, ready to segment; its tokenizer is written to ``folder``."""
    words = Words(write_words(folder), template=PATCHED_TEMPLATE)
    return Engine(random_network(base, seed), words, max_new_tokens=24)


def recorded_patches(base: str, number: int) -> torch.Tensor:
    """The patches of a recorded picture, which follow from a name."""
    width = 3 * 2 * FAMILIES[base].patch ** 2
    rows, columns = GRIDS[number]
    return values("patches", (rows * columns, width), number) * width**0.5


def see(network: Sa2vaNetwork, patches: Sequence[torch.Tensor], grids: Sequence[tuple[int, int]]) -> Any:
    """What the tower gives for pictures that are patches already."""
    tower: Any = network.vision
    return tower(torch.cat(list(patches)), **layout_for(tower, grids).on(torch.device("cpu")))


def prompt_of(ids: Sequence[int], grids: Sequence[tuple[int, int]]) -> Prompt:
    """The prompt of recorded ``ids`` about pictures of these grids of patches."""
    visual = tuple(place for place, token in enumerate(ids) if token == PICTURE)
    blocks = [(rows // 2, columns // 2) for rows, columns in grids]
    return Prompt(ids=tuple(ids), visual=visual, positions=positions_on_axes(len(ids), visual, blocks))


def recorded(name: str) -> Mapping[str, NDArray[Any]]:
    """The recorded arrays ``name``."""
    with np.load(FOLDER / f"{name}.npz") as found:
        return dict(found)
