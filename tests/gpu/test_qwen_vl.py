"""Sa2VA on a Qwen-VL on real GPUs: the references' numbers, and the 4B size whole and split over two cards.

Weights are made on the card; all of it takes less than two minutes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import gpu_qwen_vl
from benchmarks.gpu_sa2va import maps, pictures
from tests import qwen_vl_tiny as tiny
from watcherd.inference.segmenters.sa2va.language import Language, Turn
from watcherd.inference.segmenters.sa2va.qwen_vl import layout_for

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

NEAR = 1e-3
"""Other kernels add in another order."""

HALVES = {
    "": "cuda:0",
    **{f"language.model.layers.{layer}": "cuda:1" for layer in range(18, 36)},
    "language.model.norm": "cuda:1",
    "language.lm_head": "cuda:1",
    "text_hidden_fcs": "cuda:1",
    "sam2": "cuda:1",
}


@pytest.mark.parametrize("base", tiny.FAMILIES)
@torch.inference_mode()
def test_the_references_on_a_gpu_in_float32(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32, too: by themselves they are computed in TensorFloat-32, and 0.0017 away."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network = tiny.recorded_network(base).to("cuda:0")
    arrays = tiny.recorded(base)
    tower = network.vision
    seen = tower(tiny.recorded_patches(base, 0).cuda(), **layout_for(tower, [tiny.GRIDS[0]]).on(torch.device("cuda:0")))
    turn = Turn(
        prompt=tiny.prompt_of(arrays["input_ids_0"][0].tolist(), [tiny.GRIDS[0]]),
        visual=seen.pooler_output,
        deep=tuple(getattr(seen, "deepstack_features", ())),
    )
    language = Language(network.language, seg=-1, ends=lambda _: False, normed=network.built_on.normed)
    rows = language._prefill([turn], [()])[0]
    logits = network.language.lm_head(network.language.model.norm(rows)).cpu().numpy()
    assert float(np.abs(arrays["logits_0"] - logits).max()) < NEAR
    assert float(np.abs(arrays["last_hidden_state_0"] - language._states(rows).cpu().numpy()).max()) < NEAR


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
@torch.inference_mode()
def test_the_4b_size_split_over_two_cards_is_bit_for_bit_the_whole_one() -> None:
    """The second half of the language model, its head and SAM2 on the other card; in batches and one by one."""
    whole = gpu_qwen_vl.build("cuda:0")
    frames = pictures(4)
    expected = [maps(gpu_qwen_vl.engine_of(whole), part) for part in (frames, frames[:1])]
    split = gpu_qwen_vl.engine_of(gpu_qwen_vl.moved(whole, HALVES))
    for part, before in zip((frames, frames[:1]), expected, strict=True):
        for one, other in zip(before, maps(split, part), strict=True):
            assert np.array_equal(one, other)


@torch.inference_mode()
def test_the_4b_size_gives_in_a_batch_the_masks_that_it_gives_alone() -> None:
    """In bfloat16, where a batch adds in another order."""
    engine = gpu_qwen_vl.engine_of(gpu_qwen_vl.build("cuda:0"))
    frames = pictures(3)
    for one, together in zip(frames, maps(engine, frames), strict=True):
        (alone,) = maps(engine, [one])
        assert float(((alone > 0.5) != (together > 0.5)).mean()) < 0.03
