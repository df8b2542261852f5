"""The suite for authors passes a good segmenter and names what a bad one does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.inference.fakes import Told
from watcherd.config import Model
from watcherd.inference.base import Prediction
from watcherd.testing import SegmenterContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from watcherd.inference.base import Frame, Mark, ModelInfo, Placement, Segmenter


class Good(Told):
    """Dark is vessel; it can be planned and follows runs."""

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        grey = [frame.pixels.reshape(*frame.pixels.shape[:2], -1).mean(axis=2) for frame in frames]
        return [Prediction(probability=(1 - each / 255).astype(np.float32)) for each in grey]

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for frame in frames:
            yield from self.predict([frame])

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return nn.Linear(2, 2)

    def no_split(self) -> tuple[str, ...]:
        return ()

    def reserve_gib(self, batch_size: int) -> float:
        return 0.1 * batch_size


class TestGood(SegmenterContract):
    """As an author writes it."""

    def create(self) -> Segmenter:
        return Good()


def test_it_runs_without_pytest_too() -> None:
    SegmenterContract.run(Good)


class ForgetsRevision(Good):
    def info(self) -> ModelInfo:
        known = super().info()
        return type(known)(segmenter=known.segmenter, model="", revision="", dtype="float32")


class OverflowsProgress(Good):
    def load(self, placement: Placement, mark: Mark) -> None:
        mark("loading", 42.0)


class KeysByContent(Good):
    def batch_key(self, frame: Frame) -> object:
        return int(frame.pixels.sum())


class Changed(Good):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        raise NotImplementedError

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        return [self.change(prediction, frames) for prediction in super().predict(frames)]


class Transposes(Changed):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        return Prediction(probability=prediction.probability.T)


class GivesLogits(Changed):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        return Prediction(probability=prediction.probability * 8 - 4)


class GivesDoubles(Changed):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        return Prediction(probability=prediction.probability.astype(np.float64))  # type: ignore[arg-type]


class NormalisesOverTheBatch(Changed):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        return Prediction(probability=prediction.probability / len(frames))


class Remembers(Changed):
    calls = 0

    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        self.calls += 1
        return Prediction(probability=prediction.probability / self.calls)


class WritesIntoFrames(Good):
    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        for frame in frames:
            frame.pixels[0, 0] = 0
        return super().predict(frames)


class NamesTooFew(Changed):
    def change(self, prediction: Prediction, frames: Sequence[Frame]) -> Prediction:
        assert prediction.probability is not None
        mask = np.full(prediction.probability.shape, 3, np.uint8)
        return Prediction(probability=prediction.probability, mask=mask, labels=("artery", "vein"))


class WeighsSomething(Good):
    def skeleton(self) -> nn.Module:
        return nn.Linear(2, 2)


class DropsFrames(Good):
    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        for frame in list(frames)[1:]:
            yield from self.predict([frame])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (ForgetsRevision, "revision"),
        (OverflowsProgress, r"progress was \[42"),
        (KeysByContent, "have keys"),
        (Transposes, "for \\("),
        (GivesLogits, "not 0 to 1"),
        (GivesDoubles, "not float32"),
        (NormalisesOverTheBatch, "in a batch"),
        (Remembers, "computed again|in a batch"),
        (WritesIntoFrames, "read-only"),
        (NamesTooFew, "which has no name"),
        (WeighsSomething, "take memory"),
        (DropsFrames, "3 predictions for a run of 4"),
    ],
)
def test_a_broken_promise_is_named(bad: type[Any], said: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=said):
        SegmenterContract.run(bad)


def test_the_example_in_the_docs_keeps_its_promises() -> None:
    page = (Path(__file__).parents[3] / "docs" / "segmenters.md").read_text()
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Dark" in block]
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own page
    SegmenterContract.run(lambda: names["create"](Model(segmenter="dark")))


def example(of: str) -> dict[str, Any]:
    """What the page's example with this line defines."""
    page = (Path(__file__).parents[3] / "docs" / "segmenters.md").read_text()
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if of in block]
    names: dict[str, Any] = {}
    exec(found, names)  # noqa: S102 - our own page
    return names


def test_the_example_of_volumes_in_the_docs_keeps_its_promises() -> None:
    made = example("class Bright")
    SegmenterContract.run(lambda: made["create"](Model(segmenter="bright")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": lambda found, _: found.mask[:-1]}, "the mask is uint8"),
        ({"mask": lambda found, _: found.mask.astype(np.int64)}, "the mask is int64"),
        ({"mask": lambda found, _: found.mask + 7}, "which has no name"),
        ({"probability": lambda *_: None}, "which was asked for"),
        ({"probability": lambda found, _: found.probability * 2}, "not 0 to 1"),
        (
            {"mask": lambda found, calls: found.mask * np.uint8(len(calls) % 5 > 0)},
            "another mask when it is computed again",
        ),
    ],
)
def test_a_broken_promise_about_volumes_is_named(change: dict[str, Any], said: str) -> None:
    good: type = example("class Bright")["Bright"]
    calls: list[int] = []

    class Bad(good):  # type: ignore[misc]
        def predict_volume(self, volume: Any, mark: Any) -> Any:
            calls.append(1)
            found = super().predict_volume(volume, mark)
            return replace(found, **{name: make(found, calls) for name, make in change.items()})

    with pytest.raises(AssertionError, match=said):
        SegmenterContract.run(Bad)
