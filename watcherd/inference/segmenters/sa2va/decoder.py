"""The layers of a Qwen2 or Qwen3 in fewer, larger steps, with the parameters of transformers' modules.

Queries, keys and values are one product; so are the rotations of queries and keys, and a norm is one step. Those
modules stay whole beside that: their weights are parts of the larger ones.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional

from watcherd.inference.segmenters.sa2va.fp8 import Rounded, product
from watcherd.inference.segmenters.sa2va.network import device_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import DynamicCache

LEAN = ("Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Classes of layers whose steps are known here; others run as transformers has them."""

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the positions, (1 or turns, tokens, width of a head)."""
Product = tuple[torch.Tensor, torch.Tensor | None]
"""Weight and bias of a linear layer."""
Wide = Product | Rounded
"""The same of an MLP, which may be rounded to eight bits."""


class Layer(Protocol):
    """One layer, on one device."""

    @property
    def device(self) -> torch.device:
        """Where its inputs must be."""

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, cache: DynamicCache | None
    ) -> torch.Tensor:
        """States (turns, tokens, D) behind it. ``mask`` is True where a key is seen; without one nobody looks ahead."""


def layers_of(model: Any) -> list[Layer]:
    """The layers of a language model, in order."""
    return [LeanLayer(each) if type(each).__name__ in LEAN else PlainLayer(each) for each in model.layers]


class PlainLayer:
    """A layer as transformers runs it."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.device = device_of(layer)

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, cache: DynamicCache | None
    ) -> torch.Tensor:
        return self._layer(  # type: ignore[no-any-return]
            hidden,
            attention_mask=mask,
            position_embeddings=rotation,
            past_key_values=cache,
            use_cache=cache is not None,
        )


class Weights(NamedTuple):
    """Of one layer: weight and bias of each product, and of each norm. ``heads``: Qwen3's norms of queries and keys."""

    before: torch.Tensor
    qkv: Product
    heads: tuple[torch.Tensor, ...]
    out: Product
    behind: torch.Tensor
    gate: Wide
    up: Wide
    down: Wide


class Sizes(NamedTuple):
    """Heads of queries and of keys, the width of one, and what keeps a norm from dividing by nothing."""

    queries: int
    keys: int
    width: int
    eps: float


class LeanLayer:
    """A layer of a Qwen2 or Qwen3 with fewer steps. Its weights are shared with the ``layer`` that it is made of.

    ``read`` is `read` or what torch.compile made of it.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        width = attention.head_dim
        self.device = device_of(layer)
        self.read: Callable[..., torch.Tensor] = read
        self._index: int = attention.layer_idx
        self._sizes = Sizes(
            queries=attention.q_proj.out_features // width,
            keys=attention.k_proj.out_features // width,
            width=width,
            eps=layer.input_layernorm.variance_epsilon,
        )
        self._weights = Weights(
            before=layer.input_layernorm.weight,
            qkv=side_by_side([attention.q_proj, attention.k_proj, attention.v_proj]),
            heads=tuple(getattr(attention, name).weight for name in ("q_norm", "k_norm") if hasattr(attention, name)),
            out=(attention.o_proj.weight, attention.o_proj.bias),
            behind=layer.post_attention_layernorm.weight,
            gate=_wide_of(mlp.gate_proj),
            up=_wide_of(mlp.up_proj),
            down=_wide_of(mlp.down_proj),
        )

    def __call__(
        self, hidden: torch.Tensor, rotation: Rotation, mask: torch.Tensor | None, cache: DynamicCache | None
    ) -> torch.Tensor:
        if mask is None and cache is None:
            return self.run(self.read, hidden, rotation)
        query, key, value = _heads(hidden, *rotation, self._weights, self._sizes)
        if cache is not None:
            key, value = cache.update(key, value, self._index)
        attended = _attended(query, key, value, mask, causal=mask is None and query.shape[2] > 1)
        return _behind(hidden, attended, self._weights, self._sizes)

    def at_full_width(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> LeanLayer:
        """The same layer with these weights of its MLP."""
        other = copy(self)
        other.read = read
        other._weights = self._weights._replace(gate=(gate, None), up=(up, None), down=(down, None))
        return other

    def run(self, way: Callable[..., torch.Tensor], hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """This layer by one ``way`` of `read`."""
        return way(hidden, *rotation, self._weights, self._sizes)


def read(
    hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, weights: Weights, sizes: Sizes
) -> torch.Tensor:
    """A layer over tokens that look at none but those before them, with nothing kept: the way of a batch of drafts."""
    attended = _attended(*_heads(hidden, cosines, sines, weights, sizes), None, causal=True)
    return _behind(hidden, attended, weights, sizes)


def _heads(
    hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, weights: Weights, sizes: Sizes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, (turns, heads, tokens, width)."""
    normed = functional.rms_norm(hidden, hidden.shape[-1:], weights.before, sizes.eps)
    every = functional.linear(normed, *weights.qkv).unflatten(-1, (-1, sizes.width))
    both = [sizes.queries, sizes.keys]
    turning, value = every.split([sum(both), sizes.keys], dim=2)
    if weights.heads:
        parts = zip(turning.split(both, dim=2), weights.heads, strict=True)
        turning = torch.cat([functional.rms_norm(part, (sizes.width,), norm, sizes.eps) for part, norm in parts], dim=2)
    query, key = turned(turning, cosines, sines).split(both, dim=2)
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    """(turns, tokens, heads * width). ``causal``: nobody looks ahead."""
    if mask is not None:
        # With a mask the quick kernels take no keys that heads share.
        times = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    attended = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=mask is None
    )
    return attended.transpose(1, 2).flatten(2)


def _behind(hidden: torch.Tensor, attended: torch.Tensor, weights: Weights, sizes: Sizes) -> torch.Tensor:
    """The rest of a layer, behind its attention."""
    hidden = hidden + functional.linear(attended, *weights.out)
    normed = functional.rms_norm(hidden, hidden.shape[-1:], weights.behind, sizes.eps)
    # Two products, not one: what follows is slow on halves of rows.
    gated = functional.silu(_wide(normed, weights.gate)).mul_(_wide(normed, weights.up))
    return hidden + _wide(gated, weights.down)


def _wide_of(linear: Any) -> Wide:
    return Rounded(linear.weight, linear.scales) if hasattr(linear, "scales") else (linear.weight, linear.bias)


def _wide(rows: torch.Tensor, weight: Wide) -> torch.Tensor:
    return product(rows, weight) if isinstance(weight, Rounded) else functional.linear(rows, *weight)


def turned(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Heads (turns, tokens, heads, width) turned by their positions; the halves of a head are the two axes.

    ``sines`` are those of `signed`: with the sign at these, which are few, swapped halves need none.
    """
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * cosines[:, :, None], swapped, sines[:, :, None])


def signed(rotation: Rotation) -> Rotation:
    """transformers' rotation for `turned`."""
    cosines, sines = rotation
    half = sines.shape[-1] // 2
    return cosines, torch.cat([-sines[..., :half], sines[..., half:]], dim=-1)


def side_by_side(linears: Sequence[Any]) -> Product:
    """Weight and bias of one product that gives what ``linears`` give, one behind the other.

    Theirs become parts of it, so that no memory is taken twice.
    """
    sizes = [linear.out_features for linear in linears]
    weight = torch.cat([linear.weight for linear in linears])
    for linear, part in zip(linears, weight.split(sizes), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    if linears[0].bias is None:
        return weight, None
    bias = torch.cat([linear.bias for linear in linears])
    for linear, part in zip(linears, bias.split(sizes), strict=True):
        linear.bias = nn.Parameter(part, requires_grad=False)
    return weight, bias
