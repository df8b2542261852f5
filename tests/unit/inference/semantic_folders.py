"""Tiny model folders with random weights, as transformers saves them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    CLIPTokenizer,
    DetrConfig,
    DPTConfig,
    DPTForSemanticSegmentation,
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.utils import logging

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 64
NAMES = ("background", "artery", "vein")


def labels(names: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def swin() -> SwinConfig:
    return SwinConfig(
        image_size=SIDE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def segformer_config(names: tuple[str, ...] = NAMES) -> SegformerConfig:
    return SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **labels(names),
    )


def small_transformer() -> dict[str, int]:
    return {
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "encoder_layers": 1,
    }


def segformer(names: tuple[str, ...] = NAMES) -> Any:
    return SegformerForSemanticSegmentation(segformer_config(names))


def segformer_backbone() -> Any:
    """A classifier's folder whose config.json claims segmentation: what people take for a model by mistake."""
    return SegformerForImageClassification(segformer_config())


def upernet() -> Any:
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=swin(), hidden_size=16, auxiliary_in_channels=32, auxiliary_channels=8, **labels(NAMES)
        )
    )


def mask2former() -> Any:
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=swin(),
            decoder_layers=2,
            dim_feedforward=16,
            num_attention_heads=2,
            num_queries=5,
            **small_transformer(),
            **labels(NAMES),
        )
    )


def oneformer() -> Any:
    return OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=swin(),
            num_queries=5,
            hidden_dim=32,
            conv_dim=32,
            mask_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=2,
            dim_feedforward=16,
            num_attention_heads=2,
            text_encoder_width=8,
            text_encoder_context_length=16,
            text_encoder_num_layers=1,
            text_encoder_vocab_size=100,
            text_encoder_n_ctx=2,
            query_dec_layers=1,
            task_seq_len=16,
            max_seq_len=16,
            is_training=False,
            **labels(NAMES),
        )
    )


def encoder() -> dict[str, int]:
    return {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8, "image_size": SIDE}


def beit() -> Any:
    return BeitForSemanticSegmentation(
        BeitConfig(
            num_hidden_layers=4,
            out_indices=[1, 2, 3, 4],
            pool_scales=[1, 2],
            use_auxiliary_head=False,
            use_relative_position_bias=True,
            **encoder(),
            **labels(NAMES),
        )
    )


def dpt() -> Any:
    return DPTForSemanticSegmentation(
        DPTConfig(
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            use_auxiliary_head=False,
            **encoder(),
            **labels(NAMES),
        )
    )


def maskformer() -> Any:
    decoder = DetrConfig(
        d_model=16,
        decoder_layers=1,
        encoder_layers=1,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        decoder_ffn_dim=16,
        encoder_ffn_dim=16,
        num_queries=5,
    )
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            backbone_config=swin(),
            decoder_config=decoder,
            fpn_feature_size=32,
            mask_feature_size=32,
            **labels(NAMES),
        )
    )


def eomt() -> Any:
    return EomtForUniversalSegmentation(
        EomtConfig(
            image_size=SIDE,
            patch_size=8,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_blocks=1,
            num_queries=5,
            num_upscale_blocks=1,
            **labels(NAMES),
        )
    )


def mobilevit() -> Any:
    return MobileViTForSemanticSegmentation(
        MobileViTConfig(
            image_size=SIDE,
            hidden_sizes=[16, 16, 16],
            neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 16],
            num_attention_heads=2,
            aspp_out_channels=16,
            atrous_rates=[1, 2, 3],
            output_stride=8,
            **labels(NAMES),
        )
    )


BUILDERS = {"segformer": segformer, "upernet": upernet, "mask2former": mask2former, "oneformer": oneformer}
OTHERS = {"beit": beit, "dpt": dpt, "maskformer": maskformer, "eomt": eomt, "mobilevit": mobilevit}


SEEDS = {
    "segformer": 2,
    "upernet": 3,
    "beit": 3,
    "dpt": 0,
    "mask2former": 1,
    "maskformer": 12,
    "oneformer": 0,
    "eomt": 3,
    "mobilevit": 1,
}
"""Seeds by which a model finds several classes in many pictures, and none hangs on the last digit of a pixel."""


def lively(kind: str, spread: float = 1.5) -> Any:
    """A model whose answer follows the picture: transformers' own first weights, near zero, give one class to all.

    ``spread``: standard deviation of the weights, times what keeps a layer's values as large as they come.
    """
    torch.manual_seed(SEEDS[kind])
    model = (BUILDERS | OTHERS)[kind]()
    tables = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tables:
                parameter.normal_(0, 3.0)  # queries that differ, so that each looks for something else
            elif parameter.ndim > 1:
                parameter.normal_(0, (6.0 if "class" in name else spread) / parameter[0].numel() ** 0.5)
            elif name.endswith("weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model


def words(folder: Path) -> Any:
    """The tokenizer by which OneFormer is told its task."""
    signs = ["<|startoftext|>", "<|endoftext|>", *(chr(number) for number in range(97, 123))]
    signs += [f"{sign}</w>" for sign in signs[2:]]
    tokenizer = CLIPTokenizer(vocab={sign: number for number, sign in enumerate(signs)}, merges=[])
    tokenizer.save_pretrained(folder)
    return tokenizer


def save(model: Any, folder: Path, **processor: Any) -> Path:
    """The model with an image processor of ``SIDE`` pixels, changed as told."""
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    said = {
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
        "resample": 2,
    } | processor
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    if model.config.model_type == "oneformer":
        words(folder)
    return folder


def build(kind: str, folder: Path, *, seed: int = 0, **processor: Any) -> Path:
    """A folder of one of `BUILDERS`; equal seeds give equal weights."""
    torch.manual_seed(seed)
    return save(BUILDERS[kind](), folder, **processor)
