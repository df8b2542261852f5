"""What the families of Sa2VA are built on, and all in which they differ that is no code.

A family's language-and-vision part either sees tiles of one size (`internvl.py`, `eyes.TiledEyes`) or the whole picture
in patches (`qwen_vl.py`, `patches.PatchedEyes`). The rest, SAM2 and the way to it, is the same in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One of `FAMILIES`.

    ``name``: for people. ``base``: model type of the folder that a training begins with. ``sees``: which code looks at
    pictures. ``described``: key of ``config.json`` under which the language model stands.

    ``vision``, ``embedding``, ``head``, ``own``: beginnings and names of tensors in an exported folder; ``own`` are
    those of the parts that are not SAM2's. ``wrapped``: what a training's names have before them. ``normed``: whether
    the state that becomes a mask is taken behind the last norm. ``architecture``, ``auto_map``: what an exported
    ``config.json`` says. ``files``: besides the tokenizer's, those that say how it is asked and looks. ``patch``,
    ``mean``, ``deviation``: of a picture in patches, the side of one in pixels and its channels.
    """

    name: str
    base: str
    sees: Literal["tiles", "patches"]
    described: str
    vision: str
    embedding: str
    head: str
    own: tuple[str, ...]
    wrapped: str
    normed: bool
    architecture: str
    auto_map: Mapping[str, str]
    files: tuple[str, ...] = ()
    patch: int = 14
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def article(self) -> str:
        """The name in a sentence."""
        return f"an {self.name}" if self.name[0] in "AEIOU" else f"a {self.name}"

    @property
    def tables(self) -> tuple[str, str]:
        """Tensors with a row for each word."""
        return (self.embedding, self.head)


INTERNVL = Family(
    name="InternVL",
    base="internvl_chat",
    sees="tiles",
    described="llm_config",
    vision="vision_model.",
    embedding="language_model.model.embed_tokens.weight",
    head="language_model.lm_head.weight",
    own=("vision_model.", "language_model.", "mlp1.", "text_hidden_fcs."),
    wrapped="mllm.model.",
    normed=True,
    architecture="Sa2VAChatModel",
    auto_map={
        "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfig",
        "AutoModel": "modeling_sa2va_chat.Sa2VAChatModel",
        "AutoModelForCausalLM": "modeling_sa2va_chat.Sa2VAChatModel",
    },
)

_QWEN_VL: dict[str, Any] = {
    "sees": "patches",
    "described": "text_config",
    "vision": "model.model.visual.",
    "embedding": "model.model.language_model.embed_tokens.weight",
    "head": "model.lm_head.weight",
    "own": ("model.", "text_hidden_fcs."),
    "wrapped": "mllm.",
    "architecture": "Sa2VAChatModelQwen",
    "files": (
        "chat_template.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
    ),
    "auto_map": {
        "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfigQwen",
        "AutoModel": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
        "AutoModelForCausalLM": "modeling_sa2va_qwen.Sa2VAChatModelQwen",
    },
}

QWEN2_5_VL = Family(
    name="Qwen2.5-VL",
    base="qwen2_5_vl",
    normed=True,
    patch=14,
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
    **_QWEN_VL,
)

QWEN3_VL = Family(
    name="Qwen3-VL",
    base="qwen3_vl",
    # The transformers on which it was trained gave this state by the name of the other.
    normed=False,
    patch=16,
    mean=(0.5, 0.5, 0.5),
    deviation=(0.5, 0.5, 0.5),
    **_QWEN_VL,
)

FAMILIES = (INTERNVL, QWEN2_5_VL, QWEN3_VL)
"""All that are accepted."""

MERGE = 2
"""Patches along one side of what becomes one visual token, where a picture is seen in patches."""


def of_base(model_type: object) -> Family | None:
    """The family whose trainings begin with a folder of this model type."""
    return next((family for family in FAMILIES if family.base == model_type), None)


def of_parts(values: Mapping[str, Any]) -> Family | None:
    """The family of a Sa2VA's ``config.json``, by the parts that it describes."""
    if isinstance(values.get(INTERNVL.described), dict):
        return INTERNVL
    for key in ("text_config", "vision_config"):
        part = values.get(key)
        said = str(part.get("model_type", "")) if isinstance(part, dict) else ""
        found = of_base(said.removesuffix("_text").removesuffix("_vision"))
        if found:
            return found
    return None
