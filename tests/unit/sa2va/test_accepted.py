"""The page's table of published models says what the code does with their configurations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watcherd.errors import ConfigError
from watcherd.inference.segmenters.sa2va.config import PATCHED_TEMPLATE, TEMPLATES, parse

PAGE = Path(__file__).parents[3] / "docs" / "sa2va.md"
BEGIN, END = "<!-- accepted: made by tests/unit/sa2va/test_accepted.py -->\n", "<!-- /accepted -->"
VISION = {"image_size": 448, "patch_size": 14, "norm_type": "layer_norm"}


@dataclass(frozen=True, slots=True)
class Published:
    """Models as their makers call them, what they are built on, and the class of their language model."""

    names: str
    base: str
    language: str

    def values(self, template: str) -> dict[str, Any]:
        """Their ``config.json``, as far as it is looked at."""
        if "VL" in self.language:  # one model of its own with eyes and words, whose configuration it extends
            kind = "qwen3_vl" if "Qwen3" in self.language else "qwen2_5_vl"
            kind += "_moe" if "Moe" in self.language else ""
            text = {"model_type": f"{kind}_text", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
            vision = {"model_type": kind, "out_hidden_size": 8}
            return {"model_type": "sa2va_chat", "template": template, "text_config": text, "vision_config": vision}
        llm = {"architectures": [self.language], "hidden_size": 8, "num_hidden_layers": 1}
        return {"model_type": "sa2va_chat", "vision_config": VISION, "llm_config": llm, "template": template}


PUBLISHED = (
    Published("Sa2VA-1B, 4B", "InternVL2.5", "Qwen2ForCausalLM"),
    Published("Sa2VA-8B, 26B", "InternVL2.5", "InternLM2ForCausalLM"),
    Published("Sa2VA-InternVL3-2B, 8B, 14B", "InternVL3", "Qwen2ForCausalLM"),
    Published("trainings on Qwen3 with an InternViT", "InternVL3.5", "Qwen3ForCausalLM"),
    Published("Sa2VA-Qwen2_5-VL-3B, 7B", "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration"),
    Published("Sa2VA-Qwen3-VL-4B", "Qwen3-VL", "Qwen3VLForConditionalGeneration"),
    Published("trainings on a mixture of experts", "Qwen3-VL", "Qwen3VLMoeForConditionalGeneration"),
)


def verdict(model: Published) -> str:
    """What is made of the model's configuration with each of the templates that there are."""
    taken, why = [], ""
    for template in TEMPLATES:
        try:
            config = parse(model.values(template), Path("FOLDER"))
        except ConfigError as error:
            why = error.message.removeprefix("FOLDER ").rstrip(".")
        else:
            if config.template == PATCHED_TEMPLATE:
                return "yes"
            taken.append(f"`{template}`")
    return f"yes, with {', '.join(taken)}" if taken else f"no: it {why}"


def table() -> str:
    rows = ["| model | built on | language model | accepted |", "|---|---|---|---|"]
    rows += [f"| {each.names} | {each.base} | `{each.language}` | {verdict(each)} |" for each in PUBLISHED]
    return "\n".join(rows) + "\n"


def test_the_pages_table_of_accepted_models_is_what_the_code_does() -> None:
    """If it is not, paste what is expected here."""
    found = re.search(re.escape(BEGIN) + "(.*?)" + re.escape(END), PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert table() == found[1]
