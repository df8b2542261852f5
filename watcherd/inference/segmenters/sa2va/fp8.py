"""The language model's MLPs at eight bits, on request: products of e4m3 values with a scale for each row.

They are two thirds of its weights and of its time. All its other products stay as they are: rounded too, they have been
seen to give another mask. The embedding table, of which a prompt reads a few rows, then stays in host memory, so that
eight billion parameters fit a card of 12 GB. A start compares the model with itself at sixteen bits, block by block,
for both would not fit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from watcherd.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from watcherd.inference.base import Placement
    from watcherd.inference.segmenters.sa2va.families import Family

NAME = "fp8-mlp"
"""The run dtype's name in the configuration."""
VALUES = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number that e4m3 holds."""
CAPABILITY = (8, 9)
"""Compute capability from which on cards multiply such values: Ada and Hopper."""
APART = 0.02
"""Mean distance of the golden image's probabilities up to which they count as the same, as `checks.SAME_ANSWER`."""
EMBEDDING = "language.model.embed_tokens"
ROUNDED = re.compile(r"language\.model\.layers\.\d+\.mlp\.(gate|up|down)_proj\.weight")
"""Names of what is rounded."""


class Rounded(NamedTuple):
    """A weight (out, in) in e4m3, and a scale for each of its rows, float32 (out, 1)."""

    weight: torch.Tensor
    scales: torch.Tensor


def rounded(rows: torch.Tensor) -> Rounded:
    """Rows (n, width) as e4m3, each by the scale at which its largest value is the largest there is."""
    scales = rows.abs().amax(-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return Rounded((rows / scales).to(VALUES), scales)


def product(rows: torch.Tensor, weight: Rounded) -> torch.Tensor:
    """(..., in) to (..., out), what is read being rounded row by row, too."""
    values, scales = rounded(rows.flatten(0, -2))
    if rows.is_cuda:
        found = torch._scaled_mm(
            values,
            weight.weight.t(),
            scale_a=scales,
            scale_b=weight.scales.t(),
            out_dtype=rows.dtype,
            use_fast_accum=True,
        )
    else:
        found = (functional.linear(values.float(), weight.weight.float()) * scales * weight.scales.t()).to(rows.dtype)
    return found.view(*rows.shape[:-1], -1)


def put_rounded(module: nn.Module, value: torch.Tensor) -> None:
    """Give a linear layer its ``value`` rounded: ``weight`` and, beside it, ``scales``."""
    weight, scales = rounded(value)
    module._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
    module.register_buffer("scales", scales, persistent=False)


def shrink(module: nn.Module) -> nn.Module:
    """A skeleton of the network with tensors of the sizes that they have on cards: the embedding table of none."""
    for name, parameter in list(module.named_parameters()):
        owner = module.get_submodule(name.rpartition(".")[0])
        if ROUNDED.fullmatch(name):
            sized = torch.empty(parameter.shape, dtype=torch.int8, device="meta")
        elif name == f"{EMBEDDING}.weight":
            sized = torch.empty(0, parameter.shape[1], dtype=parameter.dtype, device="meta")
        else:
            continue
        owner._parameters["weight"] = torch.nn.Parameter(sized, requires_grad=False)
    return module


def with_table_on_host(device_map: Mapping[str, str]) -> dict[str, str]:
    """The map with the embedding table in host memory."""
    return {**device_map, EMBEDDING: "cpu"}


def refuse(placement: Placement, family: Family) -> None:
    """Raise `UnavailableError` where it cannot be run."""
    instead = 'Set model.dtype = "bfloat16".'
    if family.sees != "tiles":
        raise UnavailableError(f'model.dtype = "{NAME}" is for models on InternVL, and this is none.', hint=instead)
    if "cpu" in {*placement.devices, *placement.device_map.values()}:
        raise UnavailableError(f'model.dtype = "{NAME}" needs GPUs for all of the model.', hint=instead)
    for device in placement.devices:
        found = torch.cuda.get_device_capability(device)
        if found < CAPABILITY:
            raise UnavailableError(
                f'model.dtype = "{NAME}" needs products of e4m3, which {torch.cuda.get_device_name(device)} does not '
                f"have: its compute capability is {found[0]}.{found[1]}, and they came with 8.9 (Ada, Hopper).",
                hint=instead,
            )


def judge(whole: torch.Tensor, other: torch.Tensor, states: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Raise `UnavailableError` if masks' logits at eight bits are too far from the ``whole`` ones; ``states`` of the
    ``[SEG]`` token are said with it."""
    distance = float((whole.float().sigmoid() - other.float().sigmoid()).abs().mean())
    if distance <= APART:
        return
    changed = float(((whole > 0) != (other > 0)).float().mean())
    off = float((states[0].float() - states[1].float()).norm() / states[0].float().norm())
    raise UnavailableError(
        f'With model.dtype = "{NAME}" the probabilities of the golden image are {distance:.3f} apart on average from '
        f"those in bfloat16, at most {APART} may be; {100 * changed:.1f} % of its pixels are on the other side of the "
        f"mask's edge, and the state that becomes the mask is {100 * off:.0f} % off.",
        hint='This model does not bear it: set model.dtype = "bfloat16".',
    )
