"""A segmenter for tests, shipped: dark pixels are the mask, and it fails in every way that a real one can.

A pixel's probability is 1 - value / 255 (the mean of the channels in colour), so the mask is known beforehand: values
up to 127 at threshold 0.5.

A frame says itself what is to happen when its first four pixels are `MARK` and the number of one of `FAULTS`
(`marked` makes such pixels; store them without loss). The environment variable ``WATCHERD_FAKE`` holds a JSON object
for what pixels cannot say:

    fault         one of `FAULTS`, for frames without a mark too
    once          path of a file: a fault happens only while it does not exist, and makes it
    above         "oom" only in batches of more frames than this
    seconds       sleep so long for every frame
    load          a fault while loading: "unavailable", "exit", "kill", "hang", "oom" or "error"
    load_seconds  sleep so long while loading
    golden        "wrong": answer the golden frame as a damaged model would
    runs          true: it also follows runs; a frame's probability is then the mean of its own and all before it
    volumes       it takes volumes of so many channels; what is above the mean of all its slices is the mask
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from watcherd.errors import ConfigError, InputError, UnavailableError
from watcherd.inference.base import Frame, Golden, ModelInfo, Prediction, Volume, VolumePrediction
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from watcherd.config import Model
    from watcherd.inference.base import Mark, Placement

VARIABLE: Final = "WATCHERD_FAKE"
KEYS: Final = ("above", "fault", "golden", "load", "load_seconds", "once", "runs", "seconds", "volumes")
MARK: Final = (251, 17, 93)

FAULTS: Final = {
    "exit": "the process ends with code 3",
    "kill": "the process is killed",
    "hang": "the call does not return",
    "oom": "torch's out-of-memory error",
    "sticky": "a CUDA error after which the process is useless",
    "input": "the frame is refused",
    "error": "an error that nobody foresaw",
    "no-mask": "an answer without a mask",
    "nan": "probabilities that are no numbers",
}
"""What can be asked for, and what it looks like from outside."""


def create(model: Model) -> Fake:
    """The segmenter, with its faults. Raises `ConfigError` when the environment asks for something unknown."""
    wishes = _wishes()
    kind = FollowingFake if wishes.get("runs") else VolumeFake if wishes.get("volumes") else Fake
    return kind(wishes, dtype="float32" if model.dtype == "auto" else model.dtype)


def marked(pixels: NDArray[np.uint8], fault: str) -> NDArray[np.uint8]:
    """The pixels with the mark of ``fault``, one of `FAULTS`, at the start of the first row."""
    pixels = pixels.copy()
    code = np.array([*MARK, list(FAULTS).index(fault)], np.uint8)
    pixels[0, :4] = code if pixels.ndim == 2 else code[:, np.newaxis]
    return pixels


class Fake:
    """See `watcherd.inference.base.Segmenter`."""

    def __init__(self, wishes: dict[str, Any], *, dtype: str = "float32") -> None:
        self._wishes = wishes
        self._dtype = dtype

    def info(self) -> ModelInfo:
        return ModelInfo(segmenter="fake", model="fake", revision="1", dtype=self._dtype)

    def load(self, placement: Placement, mark: Mark) -> None:
        """Raises or does what ``load`` in the environment asks for."""
        mark("loading", 0.0)
        time.sleep(self._wishes.get("load_seconds", 0))
        if (fault := self._wishes.get("load")) and self._is_due():
            _fail(fault)
        self._dtype = placement.dtype
        mark("loaded", 1.0)

    def batch_key(self, frame: Frame) -> Hashable:
        return frame.pixels.shape

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        return [self._answer(frame, len(frames)) for frame in frames]

    def golden(self) -> Golden:
        """The left half is dark. It carries no mark, and the environment's ``fault`` spares it."""
        mask = np.zeros((16, 16), np.uint8)
        mask[:, :8] = 1
        pixels = np.where(mask == 1, 0, 255).astype(np.uint8)
        return Golden(frame=Frame(pixels=pixels, options=Options(profile="golden")), mask=mask)

    def _answer(self, frame: Frame, batch: int) -> Prediction:
        time.sleep(self._wishes.get("seconds", 0))
        if frame.options.profile == "golden":
            return _dark(frame, wrong=self._wishes.get("golden") == "wrong")
        fault = _mark_of(frame.pixels) or self._wishes.get("fault")
        if fault is None or (fault == "oom" and batch <= self._wishes.get("above", 0)) or not self._is_due():
            return _dark(frame)
        if fault == "no-mask":
            return Prediction(probability=None, answer="I see no vessel here.")
        if fault == "nan":
            return Prediction(probability=np.full(frame.pixels.shape[:2], np.nan, np.float32))
        return _fail(fault)

    def _is_due(self) -> bool:
        """Whether a fault may happen now: always, or the one time that ``once`` allows."""
        if "once" not in self._wishes:
            return True
        try:
            Path(self._wishes["once"]).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class FollowingFake(Fake):
    """One with memory (see `watcherd.inference.base.RunSegmenter`): its masks show which frames it saw, in order."""

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """The answer is the frame's place in the run."""
        total: NDArray[np.float32] | None = None
        for place, frame in enumerate(frames, 1):
            prediction = self._answer(frame, 1)
            if prediction.probability is not None:
                total = prediction.probability if total is None else total + prediction.probability
                prediction = replace(prediction, probability=total / np.float32(place), answer=f"frame {place}")
            yield prediction


class VolumeFake(Fake):
    """One that takes numbers (see `watcherd.inference.base.VolumeSegmenter`): its masks show which slices it saw
    together."""

    def files_per_case(self) -> int:
        return int(self._wishes["volumes"])

    def takes_whole(self, volume: Volume) -> bool:
        return volume.spacing_mm is not None and volume.spacing_mm[0] is not None

    def predict_volume(self, volume: Volume, mark: Mark) -> VolumePrediction:
        mark("computing", 0.0)
        time.sleep(self._wishes.get("seconds", 0))
        if volume.options.profile != "golden" and (fault := self._wishes.get("fault")) and self._is_due():
            _fail(fault)
        total = np.mean([channel.astype(np.float32) for channel in volume.channels], axis=0)
        return VolumePrediction(
            mask=(total > total.mean()).astype(np.uint8),
            probability=(total > total.mean()).astype(np.float32),
            labels=("bright",),
        )

    def probe_volume(self) -> Volume:
        values = np.arange(6, dtype=np.int16).reshape(1, 2, 3)
        return Volume(channels=(values,) * self.files_per_case(), options=Options(profile="golden"))


def _wishes() -> dict[str, Any]:
    text = os.environ.get(VARIABLE, "")
    try:
        wishes = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is not JSON: {error}.") from error
    if not isinstance(wishes, dict):
        raise ConfigError(f"{VARIABLE} = {text!r}; allowed: a JSON object.")
    for key in wishes:
        if key not in KEYS:
            raise ConfigError(f"{VARIABLE} has the key {key!r}; allowed: {', '.join(KEYS)}.")
    if wishes.get("fault") not in (None, *FAULTS):
        raise ConfigError(f"{VARIABLE} has the fault {wishes['fault']!r}; allowed: {', '.join(FAULTS)}.")
    return wishes


def _mark_of(pixels: NDArray[np.uint8]) -> str | None:
    first = pixels[0, :4] if pixels.ndim == 2 else pixels[0, :4, 0]
    if len(first) < 4 or tuple(first[:3].tolist()) != MARK or first[3] >= len(FAULTS):
        return None
    return list(FAULTS)[int(first[3])]


def _dark(frame: Frame, *, wrong: bool = False) -> Prediction:
    grey = frame.pixels if frame.pixels.ndim == 2 else frame.pixels.mean(axis=2, dtype=np.float32)
    share = np.asarray(grey, np.float32) / np.float32(255)
    return Prediction(probability=share if wrong else 1 - share, labels=("dark",))


def _fail(fault: str) -> NoReturn:
    if fault == "exit":
        os._exit(3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault in ("hang", "kill"):  # the signal may take a moment
        while True:
            time.sleep(3600)
    if fault == "oom":
        from torch import OutOfMemoryError  # nothing else here needs torch

        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (asked for by a test).")
    if fault == "sticky":
        raise RuntimeError("CUDA error: an illegal memory access was encountered (asked for by a test)")
    if fault == "input":
        raise InputError("The fake segmenter refuses this frame, as it was asked to.")
    if fault == "unavailable":
        raise UnavailableError("The fake model cannot be loaded, as it was asked.", hint=f"Unset {VARIABLE}.")
    raise ValueError("an error that nobody foresaw (asked for by a test)")
