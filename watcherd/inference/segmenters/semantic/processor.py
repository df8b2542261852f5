"""What a folder says about its pictures: the image processor's settings, and which of them are refused.

transformers' processors differ in what they do with a key, and in what they take for granted where it is missing. Both
are taken from there. A key that is set and that nothing here follows would change masks in silence: it is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROCESSORS = {
    "beit": "BeitImageProcessor",
    "data2vec-vision": "BeitImageProcessor",
    "detr": "DetrImageProcessor",
    "dpt": "DPTImageProcessor",
    "eomt": "EomtImageProcessor",
    "eomt_dinov3": "EomtImageProcessor",
    "mask2former": "Mask2FormerImageProcessor",
    "maskformer": "MaskFormerImageProcessor",
    "mobilenet_v2": "MobileNetV2ImageProcessor",
    "mobilevit": "MobileViTImageProcessor",
    "mobilevitv2": "MobileViTImageProcessor",
    "oneformer": "OneFormerImageProcessor",
    "segformer": "SegformerImageProcessor",
    "upernet": "SegformerImageProcessor",
}
"""Model types and the processors that transformers takes for them where a folder names none."""
DEFAULTED = (
    "do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "do_pad", "pad_size", "size_divisor", "do_flip_channel_order",
    "do_split_image", "keep_aspect_ratio", "ensure_multiple_of",
)  # fmt: skip
"""Keys whose value, where a folder leaves them out, is the processor's own."""
FOLLOWED: dict[str, set[str]] = {
    "do_flip_channel_order": {"MobileViTImageProcessor"},
    "do_normalize": {*PROCESSORS.values(), "ViTImageProcessor"} - {"MobileViTImageProcessor"},
    "do_pad": {"EomtImageProcessor", "DetrImageProcessor"},
    "do_split_image": {"EomtImageProcessor"},
    "ensure_multiple_of": {"DPTImageProcessor"},
    "keep_aspect_ratio": set(),
    "max_size": {
        "DetrImageProcessor", "Mask2FormerImageProcessor", "MaskFormerImageProcessor", "OneFormerImageProcessor",
    },
    "size_divisor": {"Mask2FormerImageProcessor", "MaskFormerImageProcessor"},
}  # fmt: skip
"""Keys that not every processor heeds, and those for which they are followed.

DETR's pads to the largest picture of a batch, which is to nothing. DPT's heeds ``keep_aspect_ratio``, but transformers'
DPT takes no other pictures than squares.
"""
GENERAL = {
    "crop_size", "default_to_square", "do_center_crop", "do_rescale", "do_resize", "image_mean", "image_std",
    "resample", "rescale_factor", "size",
}  # fmt: skip
"""Keys that `watcherd.inference.segmenters.semantic.recipe` follows whatever the processor is, or refuses itself."""
HARMLESS = {
    "backend", "class_info_file", "data_format", "device", "disable_grouping", "do_convert_annotations",
    "do_convert_rgb", "do_reduce_labels", "feature_extractor_type", "format", "ignore_index", "image_processor_type",
    "image_seq_length", "input_data_format", "metadata", "model_input_names", "num_labels", "num_text",
    "processor_class", "reduce_labels", "repo_path", "return_tensors", "use_fast",
}  # fmt: skip
"""Keys that have no say in what a grey or an RGB picture becomes: they are about drawn masks, words or programs."""


def read(folder: Path, model_type: str) -> dict[str, Any]:
    """The settings, with what the folder leaves out. ``kind``: transformers' name of the processor.

    Raises `ConfigError` when the folder has none, or sets keys that are not followed; all of these are named.
    """
    said = {key: value for key, value in _written(folder).items() if value is not None}
    kind = _kind(said, model_type)
    settings = _defaults(kind, folder, named="image_processor_type" in said) | said
    _refuse(settings, kind, folder)
    return settings | {"kind": kind}


def _written(folder: Path) -> dict[str, Any]:
    """What stands in the folder. transformers prefers the newer file, if it has a part for pictures."""
    found = {name: _read(folder / name) for name in ("processor_config.json", "preprocessor_config.json")}
    nested = (found["processor_config.json"] or {}).get("image_processor")
    said = nested if isinstance(nested, dict) else found["preprocessor_config.json"]
    if said is None:
        raise ConfigError(
            f"model.path = {str(folder)!r} has no preprocessor_config.json, which says how pictures are scaled.",
            hint="Download the whole model folder, or save the processor beside a model that you trained.",
        )
    return said


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path: {path} cannot be read: {error}.") from error
    if not isinstance(said, dict):
        raise ConfigError(f"model.path: {path} holds no settings, but {type(said).__name__}.")
    return said


def _kind(said: Mapping[str, Any], model_type: str) -> str:
    """The processor's name without its maker's ending: the same processor has several, and had others."""
    name = str(said.get("image_processor_type") or said.get("feature_extractor_type") or PROCESSORS.get(model_type, ""))
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Pil").removesuffix("Fast")


def _defaults(kind: str, folder: Path, *, named: bool) -> dict[str, Any]:
    """What transformers' processor of that name takes for granted. Raises `ConfigError` for a name it does not know."""
    import transformers

    known: Any = getattr(transformers, f"{kind}Pil", None)
    if known is None and named and not hasattr(transformers, kind):
        raise ConfigError(
            f"The image processor in {folder} is a {kind} (image_processor_type), which transformers does not have.",
            hint="Only transformers' own processors are followed: no code from the folder is run.",
        )
    return {key: value for key in DEFAULTED if (value := getattr(known, key, None)) is not None}


def _refuse(settings: Mapping[str, Any], kind: str, folder: Path) -> None:
    """Raise `ConfigError` with each key that is set and not followed."""
    refused = [
        f"{key} = {value!r}"
        for key, value in sorted(settings.items())
        if _is_set(key, value) and not _is_followed(key, kind, settings)
    ]
    if not settings.get("do_resize", True):
        refused.append(f"do_resize = {settings['do_resize']!r}")
    if refused:
        raise ConfigError(
            f"The image processor in {folder} sets what is not followed for a {kind or 'model of this type'}: "
            f"{'; '.join(refused)}. Masks would be wrong.",
            hint="If the model was not trained so, take these keys out of preprocessor_config.json.",
        )
    if settings.get("do_center_crop"):
        _refuse_crop(settings, folder)


def _is_set(key: str, value: object) -> bool:
    return value not in (None, False, 0, [], {}, "") and not (key == "ensure_multiple_of" and value == 1)


def _is_followed(key: str, kind: str, settings: Mapping[str, Any]) -> bool:
    if key in FOLLOWED:
        # A processor that nobody named, of a model type that is not known here: normalising is what all but one do.
        return kind in FOLLOWED[key] or (key == "do_normalize" and kind not in PROCESSORS.values())
    if key == "size_divisibility":  # size_divisor's older name, which is not read any more
        return bool(settings[key] == settings.get("size_divisor"))
    return key in GENERAL or key in HARMLESS or key.startswith("_")


def _refuse_crop(settings: Mapping[str, Any], folder: Path) -> None:
    """Raise `ConfigError` unless the crop leaves every picture whole.

    transformers' post-processing stretches the mask of the middle over the whole picture: no vessel lies where it is
    drawn. Nor may the rim, which the model never saw, be called background.
    """
    size, crop = settings.get("size"), settings.get("crop_size")
    side = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = {"height": size, "width": size} if isinstance(size, int) and settings.get("default_to_square") else size
    if square != side:
        raise ConfigError(
            f"The image processor in {folder} crops pictures (do_center_crop = True, size = {size!r}, crop_size = "
            f"{crop!r}): the model would not see their rims, and transformers' masks are stretched over them.",
            hint='Set "do_center_crop" to false, and "size" to the crop\'s height and width, in '
            "preprocessor_config.json: whole pictures are then scaled to what the model was trained on.",
        )
