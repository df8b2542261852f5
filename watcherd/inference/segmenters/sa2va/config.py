"""Reading a Sa2VA model folder's ``config.json``, and refusing the folders that would give wrong masks.

Supported is the Sa2VA chat family on InternVL2.5 or InternVL3: an InternViT, a Qwen2 or Qwen3 language model, and
SAM2 with its large Hiera trunk, which the checkpoints hold without describing it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUPPORTED = "Supported are Sa2VA chat models on InternVL2.5 or InternVL3 with Qwen2 or Qwen3 (1B, 2B, 4B, 8B, 14B)."

LANGUAGE_MODELS = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
"""Upstream class of the language model to the name of the native one."""

TEMPLATES = ("qwen_chat", "internlm2_chat", "phi3_chat")
"""Prompt templates; what they say stands in `prompt.Template`."""

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

    ``vision`` and ``language`` are the keys of ``vision_config`` and ``llm_config`` as they stand in the folder;
    ``lora_ranks`` says with which rank the vision tower and the language model were wrapped, 0 for not at all.
    """

    vision: Mapping[str, Any]
    language: Mapping[str, Any]
    family: str
    template: str = "qwen_chat"
    lora_ranks: Mapping[str, int]
    hiera: Hiera = LARGE

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
    if found == "internvl_chat":
        raise ConfigError(
            f"{folder} is an InternVL, which cannot segment by itself.",
            hint="Set checkpoint in [model.sa2va] to the iter_*.pth that was trained on it, or path in [model] to a "
            "Sa2VA.",
        )
    if found != "sa2va_chat":
        raise ConfigError(f"{folder} holds a model of type {found!r}, not 'sa2va_chat'.", hint=SUPPORTED)
    vision, language = values.get("vision_config"), values.get("llm_config")
    if not isinstance(vision, dict) or not isinstance(language, dict):
        raise ConfigError(
            f"{folder} holds a Sa2VA without vision_config and llm_config, so it is not built on InternVL.",
            hint=SUPPORTED,
        )
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
