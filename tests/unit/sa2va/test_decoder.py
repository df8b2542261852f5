"""The language model's layers give what transformers' own give."""

from __future__ import annotations

import pytest
import torch

from tests.sa2va_tiny import tiny_network
from watcherd.inference.segmenters.sa2va.decoder import LeanLayer, layers_of, read, signed


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_layers_in_fewer_steps_give_what_transformers_give(family: str) -> None:
    """With biases and norms of any values. Those modules work as before: their weights are parts of ours."""
    torch.set_num_threads(1)
    network = tiny_network(seed=1, family=family, head_dim=8)
    with torch.inference_mode():
        for name, parameter in network.language.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.normal_(mean=0.5)
        model = network.language.model
        hidden = torch.randn(2, 9, 32)
        rotation = model.rotary_emb(hidden, torch.arange(9)[None])

        def original() -> torch.Tensor:
            states = hidden
            for layer in model.layers:
                states = layer(
                    states, attention_mask=None, position_embeddings=rotation, past_key_values=None, use_cache=False
                )
            return states

        expected = original()
        actual = hidden
        for layer in layers_of(model):
            assert isinstance(layer, LeanLayer)
            actual = layer(actual, signed(rotation), None, None)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(original(), expected, atol=0, rtol=0)


def test_a_layer_is_compiled_in_one_piece_for_drafts_of_any_number_and_length() -> None:
    """A break in it would leave most of its steps as they are, and nobody would see."""
    torch.set_num_threads(1)
    layer = layers_of(tiny_network(seed=1, head_dim=8).language.model)[0]
    assert isinstance(layer, LeanLayer)
    pieces: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        pieces.append(graph)
        return graph

    compiled = torch.compile(read, fullgraph=True, backend=backend)
    with torch.inference_mode():
        for turns, tokens in ((2, 21), (3, 30), (7, 25)):
            inputs = torch.randn(turns, tokens, 32), (torch.ones(1, tokens, 8), torch.zeros(1, tokens, 8))
            torch.testing.assert_close(layer.run(compiled, *inputs), layer.run(read, *inputs))
    assert len(pieces) == 2, "of one size, then of any"
