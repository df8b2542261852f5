"""The recorded outputs of the reference code, on the CPU in float32.

Slow: SAM2's encoder at full size takes about twenty seconds a picture on one core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sa2va_folder import write_model
from tests.sa2va_golden import Tolerance, arrays, assert_near, check_image, check_run, check_size, frames_of, loaded

if TYPE_CHECKING:
    from watcherd.inference.segmenters.sa2va.engine import Found
    from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

pytestmark = [pytest.mark.heavy, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Sa2vaSegmenter:
    """One loaded model for all references, from a folder in three shards."""
    return loaded(write_model(tmp_path_factory.mktemp("model") / "Sa2VA", shards=3))


@pytest.fixture(scope="module")
def batch(segmenter: Sa2vaSegmenter) -> list[Found]:
    """Pictures of 1, 13 and 10 tiles, padded into one pass of the language model and through SAM2 together."""
    pictures = [*frames_of(arrays("image"), "image"), *frames_of(arrays("sizes"), "image_1", "image_2")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter.engine, "_pass_tokens", 10**9)
        return segmenter.engine.segment(pictures)


def test_one_picture(batch: list[Found]) -> None:
    """512 x 512, one tile: answer, vector, logits, probabilities and mask, though the object score is negative."""
    check_image(batch[0], Tolerance())


@pytest.mark.parametrize("number", [1, 2])
def test_other_sizes_in_the_same_batch_equal_the_reference_one_by_one(batch: list[Found], number: int) -> None:
    """Vector, logits and mask."""
    check_size(number, batch[number], Tolerance())


def test_each_size_alone_says_the_same(segmenter: Sa2vaSegmenter) -> None:
    """The language model's part of three sizes, each in a pass of its own."""
    recorded = arrays("sizes")
    for number, frame in enumerate(frames_of(recorded, "image_0", "image_1", "image_2")):
        reply = segmenter.engine.ask([frame])[0]
        assert_near(recorded[f"seg_embedding_{number}"], reply.vectors, 1e-4)


def test_a_run_with_memory(segmenter: Sa2vaSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven frames, two of them tracked."""
    check_run(segmenter, "run", Tolerance(), monkeypatch)
