"""A segmenter without a model, that fails as it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from watcherd.inference.base import Frame, Golden, Mark, ModelInfo, Pending, Placement, Prediction
from watcherd.inference.messages import BatchEnded
from watcherd.inference.replica.batching import Probe
from watcherd.inference.replica.vram import Meter
from watcherd.inference.replica.work import Said, Work
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from watcherd.inference.base import Segmenter
    from watcherd.inference.messages import Outcome, WorkItem


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


class Slow(Told):
    """Computes when it is waited for, as a GPU does; ``log`` shows in which order batches begin and end."""

    def __init__(self, before: Callable[[Sequence[Frame]], None] = lambda frames: None) -> None:
        super().__init__(before)
        self.log: list[str] = []
        self.computed = True

    def dispatch(self, frames: Sequence[Frame]) -> Pending:
        first = int(frames[0].pixels.max())
        self.log.append(f"begin {first}")

        def predictions() -> list[Prediction]:
            self.log.append(f"end {first}")
            return self.predict(frames)

        return Pending(done=lambda: self.computed, result=predictions)


def answers(
    segmenter: Segmenter,
    items: Sequence[WorkItem],
    size: int = 1,
    working_on: Callable[[tuple[int, ...]], None] = lambda jobs: None,
) -> list[Outcome]:
    """What a replica says of these scans, in the order in which it does; then it says that the list has ended."""
    told: list[Said] = []
    work = Work(segmenter, Probe(batch_size=size), Meter(("cpu",)), told.extend, working_on)
    work.take(items)
    work.rest()
    *outcomes, ended = told
    assert BatchEnded() == ended
    return [outcome for outcome in outcomes if not isinstance(outcome, BatchEnded)]
