"""From the names of our modules to the names in a Sa2VA checkpoint.

Every parameter of ours comes from known rows of known tensors of the checkpoint; so the names that a checkpoint must
hold are those that our modules ask for, and any other name is one that we would have ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watcherd.inference.segmenters.sa2va.families import INTERNVL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from watcherd.inference.segmenters.sa2va.families import Family


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Tensors of the checkpoint that make one of ours.

    ``names``: put together along the rows. ``third``: take only this third of the rows (0 query, 1 key, 2 value).
    """

    names: tuple[str, ...]
    third: int | None = None

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape that results from the checkpoint's ``shapes``."""
        rows = sum(shapes[name][0] for name in self.names)
        return (rows // 3 if self.third is not None else rows, *shapes[self.names[0]][1:])

    def take(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Our tensor, of those that ``names`` say."""
        import torch

        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return whole if self.third is None else whole.chunk(3)[self.third]

    def needs(self, rows: int) -> int:
        """Rows that each of ``names`` has, where ours has ``rows``."""
        return rows * 3 if self.third is not None else rows // len(self.names)


_VISION = (
    (r"^embeddings\.cls_token$", "embeddings.class_embedding"),
    (r"^embeddings\.position_embeddings$", "embeddings.position_embedding"),
    (r"^embeddings\.patch_embeddings\.projection\.", "embeddings.patch_embedding."),
    (r"^encoder\.layer\.", "encoder.layers."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.([qk])_norm\.", r".attn.\1_norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_([12])$", r".ls\1"),
)

# In this order: a name is first brought to its part's prefix, then its last components are spelled upstream's way.
_SAM2 = (
    (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
     "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"^memory_encoder\.mask_downsampler\.final_conv\.", "memory_encoder.mask_downsampler.encoder.12."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^(memory_encoder\.)memory_(fuser\.layers\.\d+\.)scale$", r"\1\2g_weight"),
    (r"^(memory_encoder\.)memory_(fuser\.layers\.\d+\.)layer_norm\.", r"\1\2norm."),
    (r"^(memory_encoder\.)memory_(fuser\.layers\.\d+\.)depthwise_conv\.", r"\1\2dwconv."),
    (r"^(memory_encoder\.)memory_(fuser\.layers\.\d+\.)pointwise_conv([12])\.", r"\1\2pwconv\3."),
    (r"\.layer_norm(\d?)\.", r".norm\1."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.o_proj\.", ".out_proj."),
)  # fmt: skip

# Multi-layer perceptrons: upstream counts their layers, ours have an entry, inner layers and an exit.
_TWO_LAYERS = re.compile(r"(\.mlp\.)proj_(in|out)\.")
_THREE_LAYERS = re.compile(
    r"^((?:obj_ptr_proj|sam_mask_decoder\.(?:iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.\d+))\.)"
    r"(proj_in|layers\.0|proj_out)\."
)
_THREE_LAYER_NAMES = {"proj_in": "layers.0", "layers.0": "layers.1", "proj_out": "layers.2"}
_DOWNSAMPLER = re.compile(r"(memory_encoder\.mask_downsampler\.)layers\.(\d+)\.(conv|norm)\.")


def sources(names: Iterable[str], family: Family = INTERNVL) -> dict[str, Source]:
    """For each of our parameters and persistent buffers, where it comes from. Raises KeyError for an unknown part."""
    return {name: _source(*name.split(".", maxsplit=1), family=family) for name in names}


def needed(tensors: Mapping[str, torch.Tensor], family: Family = INTERNVL) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint of a network with these parameters and buffers holds."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, origin in sources(tensors, family).items():
        rows, *rest = tensors[name].shape
        shapes |= dict.fromkeys(origin.names, (origin.needs(rows), *rest))
    return shapes


def _source(part: str, rest: str, *, family: Family) -> Source:
    own: dict[str, dict[str, Callable[[str], Source]]] = {
        "tiles": {
            "vision": _vision,
            "projector": lambda name: Source(names=(f"mlp1.{name}",)),
            "language": lambda name: Source(names=(f"language_model.{name}",)),
        },
        "patches": {
            "vision": lambda name: Source(names=(f"{family.vision}{name}",)),
            "language": lambda name: Source(names=("model." + re.sub(r"^model\.", "model.language_model.", name),)),
        },
    }
    common: dict[str, Callable[[str], Source]] = {
        "text_hidden_fcs": lambda name: Source(names=(f"text_hidden_fcs.{name}",)),
        "sam2": _sam2,
    }
    return (own[family.sees] | common)[part](rest)


def canonical(name: str, family: Family, *, of_base: bool = False) -> str:
    """A checkpoint's name as an exported folder has it today; ``of_base``: in a folder that a training begins with.

    A Qwen2.5-VL's tower and language model stood one level higher before transformers 4.52, and its published weights
    are so named.
    """
    if family.sees == "tiles" or not (of_base or name.startswith("model.")):
        return name
    inner = name if of_base else name.removeprefix("model.")
    inner = re.sub(r"^visual\.", "model.visual.", inner)
    return "model." + re.sub(r"^model\.(?!visual\.|language_model\.)", "model.language_model.", inner)


def _vision(name: str) -> Source:
    head = re.search(r"\.attention\.([qkv])_proj\.", name)
    third = "qkv".index(head[1]) if head else None
    return Source(names=("vision_model." + _rename(name, _VISION),), third=third)


def _sam2(name: str) -> Source:
    prefix = "grounding_encoder.sam2_model."
    if name == "prompt_encoder.point_embed.weight":
        # One row here for each of upstream's four embeddings of a point's label.
        points = tuple(f"{prefix}sam_prompt_encoder.point_embeddings.{label}.weight" for label in range(4))
        return Source(names=points)
    name = _rename(name, _SAM2)
    name = _TWO_LAYERS.sub(lambda match: f"{match[1]}layers.{int(match[2] == 'out')}.", name)
    name = _THREE_LAYERS.sub(lambda match: f"{match[1]}{_THREE_LAYER_NAMES[match[2]]}.", name)
    name = _DOWNSAMPLER.sub(_count_downsampler, name)
    return Source(names=(prefix + name,))


def _count_downsampler(match: re.Match[str]) -> str:
    # Upstream's sequence is convolution, norm, activation for each layer.
    return f"{match[1]}encoder.{3 * int(match[2]) + int(match[3] == 'norm')}."


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
