"""torch.compile for the encoders of fixed shape, kept only where it gives what it should.

Blocks are compiled one by one, because those of one shape share the work; the first change of the batch's size compiles
each once more, for any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from watcherd.inference.base import Mark
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Relative difference up to which a compiled encoder counts as the same: rounding at the run dtype, over all layers."""


@torch.inference_mode()
def compile_encoders(network: Sa2vaNetwork, mark: Mark, **options: Any) -> tuple[str, ...]:
    """Compile the vision tower and SAM2's encoder, each checked against itself on noise; ``options`` go to torch.compile.

    Returns the names of the parts that stay compiled; the others run as before.
    """
    kept = []
    parts: dict[str, tuple[nn.Module, Sequence[nn.Module], int, Callable[[Any], torch.Tensor]]] = {
        "vision": (network.vision, network.vision.encoder.layer, TILE, lambda out: out.last_hidden_state),
        "sam2": (
            network.sam2.vision_encoder,
            network.sam2.vision_encoder.backbone.blocks,
            GROUNDING_SIDE,
            lambda out: out.fpn_hidden_states[-1],
        ),
    }
    for name, (encoder, blocks, side, read) in parts.items():
        mark(f"compiling {name}", None)
        if _same(encoder, blocks, side, read, options):
            kept.append(name)
        else:
            undo(blocks)
    return tuple(kept)


def _same(
    encoder: nn.Module,
    blocks: Sequence[nn.Module],
    side: int,
    read: Callable[[Any], torch.Tensor],
    options: dict[str, Any],
) -> bool:
    """Compile ``blocks``; whether ``encoder`` then gives the same for two and for three pictures."""
    device, dtype = device_of(encoder), next(encoder.parameters()).dtype
    noise = [torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count)) for count in (2, 3)]
    inputs = [one.to(device, dtype) for one in noise]
    expected = [read(encoder(pixel_values=one)).float() for one in inputs]
    _allow_variants()
    for block in blocks:
        block.compile(**options)
    actual = [read(encoder(pixel_values=one)).float() for one in inputs]
    errors = [float((a - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True)]
    return max(errors) <= TOLERANCE[dtype]


def undo(blocks: Sequence[nn.Module]) -> None:
    """Let compiled modules run as they are written."""
    for block in blocks:
        block._compiled_call_impl = None


def _allow_variants() -> None:
    """SAM2's blocks are one class in a dozen shapes; torch gives up after eight unless it is told."""
    import torch._dynamo as dynamo

    name = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo.config, name, max(getattr(dynamo.config, name), 64))
