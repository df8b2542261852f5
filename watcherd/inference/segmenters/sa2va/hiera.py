"""SAM2's windowed attention, without the extra product.

transformers 5 computes each token's heads against each other, takes their softmax and then never reads it: some six
per cent of the encoder's time on a CPU, more memory traffic than that. The parameters and the result are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention

if TYPE_CHECKING:
    import torch


class LeanAttention(Sam2MultiScaleAttention):
    """Attention within windows (windows, height, width, channels), its queries pooled where a stage begins."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        windows, height, width, _channels = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(windows, height * width, 3, self.num_attention_heads, -1)
        query, key, value = qkv.unbind(2)
        if self.query_stride:
            query, height, width = self._pool(query, height, width, self.query_stride)
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scale=self.scale
        )
        return self.proj(attended.transpose(1, 2).reshape(windows, height, width, -1))  # type: ignore[no-any-return]

    def _pool(
        self, query: torch.Tensor, height: int, width: int, stride: tuple[int, int]
    ) -> tuple[torch.Tensor, int, int]:
        windows, _, heads, _ = query.shape
        image = query.reshape(windows, height, width, -1).permute(0, 3, 1, 2)
        pooled = functional.max_pool2d(image, kernel_size=stride, stride=stride)
        height, width = pooled.shape[2:]
        return pooled.permute(0, 2, 3, 1).reshape(windows, height * width, heads, -1), height, width


def lean(backbone: Any) -> None:
    """Give every block of a Hiera ``backbone`` that was just built, and not filled yet, the lean attention."""
    for block in backbone.blocks:
        old = block.attn
        block.attn = LeanAttention(old.config, old.dim, old.dim_out, old.num_attention_heads, old.query_stride)
