"""A training's checkpoint on a base of eight billion parameters, on real GPUs: it loads, and splits over two of them.

Writes 20 GB of random weights into the temporary folder, in the shapes of a real InternVL3-8B at rank 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.checkpoint_memory import ALLOWED, Peak, rss_anon, write
from tests.sa2va_training import loaded, probability_of
from watcherd.inference.segmenters.sa2va.renames import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter
    from watcherd.inference.segmenters.sa2va.trained import Trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.timeout(1800),
]

LAYERS = 28
SPLIT = {"": "cuda:0", "language.model.norm": "cuda:1", "language.lm_head": "cuda:1"} | {
    f"language.model.layers.{layer}": "cuda:1" for layer in range(LAYERS // 2, LAYERS)
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write(tmp_path_factory.mktemp("model"), filled=True)


@pytest.fixture(scope="module")
def one_card(trained: Trained) -> Iterator[tuple[Sa2vaSegmenter, int, NDArray[np.float32]]]:
    """The model on one card, the anonymous host memory that loading took, and what it gives for the golden picture."""
    torch.zeros(1, device="cuda:0")  # the driver's own memory is there before
    before = rss_anon()
    with Peak() as peak:
        segmenter = loaded(trained, {"": "cuda:0"}, "bfloat16")
    yield segmenter, peak.bytes - before, probability_of(segmenter)
    segmenter.engine.network.to("meta")
    torch.cuda.empty_cache()


def test_a_full_size_checkpoint_loads_onto_one_card(
    trained: Trained, one_card: tuple[Sa2vaSegmenter, int, object]
) -> None:
    """All of it, at the run dtype, with LoRA merged; host memory as promised."""
    segmenter, memory, probability = one_card
    network = segmenter.engine.network
    assert {("cuda:0", torch.bfloat16)} == {(str(each.device), each.dtype) for each in network.parameters()}
    assert 8_182_606_130 == sum(each.numel() for each in network.parameters())
    largest = max(network.language.get_input_embeddings().weight.nbytes, network.language.lm_head.weight.nbytes)
    assert memory <= ALLOWED * trained.path.stat().st_size + largest
    tensors = trained.open(needed(network.state_dict()))
    name = "language_model.model.layers.3.mlp.down_proj.weight"
    assert torch.equal(tensors.read(name).bfloat16(), network.language.model.layers[3].mlp.down_proj.weight.cpu())
    assert probability is not None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_split_over_two_cards_gives_the_mask_of_one(
    trained: Trained, one_card: tuple[Sa2vaSegmenter, int, NDArray[np.float32]]
) -> None:
    split = loaded(trained, SPLIT, "bfloat16")
    devices = {str(each.device) for each in split.engine.network.parameters()}
    assert {"cuda:0", "cuda:1"} == devices
    assert ((one_card[2] > 0.5) == (probability_of(split) > 0.5)).all()
