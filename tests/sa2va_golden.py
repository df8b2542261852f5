"""Comparing a loaded model with the recorded references, as ``tests/data/sa2va/README.md`` describes them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.sa2va_folder import DATA
from watcherd.config import Sa2va
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter
from watcherd.inference.segmenters.sa2va.video import Tracker
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.engine import Found

FORCED = Options(prompt="<image>Please segment the blood vessel.", draft="Sure, [SEG].", decode="forced")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far from the reference: vectors and states, logits, probabilities, and the share of a mask's pixels."""

    vectors: float = 1e-4
    logits: float = 1e-3
    probability: float = 1e-3
    pixels: float = 1e-3


def loaded(folder: Path, device_map: Mapping[str, str] | None = None, dtype: str = "float32") -> Sa2vaSegmenter:
    """The segmenter for ``folder``, on the CPU unless a map says otherwise."""
    model: Any = SimpleNamespace(path=folder, sa2va=Sa2va(max_new_tokens=16), compile=False)
    segmenter = Sa2vaSegmenter(model)
    segmenter.load(Placement(device_map=device_map or {"": "cpu"}, dtype=dtype), lambda *_: None)
    return segmenter


def arrays(name: str) -> Mapping[str, NDArray[Any]]:
    """The recorded arrays ``name``."""
    with np.load(DATA / f"{name}.npz") as recorded:
        return dict(recorded)


def frames_of(recorded: Mapping[str, NDArray[Any]], *keys: str) -> list[Frame]:
    """Frames whose answer is forced, of the arrays called ``keys``."""
    return [Frame(pixels=recorded[key], options=FORCED) for key in keys]


def assert_near(expected: NDArray[Any], actual: Any, tolerance: float) -> None:
    """Every value within ``tolerance`` of the scale of what is expected, which is 1 or more."""
    array = np.asarray(actual.float().cpu() if hasattr(actual, "cpu") else actual)
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(array - expected).max()) <= tolerance * scale


def assert_mask(expected: NDArray[Any], probability: NDArray[np.float32] | None, share: float) -> None:
    """At most a ``share`` of the pixels on another side of one half; ``expected`` may be packed bits."""
    assert probability is not None
    if expected.dtype != bool:
        expected = np.unpackbits(expected)[: probability.size].reshape(probability.shape).astype(bool)
    assert int(((probability > 0.5) != expected).sum()) <= share * expected.size


def check_image(found: Found, tolerance: Tolerance) -> None:
    """What was found in the recorded 512 x 512 picture, step by step."""
    recorded = arrays("image")
    assert recorded["generated_ids"].tolist() == list(found.reply.ids)
    assert (str(recorded["answer_text"]), "forced") == (found.reply.text, found.reply.decode)
    assert_near(recorded["seg_embedding"], found.reply.vectors, tolerance.vectors)
    chosen = recorded["low_res_multimask_logits"][:, int(recorded["selected_mask_index"])]
    assert_near(chosen, found.logits, tolerance.logits)
    probability = found.probability(512, 512)
    assert_near(recorded["probability"], probability, tolerance.probability)
    assert_mask(recorded["mask"], probability, tolerance.pixels)


def check_size(number: int, found: Found, tolerance: Tolerance) -> None:
    """What was found in one of the recorded pictures of 1, 13 and 10 tiles."""
    recorded = arrays("sizes")
    assert_near(recorded[f"seg_embedding_{number}"], found.reply.vectors, tolerance.vectors)
    assert_near(recorded[f"low_res_logits_{number}"][None], found.logits, tolerance.logits)
    height, width = recorded[f"image_{number}"].shape[:2]
    assert_mask(recorded[f"mask_{number}"], found.probability(height, width), tolerance.pixels)


def check_run(segmenter: Sa2vaSegmenter, name: str, tolerance: Tolerance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded run of frames: masks, and what the tracker hands on, frame by frame."""
    recorded = arrays(name)
    steps: list[Any] = []
    step = Tracker.step
    monkeypatch.setattr(Tracker, "step", lambda self, features: steps.append(step(self, features)) or steps[-1])
    count, height, width = recorded["frames"].shape[:3]
    masks = np.unpackbits(recorded["mask"])[: count * height * width].reshape(count, height, width).astype(bool)
    predictions = segmenter.predict_run(Frame(pixels=frame, options=FORCED) for frame in recorded["frames"])
    for number, prediction in enumerate(_counted(predictions, count)):
        assert_near(recorded["low_res_logits"][number : number + 1], steps[number].logits, tolerance.logits)
        assert_near(recorded["object_score_logit"][number], steps[number].object_score, tolerance.logits)
        assert int(recorded["selected_mask_index"][number]) == int(steps[number].chosen)
        assert_mask(masks[number], prediction.probability, tolerance.pixels)


def _counted(predictions: Iterator[Any], count: int) -> Iterator[Any]:
    seen = 0
    for prediction in predictions:
        seen += 1
        yield prediction
    assert count == seen
