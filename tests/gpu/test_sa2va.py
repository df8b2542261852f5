"""The recorded references on a real GPU, whole and truly split between the CPU and the GPU."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from tests.sa2va_folder import write_model
from tests.sa2va_golden import FORCED, Tolerance, arrays, check_image, check_run, check_size, frames_of, loaded

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.inference.segmenters.sa2va.engine import Found
    from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

FLOAT32 = Tolerance(vectors=1e-3, logits=1e-2, probability=5e-3, pixels=1e-3)
"""Other kernels add in another order; TF32 would be a hundred times further off."""

SPLITS = {
    "the language model between its layers": {
        "": "cuda:0",
        "language.model.layers.1": "cpu",
        "language.model.norm": "cpu",
    },
    "SAM2 on the GPU, all else on the CPU": {"": "cpu", "sam2": "cuda:0"},
    "the vision tower on the CPU": {"": "cuda:0", "vision": "cpu", "language.lm_head": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def picture(segmenter: Sa2vaSegmenter) -> Found:
    """What ``segmenter`` finds in the recorded 512 x 512 picture."""
    return segmenter.engine.segment(frames_of(arrays("image"), "image"))[0]


def test_the_references_on_one_gpu_in_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture, three sizes in one batch, and a run with memory."""
    segmenter = loaded(folder, {"": "cuda:0"})
    check_image(picture(segmenter), FLOAT32)
    frames = frames_of(arrays("sizes"), "image_0", "image_1", "image_2")
    for number, found in enumerate(segmenter.engine.segment(frames)):
        check_size(number, found, FLOAT32)
    check_run(segmenter, "run", FLOAT32, monkeypatch)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_a_model_that_is_split_between_cpu_and_gpu_gives_the_same(folder: Path, split: dict[str, str]) -> None:
    """Every hand-over works between real devices."""
    check_image(picture(loaded(folder, split)), FLOAT32)


@pytest.mark.parametrize("decode", ["forced", "verify"])
def test_a_batch_is_launched_without_waiting_for_the_card(folder: Path, decode: str) -> None:
    """torch raises for whatever makes the host wait; frames of two sizes, with drafts that are checked too."""
    segmenter = loaded(folder, {"": "cuda:0"}, "bfloat16")
    options = replace(FORCED, decode=decode)
    frames = [replace(frame, options=options) for frame in frames_of(arrays("sizes"), "image_0", "image_1")]
    first = segmenter.predict(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        pending = segmenter.dispatch(frames)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(first, pending.result(), strict=True):
        assert (one.answer, one.decode) == (other.answer, other.decode)
        assert (one.probability is None) == (other.probability is None)


def test_a_draft_that_does_not_hold_gives_what_generation_gives(folder: Path) -> None:
    """Beside forced ones, in one batch; twice at once, as a replica launches them."""
    segmenter = loaded(folder, {"": "cuda:0"})
    forced = frames_of(arrays("sizes"), "image_0", "image_0")
    checked = replace(forced[0], options=replace(FORCED, decode="verify"))
    asked = segmenter.predict([replace(forced[0], options=replace(FORCED, decode="generate"))])[0]
    launched = [segmenter.dispatch([forced[0], checked]) for _ in range(2)]
    for pending in launched:
        _, found = pending.result()
        assert (asked.answer, "generated") == (found.answer, found.decode)
        assert (asked.probability is None) == (found.probability is None)
        if asked.probability is not None:
            assert abs(asked.probability - found.probability).max() < 5e-3


def test_bfloat16_keeps_the_mask(folder: Path) -> None:
    """Rounding to 8 bits in all layers, of random weights, moves few of the mask's pixels."""
    found = picture(loaded(folder, {"": "cuda:0"}, "bfloat16"))
    check_image(found, Tolerance(vectors=5e-2, logits=0.2, probability=0.2, pixels=0.03))
