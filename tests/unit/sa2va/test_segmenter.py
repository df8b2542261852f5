"""What watcherd sees: predictions for frames and runs, each with its answer and how it came about."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.sa2va_folder import DATA
from tests.sa2va_tiny import tiny_engine
from tests.unit.inference.fakes import answers
from watcherd.config import Sa2va
from watcherd.errors import InputError, UnavailableError
from watcherd.inference.base import Frame, Prediction
from watcherd.inference.messages import WorkItem
from watcherd.inference.segmenters.sa2va import compiled, decoder, video
from watcherd.inference.segmenters.sa2va.segmenter import FLIPS, Sa2vaSegmenter, average, mirrored, unmirror
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watcherd.inference.segmenters.sa2va.engine import Engine

FORCED = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG].", decode="forced")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.set_num_threads(1)
    return tiny_engine()


@pytest.fixture
def segmenter(engine: Engine) -> Sa2vaSegmenter:
    model: Any = SimpleNamespace(path=DATA / "layer-norm", sa2va=Sa2va(max_new_tokens=8), compile=False)
    segmenter = Sa2vaSegmenter(model)
    segmenter._engine = engine
    return segmenter


def frame(height: int, width: int, options: Options = FORCED) -> Frame:
    return Frame(pixels=RNG.integers(0, 256, (height, width), dtype=np.uint8), options=options)


def test_a_forced_draft_gives_a_map_of_the_frames_own_size_and_says_so(segmenter: Sa2vaSegmenter) -> None:
    prediction = segmenter.predict([frame(60, 90)])[0]
    assert prediction.probability is not None
    assert (60, 90) == prediction.probability.shape
    assert np.float32 == prediction.probability.dtype
    assert ("Sure, [SEG].<|im_end|>", "forced") == (prediction.answer, prediction.decode)


def test_a_wrong_draft_falls_back_to_what_the_model_says_for_that_frame_alone(segmenter: Sa2vaSegmenter) -> None:
    """Beside a frame whose draft is forced, one is checked, refused, and generated as if that had been asked for."""
    checked = frame(60, 60, replace(FORCED, decode="verify"))
    forced, fallen = segmenter.predict([frame(60, 60), checked])
    asked = segmenter.predict([Frame(pixels=checked.pixels, options=replace(FORCED, decode="generate"))])[0]
    assert ("forced", "generated") == (forced.decode, fallen.decode)
    assert asked.answer == fallen.answer
    assert "Sure, [SEG].<|im_end|>" != fallen.answer


def test_an_answer_without_seg_has_no_mask_and_keeps_its_words(segmenter: Sa2vaSegmenter) -> None:
    without, with_mask = segmenter.predict([frame(60, 60, replace(FORCED, draft="Nothing there.")), frame(60, 60)])
    assert without.probability is None
    assert "Nothing there.<|im_end|>" == without.answer
    assert with_mask.probability is not None


def test_several_seg_give_several_maps_with_names(segmenter: Sa2vaSegmenter) -> None:
    draft = "<p> left artery </p> [SEG] and [SEG]."
    prediction = segmenter.predict([frame(60, 90, replace(FORCED, draft=draft))])[0]
    assert prediction.probability is not None
    assert (2, 60, 90) == prediction.probability.shape
    assert ("left artery", "object 2") == prediction.labels


def test_nothing_to_force_is_an_error(segmenter: Sa2vaSegmenter) -> None:
    with pytest.raises(InputError, match="no draft to force"):
        segmenter.predict([frame(60, 60, replace(FORCED, draft=""))])


def test_a_batch_gives_what_each_frame_gives_alone(segmenter: Sa2vaSegmenter) -> None:
    """Grey and colour, of other sizes and numbers of tiles."""
    frames = [frame(64, 64), frame(64, 200), Frame(pixels=RNG.integers(0, 256, (90, 70, 3), np.uint8), options=FORCED)]
    for alone, together in zip([segmenter.predict([one])[0] for one in frames], segmenter.predict(frames), strict=True):
        assert alone.answer == together.answer
        np.testing.assert_allclose(together.probability, alone.probability, atol=1e-4)


def test_frames_share_batches_by_how_many_tiles_they_have(segmenter: Sa2vaSegmenter) -> None:
    keys = [
        segmenter.batch_key(frame(*size)) for size in ((512, 512), (300, 300), (400, 640), (480, 640), (1024, 1024))
    ]
    assert ["small", "small", "medium", "large", "large"] == keys


def test_the_encoder_sees_each_picture_once_however_many_seg_there_are(
    segmenter: Sa2vaSegmenter, engine: Engine
) -> None:
    seen: list[int] = []
    hook = engine.network.sam2.vision_encoder.register_forward_hook(
        lambda _module, inputs, _output: seen.append(len(inputs[0]))
    )
    segmenter.predict([frame(60, 60, replace(FORCED, draft="[SEG] [SEG] [SEG].")), frame(60, 60)])
    hook.remove()
    assert [2] == seen


class Sloping:
    """An engine whose maps follow the picture and rise from left to right, so that mirrored views differ."""

    def launch(self, frames: list[Frame]) -> Any:
        found = [SimpleNamespace(reply=self.reply, pixels=one.pixels) for one in frames]
        return SimpleNamespace(found=found, done=lambda: True, settle=dict)

    reply = SimpleNamespace(text="yes", decode="verified", labels=("object 1",))

    def maps(self, found: list[Any], sizes: list[tuple[int, int]]) -> list[Any]:
        return [self.slope(each.pixels, *size) for each, size in zip(found, sizes, strict=True)]

    @staticmethod
    def slope(pixels: Any, height: int, width: int) -> Any:
        return torch.from_numpy((pixels / 510 + np.linspace(0, 0.5, width)[None]).astype(np.float32))[None]


def test_test_time_augmentation_averages_the_mirrored_views(segmenter: Sa2vaSegmenter) -> None:
    """The slope cancels out; only frames that ask for it are seen more than once."""
    segmenter._engine = Sloping()  # type: ignore[assignment]
    one = frame(60, 90)
    averaged, plain = segmenter.predict([Frame(pixels=one.pixels, options=replace(FORCED, tta=True)), one])
    np.testing.assert_allclose(averaged.probability, one.pixels / 510 + 0.25, atol=1e-6)
    np.testing.assert_allclose(plain.probability, Sloping.slope(one.pixels, 60, 90)[0])
    assert averaged.note == "averaged over 4 of 4 views"
    assert plain.note is None


def test_views_that_found_something_else_are_left_out_and_counted() -> None:
    one, other = np.full((2, 2), 0.2, np.float32), np.full((2, 2), 0.6, np.float32)
    first = Prediction(probability=one, answer="a", decode="verified")
    others = [
        Prediction(probability=other),
        Prediction(probability=None),
        Prediction(probability=np.stack([one, other])),
    ]
    averaged = average(first, others)
    np.testing.assert_allclose(averaged.probability, np.full((2, 2), 0.4), atol=1e-6)
    assert "averaged over 2 of 4 views" == averaged.note
    without = Prediction(probability=None, answer="no")
    assert without is average(without, others)


def test_mirroring_is_undone_on_one_map_and_on_several() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for axes in FLIPS:
        there = mirrored(Frame(pixels=pixels, options=FORCED), axes).pixels.astype(np.float32)
        assert np.array_equal(pixels, unmirror(there, axes))
        assert np.array_equal(np.stack([pixels, pixels]), unmirror(np.stack([there, there]), axes))


def test_a_run_is_read_a_window_at_a_time_and_its_memory_stays_the_same(
    segmenter: Sa2vaSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nine frames at most a window is held, and what a tracker keeps stops growing."""
    monkeypatch.setattr(video, "CONDITIONING", 2)
    monkeypatch.setattr(video, "WINDOW", 2)
    monkeypatch.setattr(video, "TRACKED_MAPS", 3)
    monkeypatch.setattr(video, "TRACKED_POINTERS", 4)
    kept: list[tuple[int, int]] = []
    remember = video.Tracker._remember

    def counted(tracker: Any, coarse: Any) -> Any:
        kept.append((len(tracker._prompted) + len(tracker._tracked), len(tracker._pointer_tokens()) // 4))
        return remember(tracker, coarse)

    monkeypatch.setattr(video.Tracker, "_remember", counted)
    # Attention over the memory takes seconds on a CPU, and this is about what it is given.
    sam2 = segmenter.engine.network.sam2
    monkeypatch.setattr(sam2.memory_attention, "forward", lambda current_vision_features, **_: current_vision_features)
    given = 0

    def frames() -> Iterator[Frame]:
        nonlocal given
        for _ in range(9):
            given += 1
            yield frame(40, 40)

    for number, prediction in enumerate(segmenter.predict_run(frames())):
        assert prediction.probability is not None
        assert given <= number + 2
    assert [(2, 2), (3, 3), (4, 4), (5, 5), (5, 6), (5, 6), (5, 6)] == kept


def test_single_files_of_a_run_get_the_masks_of_one_scan_bit_for_bit(
    segmenter: Sa2vaSegmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One frame prompted, two tracked with memory: as three files, and as one scan of three frames."""
    monkeypatch.setattr(video, "CONDITIONING", 1)
    monkeypatch.setattr(video, "WINDOW", 1)

    def glance(current_vision_features: torch.Tensor, memory: torch.Tensor, **_: Any) -> torch.Tensor:
        """All that is remembered, without attention over it, which takes seconds on a CPU."""
        return current_vision_features + memory.mean(0).repeat(1, 4)

    monkeypatch.setattr(segmenter.engine.network.sam2.memory_attention, "forward", glance)
    pixels = RNG.integers(0, 256, (3, 40, 56), dtype=np.uint8)

    def item(job: int, frames: Any, run: str) -> WorkItem:
        np.save(tmp_path / f"{job}.npy", frames)
        options = replace(FORCED, outputs=("mask", "probability"))
        names = {"decoded": tmp_path / f"{job}.npy", "target": tmp_path / str(job)}
        return WorkItem(job_id=job, frames=len(frames), options=options, run=run, **names)

    items = [*(item(number, pixels[number : number + 1], "a_#.png") for number in range(3)), item(9, pixels, "")]
    assert [True] * 3 + [False] == [getattr(answer, "followed", None) for answer in answers(segmenter, items)]
    for kind in ("mask", "probability"):
        singles = np.concatenate([np.load(tmp_path / f"{number}-{kind}.npy") for number in range(3)])
        assert np.array_equal(np.load(tmp_path / f"9-{kind}.npy"), singles)


def test_a_run_without_seg_has_no_masks_and_one_answer(segmenter: Sa2vaSegmenter) -> None:
    options = replace(FORCED, draft="No vessel.")
    predictions = list(segmenter.predict_run(frame(40, 40, options) for _ in range(7)))
    assert [None] * 7 == [prediction.probability for prediction in predictions]
    assert {"No vessel.<|im_end|>"} == {prediction.answer for prediction in predictions}
    assert [] == list(segmenter.predict_run(iter(())))


def test_nothing_is_predicted_before_the_model_is_loaded() -> None:
    model: Any = SimpleNamespace(path=DATA / "layer-norm", sa2va=Sa2va(max_new_tokens=8), compile=False)
    with pytest.raises(UnavailableError, match="not loaded"):
        Sa2vaSegmenter(model).predict([frame(8, 8)])


def test_what_is_compiled_is_kept_only_if_it_gives_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a compiler that changes nothing all parts stay; when the tolerance is impossible none does."""
    monkeypatch.setattr(compiled, "ENCODE_AT_ONCE", 1)
    monkeypatch.setattr(compiled, "GROUNDING_SIDE", 256)
    blocks = engine.network.sam2.vision_encoder.backbone.blocks
    monkeypatch.setattr(torch.compiler, "set_stance", lambda _stance: None)
    layers = engine.language.layers
    kept = compiled.compile_encoders(engine.network, lambda *_: None, layers, backend="eager")
    assert ("vision", "sam2", "language") == kept
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert all(layer.read is not decoder.read for layer in layers)
    for layer in layers:
        layer.read = decoder.read
    monkeypatch.setattr(compiled, "TOLERANCE", {torch.float32: -1.0})
    assert () == compiled.compile_encoders(engine.network, lambda *_: None, layers, backend="eager")
    assert all(block._compiled_call_impl is None for block in blocks)
    assert all(layer.read is decoder.read for layer in layers)
    for layer in engine.network.vision.encoder.layer:
        assert layer._compiled_call_impl is None
