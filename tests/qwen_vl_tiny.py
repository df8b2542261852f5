"""Small Sa2VA models on Qwen2.5-VL and Qwen3-VL: with the recorded references' weights, or random ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.sa2va_folder import DATA, fill, values, write_tokenizer
from tests.sa2va_tiny import TRUNK
from tests.sa2va_training import Training
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va import families
from watcherd.inference.segmenters.sa2va.config import PATCHED_TEMPLATE, Sa2vaConfig
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork, skeleton
from watcherd.inference.segmenters.sa2va.prompt import Prompt, Words, positions_on_axes
from watcherd.inference.segmenters.sa2va.qwen_vl import layout_for
from watcherd.inference.segmenters.sa2va.renames import needed, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FOLDER = DATA / "qwen-vl"
FAMILIES = {family.base: family for family in (families.QWEN2_5_VL, families.QWEN3_VL)}
GRIDS = ((4, 6), (8, 4))
"""Rows and columns of patches of the recorded pictures."""
SEED, PICTURE = 5, 120
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


def published(base: str) -> dict[str, Any]:
    """What the ``config.json`` of Sa2VA-Qwen3-VL-4B and of Sa2VA-Qwen2_5-VL-3B says, as far as it matters."""
    said: dict[str, Any] = json.loads((FOLDER / "published.json").read_text())[base]
    return {"model_type": "sa2va_chat", **said}


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
    """Write the references' tokenizer, which has Qwen-VL's marks of a picture, too."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
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


# ------------------------------------------------------------------------------------------------------- model folders

SAM2 = "grounding_encoder.sam2_model."
GROWN = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
RANK, ALPHA = 4, 8
CFG = f"""model = dict(
    mllm=dict(llm_lora=dict(lora_alpha={ALPHA}, r={RANK}), model_path='/somewhere/Qwen-VL'),
    special_tokens={list(GROWN)})
"""
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% endfor %}"
)
"""The beginning of Qwen2.5-VL's own chat template."""


def shapes_of(base: str, folder: Path) -> dict[str, list[int]]:
    """Names and shapes of such a folder's tensors; SAM2's size is what `config.parse` says."""
    config = configuration.parse(described(base, vocab_size=WORDS), folder)
    needed_ = needed(skeleton(config).state_dict(), config.built_on)
    return {name: list(shape) for name, shape in needed_.items()}


def write_folder(folder: Path, base: str) -> Path:
    """Write a Sa2VA's exported folder with made-up weights."""
    write_words(folder)
    (folder / "config.json").write_text(json.dumps(described(base, vocab_size=WORDS)))
    save_file(fill(shapes_of(base, folder), SEED), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_training(folder: Path, base: str) -> Training:
    """Write what a training leaves and needs: a Qwen-VL's folder as it is published, SAM2's file, ``iter_20.pth``.

    A Qwen2.5-VL's configuration is flat and its names are old ones; both have no head of their own, for it is tied.
    """
    made = Training(base=folder / "Qwen-VL", sam2=folder / "sam2_hiera_large.pt", checkpoint=folder / "iter_20.pth")
    shapes = shapes_of(base, folder)
    family = FAMILIES[base]
    write_words(made.base)
    _shrink(made.base)
    rows = WORDS - len(GROWN) + 7  # padded, as published tables are
    said = described(base, vocab_size=rows, tie_word_embeddings=True) | {"model_type": base, "architectures": ["Qwen"]}
    if base == "qwen2_5_vl":
        said |= said.pop("text_config")
        said |= {"model_type": base}
    (made.base / "config.json").write_text(json.dumps(said))
    (made.base / "chat_template.jinja").write_text(CHAT)
    own = {name: shape for name, shape in shapes.items() if name.startswith("model.") and name != family.head}
    own[family.embedding] = [rows, own[family.embedding][1]]
    weights = fill(own, SEED)
    save_file({_published(name, base): each for name, each in weights.items()}, made.base / "model.safetensors")
    sam2 = {k.removeprefix(SAM2).replace(".g_weight", ".gamma"): s for k, s in shapes.items() if k.startswith(SAM2)}
    torch.save({"model": fill(sam2, SEED)}, made.sam2)
    state = fill(_trained(shapes, family), SEED + 1)
    torch.save({"state_dict": state, "meta": {"iter": 20, "cfg": CFG}}, made.checkpoint)
    return made


def _shrink(folder: Path) -> None:
    """Take the words out that a training adds."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] not in GROWN]
    path.write_text(json.dumps(tokenizer))


def _published(name: str, base: str) -> str:
    inner = name.removeprefix("model.")
    if base == "qwen3_vl":
        return inner
    return inner.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def _trained(shapes: Mapping[str, list[int]], family: families.Family) -> dict[str, list[int]]:
    """Of a run with LoRA around the whole model, which trains both tables whole."""
    wrapped = "mllm.model.base_model.model."
    found = {}
    for name in family.tables:
        found[wrapped + name.removeprefix("model.").replace(".weight", ".modules_to_save.default.weight")] = shapes[
            name
        ]
    for name, shape in shapes.items():
        if ".language_model.layers." in name and name.endswith("_proj.weight"):
            stem = wrapped + name.removeprefix("model.").removesuffix(".weight")
            found[f"{stem}.lora_A.default.weight"] = [RANK, shape[1]]
            found[f"{stem}.lora_B.default.weight"] = [shape[0], RANK]
    kept = (f"{SAM2}sam_mask_decoder.", "text_hidden_fcs.")
    return found | {name: shape for name, shape in shapes.items() if name.startswith(kept)}
