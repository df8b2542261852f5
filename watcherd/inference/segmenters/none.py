"""``none``: computes nothing. For measuring what everything but the model costs; its record says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watcherd.inference.base import Frame, Golden, Mark, ModelInfo, Placement, Prediction
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from watcherd.config import Model

NOTE = 'segmenter "none": nothing was computed, the mask is empty'


def create(model: Model) -> Nothing:
    """The entry of the table of segmenters."""
    return Nothing(model)


class Nothing:
    """Answers every frame with an empty mask and a note that nothing was computed."""

    def __init__(self, model: Model) -> None:
        self._dtype = "float32" if model.dtype == "auto" else model.dtype

    def info(self) -> ModelInfo:
        """Name and revision."""
        return ModelInfo(segmenter="none", model="none", revision="1", dtype=self._dtype)

    def load(self, placement: Placement, mark: Mark) -> None:
        """There is nothing to load."""

    def batch_key(self, frame: Frame) -> Hashable:  # noqa: ARG002 - part of the protocol
        """Any frames go together."""
        return None

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """An empty mask for each frame."""
        return [Prediction(probability=np.zeros(frame.pixels.shape[:2], np.float32), note=NOTE) for frame in frames]

    def golden(self) -> Golden:
        """Nothing in, nothing out."""
        frame = Frame(pixels=np.zeros((8, 8), np.uint8), options=Options())
        return Golden(frame=frame, mask=np.zeros((8, 8), np.uint8))
