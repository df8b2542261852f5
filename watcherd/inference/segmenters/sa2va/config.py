"""Reading a Sa2VA model folder's ``config.json``, and refusing the folders that would give wrong masks.

Supported are the Sa2VA chat models on InternVL2.5 or InternVL3, an InternViT with a Qwen2 or Qwen3 language model, and
those on Qwen2.5-VL and Qwen3-VL, which are described as a whole; each with SAM2 with its large Hiera trunk, which the
checkpoints hold without describing it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders
from watcherd.inference.segmenters.sa2va import families
from watcherd.inference.segmenters.sa2va.families import INTERNVL, MERGE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from watcherd.inference.segmenters.sa2va.families import Family

SUPPORTED = (
    "Supported are Sa2VA chat models on InternVL2.5 or InternVL3 with Qwen2 or Qwen3 (1B, 2B, 4B, 8B, 14B), on "
    "Qwen2.5-VL (3B, 7B) and on Qwen3-VL (4B)."
)

LANGUAGE_MODELS = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
"""Upstream class of the language model to the name of the native one."""

TEMPLATES = ("qwen_chat", "internlm2_chat", "phi3_chat")
"""Prompt templates that a folder on an InternVL may name; what they say stands in `prompt.Template`."""

PATCHED_TEMPLATE = "qwen_vl"
"""The template of all models that see in patches, whatever their ``config.json`` calls it."""

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
"""Keys of the language model's configuration that change what it computes."""

TILE = 448
"""Side of the vision tower's input in pixels, whatever the configuration says about dynamic images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hiera:
    """The size of SAM2's image encoder."""

    width: int = 144
    heads: int = 2
    blocks: tuple[int, ...] = (2, 6, 36, 4)
    windows: tuple[int, ...] = (8, 4, 16, 8)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    background: tuple[int, int] = (7, 7)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, from high to low resolution."""
        return tuple(self.width * 2**stage for stage in range(len(self.blocks)))


LARGE = Hiera()
"""SAM2's large trunk: the only one that Sa2VA was released with, hard-coded in the reference code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sa2vaConfig:
    """What is needed to build the model.

    ``vision`` and ``language`` are the keys of ``vision_config`` and of the language model's as they stand in the
    folder; ``family`` is the native language model of an InternVL's; ``lora_ranks`` says with which rank the vision
    tower and the language model were wrapped, 0 for not at all. ``tied``: whether the head is the embedding's table.
    """

    vision: Mapping[str, Any]
    language: Mapping[str, Any]
    family: str
    template: str = "qwen_chat"
    lora_ranks: Mapping[str, int]
    hiera: Hiera = LARGE
    built_on: Family = INTERNVL
    tied: bool = False

    def language_shape(self) -> dict[str, Any]:
        """Only what shapes the language model: exported configurations carry settings for generation, too."""
        return {key: self.language[key] for key in LANGUAGE_KEYS if self.language.get(key) is not None}

    @property
    def hidden_size(self) -> int:
        """Width of the language model's states."""
        return int(self.language["hidden_size"])

    @property
    def layers(self) -> int:
        """Number of layers of the language model."""
        return int(self.language["num_hidden_layers"])


def read(folder: Path | None) -> Sa2vaConfig:
    """Read ``folder``'s configuration.

    Raises `ConfigError` when ``folder`` is not a folder of a supported model, and `UnavailableError` when its
    ``config.json`` or another file of it cannot be read.
    """
    if folder is None:
        raise ConfigError(
            "The segmenter sa2va needs a model folder, and model.path is empty.",
            hint='Set path in [model], for example path = "/models/Sa2VA-InternVL3-8B".',
        )
    return parse(values_of(folder), folder)


def values_of(folder: Path) -> dict[str, Any]:
    """What ``folder``'s ``config.json`` says, unchecked; empty when it is no table. Raises what `read` raises."""
    folders.refuse_unreadable(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} is not a Hugging Face model folder: it has no config.json.",
            hint="Point model.path at the folder that holds config.json and the *.safetensors files.",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}.", hint="Download the folder again.") from error
    return values if isinstance(values, dict) else {}


def lora_ranks(values: Mapping[str, Any]) -> dict[str, int]:
    """With which rank the weights beside a ``config.json`` were wrapped, by its ``values``."""
    return {
        "vision": int(values.get("use_backbone_lora") or 0),
        "language": int(values.get("use_llm_lora") or 0),
    }


def parse(values: Any, folder: Path) -> Sa2vaConfig:
    """Check the contents of a ``config.json``; ``folder`` is named in the errors. Raises `ConfigError`."""
    found = values.get("model_type") if isinstance(values, dict) else None
    base = families.of_base(found)
    if base:
        raise ConfigError(
            f"{folder} is {base.article}, which cannot segment by itself.",
            hint="Set checkpoint in [model.sa2va] to the iter_*.pth that was trained on it, or path in [model] to a "
            "Sa2VA.",
        )
    if found != "sa2va_chat":
        raise ConfigError(f"{folder} holds a model of type {found!r}, not 'sa2va_chat'.", hint=SUPPORTED)
    built_on = families.of_parts(values)
    vision = values.get("vision_config")
    if built_on is None or not isinstance(vision, dict):
        raise ConfigError(
            f"{folder} holds a Sa2VA that is built on {_other(values)}, which is not supported yet.", hint=SUPPORTED
        )
    if built_on.sees == "patches":
        return _parse_patched(values, vision, built_on, folder)
    language = values[built_on.described]
    _check_vision(vision, values, folder)
    return Sa2vaConfig(
        vision=vision,
        language=language,
        family=_family(language, folder),
        template=template_of(values, folder),
        lora_ranks=lora_ranks(values),
    )


def _family(language: dict[str, Any], folder: Path) -> str:
    architecture = (language.get("architectures") or [None])[0]
    if architecture not in LANGUAGE_MODELS:
        known = ", ".join(LANGUAGE_MODELS)
        raise ConfigError(
            f"{folder} is a Sa2VA on {architecture}, which is not supported yet; its language model must be {known}.",
            hint=SUPPORTED,
        )
    if language.get("use_sliding_window"):
        raise ConfigError(f"{folder} asks for sliding-window attention, which is not supported.", hint=SUPPORTED)
    return LANGUAGE_MODELS[architecture]


def template_of(values: Mapping[str, Any], folder: Path) -> str:
    """The prompt template that ``values`` of ``folder`` name. Raises `ConfigError` for one that is not supported."""
    template = str(values.get("template", "")).replace("-", "_")
    if template not in TEMPLATES:
        allowed = ", ".join(TEMPLATES)
        raise ConfigError(f"{folder} uses the prompt template {template!r}; supported are {allowed}.", hint=SUPPORTED)
    return template


def described(values: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The language model's part of a ``config.json``; before transformers 4.52 a Qwen2.5-VL's stood beside all else."""
    found = values.get(family.described)
    if isinstance(found, dict):
        return found
    return {key: values[key] for key in (*LANGUAGE_KEYS, "use_sliding_window", "tie_word_embeddings") if key in values}


def _parse_patched(values: Mapping[str, Any], vision: dict[str, Any], family: Family, folder: Path) -> Sa2vaConfig:
    language = described(values, family)
    missing = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if key not in language]
    if missing:
        raise ConfigError(f"{folder} does not say {', '.join(missing)} of its language model.", hint=SUPPORTED)
    if language.get("use_sliding_window"):
        raise ConfigError(f"{folder} asks for sliding-window attention, which is not supported.", hint=SUPPORTED)
    expected = {
        "patch_size": (vision.get("patch_size", family.patch), family.patch),
        "spatial_merge_size": (vision.get("spatial_merge_size", MERGE), MERGE),
        "temporal_patch_size": (vision.get("temporal_patch_size", 2), 2),
        "out_hidden_size": (vision.get("out_hidden_size"), language["hidden_size"]),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ConfigError(f"{folder} has vision_config.{key} = {found!r}; only {wanted!r} is supported.")
    return Sa2vaConfig(
        vision=vision,
        language=language,
        family=family.base,
        template=PATCHED_TEMPLATE,
        lora_ranks=lora_ranks(values),
        built_on=family,
        tied=is_tied(values, family),
    )


def is_tied(values: Mapping[str, Any], family: Family) -> bool:
    """Whether the language head is the embedding's table; an InternVL's never is, whatever its folder says."""
    said = described(values, family).get("tie_word_embeddings", values.get("tie_word_embeddings", False))
    return family.sees == "patches" and bool(said)


def _other(values: Mapping[str, Any]) -> str:
    """What a Sa2VA of no known family says that it is built on."""
    text = values.get("text_config")
    said = str(text.get("model_type") or "") if isinstance(text, dict) else ""
    return said or "something that it does not describe (it has neither llm_config nor text_config)"


def _check_vision(vision: dict[str, Any], values: dict[str, Any], folder: Path) -> None:
    """What the reference code takes for granted must be what the folder says."""
    expected = {
        "vision_config.image_size": (vision.get("image_size"), TILE),
        "vision_config.patch_size": (vision.get("patch_size"), 14),
        "downsample_ratio": (values.get("downsample_ratio", 0.5), 0.5),
        "ps_version": (values.get("ps_version", "v2"), "v2"),
        "select_layer": (values.get("select_layer", -1), -1),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ConfigError(f"{folder} has {key} = {found!r}; only {wanted!r} is supported.", hint=SUPPORTED)
    norm = vision.get("norm_type")
    if norm not in {"layer_norm", "rms_norm"}:
        raise ConfigError(f"{folder} has vision_config.norm_type = {norm!r}; it must be layer_norm or rms_norm.")
