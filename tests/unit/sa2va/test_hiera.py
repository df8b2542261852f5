"""SAM2's trunk in the order of its windows gives what transformers' own gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.models.sam2.modeling_sam2 import (
    Sam2HieraDetModel,
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
    Sam2VisionModel,
)

from tests.sa2va_tiny import tiny_network
from watcherd.inference.segmenters.sa2va.grounding import Neck
from watcherd.inference.segmenters.sa2va.hiera import pooled, unwindowed, windowed


def undone(encoder: Any) -> Any:
    """The encoder as transformers has it."""
    encoder.__class__, encoder.backbone.__class__ = Sam2VisionModel, Sam2HieraDetModel
    for block in encoder.backbone.blocks:
        block.__class__ = Sam2MultiScaleBlock
        block.attn.__class__ = Sam2MultiScaleAttention
    return encoder


@pytest.mark.parametrize("count", [1, 2])
def test_features_are_those_of_the_encoder_as_it_comes(count: int) -> None:
    """All three maps, the finer ones with the decoder's own product on top, which is folded into the neck's."""
    torch.set_num_threads(1)
    sam2 = tiny_network(seed=6).sam2
    pictures = torch.randn(count, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for parameter in (*sam2.vision_encoder.neck.parameters(), *sam2.mask_decoder.parameters()):
            parameter.normal_(std=0.2)
        found = Neck(sam2)(sam2.vision_encoder(pictures))
        fine, middle, coarse = undone(sam2.vision_encoder)(pictures).fpn_hidden_states
        decoder = sam2.mask_decoder
        for actual, expected in (
            (found.fine, decoder.conv_s0(fine)),
            (found.middle, decoder.conv_s1(middle)),
            (found.coarse, coarse),
        ):
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_windows_come_back_as_they_went() -> None:
    tokens = torch.randn(2, 12, 12, 5)
    for side in (1, 2, 3, 4, 6, 12):
        torch.testing.assert_close(unwindowed(windowed(tokens, side)), tokens, atol=0, rtol=0)


def test_pooling_within_windows_is_pooling_of_the_map() -> None:
    tokens = torch.randn(2, 12, 12, 5)
    expected = functional.max_pool2d(tokens.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    windows = windowed(tokens, 4)
    small = pooled(windows.flatten(0, 1)).view(2, 9, 4, 5)
    torch.testing.assert_close(unwindowed(small), expected, atol=0, rtol=0)
