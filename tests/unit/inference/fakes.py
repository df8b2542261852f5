"""A segmenter without a model, that fails as it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watcherd.inference.base import Frame, Golden, Mark, ModelInfo, Placement, Prediction
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence


def frame(value: int = 0, shape: tuple[int, ...] = (4, 6)) -> Frame:
    return Frame(pixels=np.full(shape, value, np.uint8), options=Options())


class Told:
    """Answers each frame with its own values / 255, after ``before`` has had its say about the batch."""

    def __init__(self, before: Callable[[Sequence[Frame]], None] = lambda frames: None) -> None:
        self.before = before
        self.batches: list[int] = []
        self.known: Golden | None = None

    def info(self) -> ModelInfo:
        return ModelInfo(segmenter="told", model="none", revision="1", dtype="float32")

    def load(self, placement: Placement, mark: Mark) -> None:
        mark("loading", 1.0)

    def batch_key(self, frame: Frame) -> Hashable:
        return frame.pixels.shape

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        self.batches.append(len(frames))
        self.before(frames)
        return [Prediction(probability=each.pixels.astype(np.float32) / 255) for each in frames]

    def golden(self) -> Golden | None:
        return self.known
