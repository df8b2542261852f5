"""torch.compile for the encoders and the language model's layers, kept only where it gives what it should.

Blocks are compiled one by one, because those of one shape share the work. SAM2's are compiled for full batches and
nothing else, the vision tower's for any number of tiles, the language model's layers for any number of drafts of any
length; whatever they were not compiled for runs as it is written, so nothing is ever compiled while scans wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.decoder import LeanLayer, read, signed
from watcherd.inference.segmenters.sa2va.grounding import ENCODE_AT_ONCE
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from watcherd.inference.base import Mark
    from watcherd.inference.segmenters.sa2va.decoder import Layer, Rotation
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Relative difference up to which a compiled encoder counts as the same: rounding at the run dtype, over all layers."""


@torch.inference_mode()
def compile_encoders(
    network: Sa2vaNetwork, mark: Mark, layers: Sequence[Layer] = (), **options: Any
) -> tuple[str, ...]:
    """Compile the vision tower, if it sees tiles, SAM2's encoder, and the language model's ``layers``, each checked
    against itself on noise.

    ``options`` go to torch.compile. Returns the names of the parts that stay compiled; the others run as before.
    """
    _allow_variants()
    vision, sam2 = network.vision, network.sam2.vision_encoder
    kept = []
    if network.built_on.sees == "tiles":
        mark("compiling the vision tower", None)
        # The second number of tiles makes torch compile for any.
        if _same(vision, vision.encoder.layer, [noise(vision, tiles, TILE) for tiles in (2, 3)], options):
            kept.append("vision")
    mark("compiling SAM2's encoder", None)
    full = [noise(sam2, ENCODE_AT_ONCE, GROUNDING_SIDE)]
    if _same(sam2, sam2.backbone.blocks, full, {"dynamic": False, **options}):
        kept.append("sam2")
    mark("compiling the language model", None)
    if _same_layers(network, [layer for layer in layers if isinstance(layer, LeanLayer)], options):
        kept.append("language")
    torch.compiler.set_stance("eager_on_recompile")
    return tuple(kept)


def _same(encoder: nn.Module, blocks: Iterable[nn.Module], inputs: list[torch.Tensor], options: dict[str, Any]) -> bool:
    """Compile ``blocks``; keep that if ``encoder`` gives the same for ``inputs``, and undo it otherwise."""
    blocks = list(blocks)
    expected = [_output(encoder, one) for one in inputs]
    for block in blocks:
        block.compile(**options)
    actual = [_output(encoder, one) for one in inputs]
    errors = [float((a - e).norm() / e.norm()) for a, e in zip(actual, expected, strict=True)]
    if max(errors) <= TOLERANCE[inputs[0].dtype]:
        return True
    for block in blocks:
        block._compiled_call_impl = None
    return False


def _same_layers(network: Sa2vaNetwork, layers: Sequence[LeanLayer], options: dict[str, Any]) -> bool:
    """Compile once what every layer does; keep that if the first layer of each device gives the same with it."""
    compiled = torch.compile(read, fullgraph=True, **options)
    for first in {layer.device: layer for layer in reversed(layers)}.values():
        # A second number makes torch compile for any; one draft alone is a case of its own.
        for shape in ((2, 281), (3, 300), (1, 281), (1, 300)):
            inputs = _states(network, first, *shape)
            expected, actual = first.run(read, *inputs).float(), first.run(compiled, *inputs).float()
            if float((actual - expected).norm() / expected.norm()) > TOLERANCE[inputs[0].dtype]:
                return False
    for layer in layers:
        layer.read = compiled
    return bool(layers)


def _states(network: Sa2vaNetwork, layer: LeanLayer, turns: int, tokens: int) -> tuple[torch.Tensor, Rotation]:
    """Random states as a layer takes them, and what turns its heads."""
    model = network.language.model
    dtype = model.embed_tokens.weight.dtype
    drawn = torch.randn(turns, tokens, model.config.hidden_size, generator=torch.Generator().manual_seed(turns))
    states = drawn.to(layer.device, dtype)
    positions = torch.arange(tokens, device=device_of(model.embed_tokens))[None]
    cosines, sines = signed(model.rotary_emb(torch.empty(0, dtype=dtype, device=positions.device), positions))
    return states, (cosines.to(layer.device), sines.to(layer.device))


def noise(encoder: nn.Module, count: int, side: int) -> torch.Tensor:
    """Random pictures (count, 3, side, side) as ``encoder`` takes them; the same ones every time."""
    pictures = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))
    return pictures.to(device_of(encoder), next(encoder.parameters()).dtype)


def _output(encoder: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    return encoder(pixel_values=pictures).last_hidden_state.float()  # type: ignore[no-any-return]


def _allow_variants() -> None:
    """SAM2's blocks are one class in a dozen shapes; torch gives up after eight unless it is told."""
    import torch._dynamo as dynamo

    settings: Any = dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 64)
