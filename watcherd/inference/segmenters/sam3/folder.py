"""A folder as SAM 3 is published in: what its ``config.json`` describes and how its pictures are prepared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError
from watcherd.inference import folders, loading

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

KINDS = ("sam3", "sam3_video")
"""Model types that are taken. The second is how the model is published: its tracker of objects is left out."""
FOLLOWED: dict[str, object] = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 2,
}  # fmt: skip
"""Settings of the processor whose only value that is followed is transformers' own."""
REFUSED = ("do_center_crop", "do_pad", "crop_size", "pad_size")
"""Settings of the processor that are not followed at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A folder's model. ``side``: pixels of its square input; ``rescale``, ``mean``, ``std``: the processor's, values
    become (value * rescale - mean) / std; ``length``: tokens that the text encoder takes."""

    folder: Path
    config: Any
    side: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def length(self) -> int:
        return int(self.config.text_config.max_position_embeddings)

    def skeleton(self) -> nn.Module:
        """The modules, with parameters on the meta device and buffers computed."""
        from transformers import Sam3Model

        return loading.skeleton(lambda: Sam3Model(self.config))


def describe(folder: Path | None) -> Description:
    """Read what stands in the folder beside the weights.

    Raises `ConfigError` when there is no such folder, it holds no SAM 3 or more than one model, or its processor is
    set to what is not followed; `UnavailableError` when it may not be read.
    """
    if folder is None:
        raise ConfigError(
            "model.path is empty; the sam3 segmenter needs a model folder.",
            hint="Give the folder that holds config.json, the tokenizer, the processor's settings and the weights.",
        )
    folders.refuse_missing(folder)
    folders.refuse_unreadable(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path = {str(folder)!r} has no config.json.", hint="Download the whole model folder of a SAM 3."
        )
    folders.refuse_ambiguous(folder)
    config = _config(folder)
    side = int(config.vision_config.backbone_config.image_size)
    return Description(folder=folder, config=config, side=side, **_preparation(folder, side))


def _config(folder: Path) -> Any:
    """transformers' configuration of the model that works on single pictures."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model.path: transformers cannot read {folder / 'config.json'}: {error}.") from error
    if config.model_type not in KINDS:
        raise ConfigError(
            f"model.path = {str(folder)!r} holds a {config.model_type} model, which is no SAM 3.",
            hint="The sam3 segmenter runs folders such as facebook/sam3.",
        )
    return config.detector_config if config.model_type == "sam3_video" else config


def _preparation(folder: Path, side: int) -> dict[str, Any]:
    """The processor's figures. Raises `ConfigError` for what the model cannot take or what is not followed."""
    said = _written(folder)
    path = f"The image processor in {folder}"
    wrong = [f"{key} = {said[key]!r}" for key, value in FOLLOWED.items() if said.get(key, value) != value]
    wrong += [f"{key} = {said[key]!r}" for key in REFUSED if said.get(key)]
    if wrong:
        raise ConfigError(
            f"{path} sets what is not followed: {'; '.join(wrong)}. Masks would be wrong.",
            hint="Take the file that was published with the model.",
        )
    size = said.get("size", {"height": side, "width": side})
    if size != {"height": side, "width": side}:
        raise ConfigError(
            f"{path} scales pictures to {size!r}; the model in config.json takes {side} x {side} pixels.",
            hint="Take both files from one folder.",
        )
    return {
        "rescale": float(said.get("rescale_factor", 1 / 255)),
        "mean": tuple(map(float, said.get("image_mean", (0.5, 0.5, 0.5)))),
        "std": tuple(map(float, said.get("image_std", (0.5, 0.5, 0.5)))),
    }


def _written(folder: Path) -> dict[str, Any]:
    """What the folder says about pictures. transformers prefers the newer file, if it has a part for them."""
    for name, part in (
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", None),
        ("video_preprocessor_config.json", None),
    ):
        try:
            said = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: {folder / name} cannot be read: {error}.") from error
        found = said.get(part) if part and isinstance(said, dict) else said
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if value is not None}
    raise ConfigError(
        f"model.path = {str(folder)!r} has neither processor_config.json nor preprocessor_config.json, which say how "
        "pictures are scaled.",
        hint="Download the whole model folder.",
    )
