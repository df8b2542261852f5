"""What watcherd sees of Sa2VA: a segmenter of single frames and of runs, whose model can be planned and split."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import chain, islice, tee
from typing import TYPE_CHECKING

import numpy as np
import torch

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import checks
from watcherd.inference.base import Frame, ModelInfo, Pending, Prediction
from watcherd.inference.loading import torch_dtype
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va import fp8
from watcherd.inference.segmenters.sa2va.checkpoint import Checkpoint, fingerprint, spelling_of
from watcherd.inference.segmenters.sa2va.compiled import compile_encoders
from watcherd.inference.segmenters.sa2va.engine import Engine, eyes_of, shape_maps
from watcherd.inference.segmenters.sa2va.network import NO_SPLIT, skeleton
from watcherd.inference.segmenters.sa2va.patches import refuse_other_looks
from watcherd.inference.segmenters.sa2va.prompt import Words, system_of
from watcherd.inference.segmenters.sa2va.renames import needed, sources
from watcherd.inference.segmenters.sa2va.trained import Trained
from watcherd.inference.segmenters.sa2va.video import follow
from watcherd.inference.segmenters.sa2va.weights import check_names, load, whole_layers
from watcherd.inference.transfer import to_host

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.config import Model
    from watcherd.inference.base import Golden, Mark, Placement
    from watcherd.inference.segmenters.sa2va.checkpoint import Tensors
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

VERSION = "native-3"
"""Part of the revision: raised whenever this code may give other masks for the same weights."""

SAM2_MS = 6.9
"""Milliseconds of a picture in SAM2's encoder and decoder on an H200."""
PATCHES, TOKENS = 1025, 281
"""Tokens of a 512 x 512 picture in the vision tower, and of the question about it in the language model."""
VISION_RATE, LANGUAGE_RATE = 4.1e14, 6.1e14
"""FLOP/s in the two on an H200."""

FLIPS: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (0, 1))
"""Test-time augmentation: the axes along which each view is mirrored; the first view is the picture itself."""


class Sa2vaSegmenter:
    """Sa2VA from the Hugging Face folder at ``model.path``, or from a training's checkpoint on top of that folder.

    Raises `ConfigError` when the folder holds no supported model, and `UnavailableError` when its ``config.json``
    cannot be read.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._trained: Trained | None = None
        if model.sa2va.checkpoint is not None:
            self._trained = Trained(model.path, model.sa2va.checkpoint, model.sa2va.sam2)
        elif model.sa2va.sam2 is not None:
            raise ConfigError(
                "model.sa2va.sam2 is set without model.sa2va.checkpoint, and does nothing.",
                hint="An exported or published folder holds its own SAM2: take sam2 out, or set checkpoint.",
            )
        self._config = self._trained.config if self._trained else configuration.read(model.path)
        self._folder: Path = model.path  # type: ignore[assignment] # read() has refused None
        self._eyes = eyes_of(self._config.built_on)
        self._engine: Engine | None = None
        self._dtype = "float32"

    def info(self) -> ModelInfo:
        """Name, model and revision."""
        return ModelInfo(
            segmenter="sa2va",
            model=self._trained.name if self._trained else self._folder.name,
            revision=self._revision,
            dtype=self._dtype,
            parameters=self._parameters,
            warning=self._trained.warning if self._trained else "",
        )

    @cached_property
    def _revision(self) -> str:
        files = self._trained.revision() if self._trained else fingerprint(self._folder, self._config.built_on.files)
        return f"{files}-{VERSION}"

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    def load(self, placement: Placement, mark: Mark) -> None:
        """Put the model onto the devices of ``placement``. Raises `UnavailableError` if it cannot be loaded."""
        mark("reading the model folder", None)
        words = self._words()
        refuse_other_looks(self._folder, self._config.built_on)
        network = skeleton(self._config)
        _check_vocabulary(words, int(self._config.language["vocab_size"]), self._folder)
        if placement.dtype == "float32":
            # Convolutions would otherwise run in TF32 on a GPU, with 10 bits of mantissa.
            torch.backends.cudnn.allow_tf32 = False
        eight_bits = placement.dtype == fp8.NAME
        device_map = placement.device_map
        if eight_bits:
            fp8.refuse(placement, network.built_on)
            device_map = fp8.with_table_on_host(device_map)
        tensors = self._tensors(network)
        load(network, tensors, device_map, torch_dtype(placement.dtype), mark, eight_bits=eight_bits)
        checks.after_load(network, fresh=self.skeleton)
        self._dtype = placement.dtype
        engine = Engine(network, words, max_new_tokens=self._model.sa2va.max_new_tokens)
        if eight_bits:
            mark("comparing with bfloat16, block by block", None)
            engine.compare_with(whole_layers(engine, tensors), checks.golden_picture(), fp8.judge)
        if self._model.compile and network.sam2.device.type == "cuda":
            compile_encoders(network, mark, engine.language.layers)
        self._engine = engine

    def check(self) -> None:
        """Raise what `load` would raise for the model's files, by their headers; no weight is read."""
        network = skeleton(self._config)
        words = self._words()
        refuse_other_looks(self._folder, self._config.built_on)
        _check_vocabulary(words, int(self._config.language["vocab_size"]), self._folder)
        tensors = network.state_dict()
        check_names(tensors, sources(tensors, network.built_on), self._tensors(network))

    def _words(self) -> Words:
        if self._trained:
            return self._trained.words()
        return Words(self._folder, template=self._config.template, system=system_of(self._folder, self._config))

    def _tensors(self, network: Sa2vaNetwork) -> Tensors:
        """What ``network`` is filled from; let go of after loading, with the files that it has mapped."""
        if self._trained:
            return self._trained.open(needed(network.state_dict(), network.built_on))
        return Checkpoint(self._folder, self._config.lora_ranks, spelling_of(self._config))

    @property
    def engine(self) -> Engine:
        """The loaded model. Raises `UnavailableError` before `load`."""
        if self._engine is None:
            raise UnavailableError("The Sa2VA model is not loaded yet.", hint="Call load first.")
        return self._engine

    def batch_key(self, frame: Frame) -> Hashable:
        """Small, medium or large: a batch's memory goes with what its pictures become, and within such a class frames
        of different sizes share passes wherever that is cheaper."""
        height, width = frame.pixels.shape[:2]
        return self._eyes.size_class(width, height)

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction for each frame. Raises `InputError` for a prompt or a draft that cannot be used."""
        return self.dispatch(frames).result()

    def dispatch(self, frames: Sequence[Frame]) -> Pending:
        """`predict` in two halves: the first launches everything, the second waits for it."""
        pictures = self._view(frames, ())
        augmented = [number for number, frame in enumerate(frames) if frame.options.tta]
        if not augmented:
            return pictures
        views = [self._view([frames[number] for number in augmented], axes) for axes in FLIPS[1:]]

        def averaged() -> list[Prediction]:
            predictions, others = pictures.result(), [view.result() for view in views]
            for place, number in enumerate(augmented):
                predictions[number] = average(predictions[number], [other[place] for other in others])
            return predictions

        every = (pictures, *views)
        return Pending(
            done=lambda: all(view.done() for view in every),
            result=averaged,
            worked_again=lambda: any(view.worked_again() for view in every),
        )

    @torch.inference_mode()
    def _view(self, frames: Sequence[Frame], axes: tuple[int, ...]) -> Pending:
        """Predictions for the mirrored frames, mirrored back."""
        launched = self.engine.launch([mirrored(frame, axes) for frame in frames])
        sizes = [(frame.pixels.shape[0], frame.pixels.shape[1]) for frame in frames]
        maps = self.engine.maps(launched.found, sizes)
        copies = to_host([each for each in maps if each is not None])
        # What waits for the copies holds no tensor but what a draft that does not hold needs: the device's memory is
        # free for the next batch.
        said = [partial(_prediction, each.reply.text, each.reply.decode, each.reply.labels) for each in launched.found]
        empty = [each is None for each in maps]
        done, settle = launched.done, launched.settle
        again: list[int] = []

        @torch.inference_mode()
        def predictions() -> list[Prediction]:
            others = settle()
            again.extend(others)
            arrays = iter(copies.result())
            found = [
                prediction(None if none else unmirror(shape_maps(next(arrays)), axes))
                for prediction, none in zip(said, empty, strict=True)
            ]
            for number, other in others.items():
                reply, own = other.reply, other.probability(*sizes[number])
                found[number] = _prediction(reply.text, reply.decode, reply.labels, unmirror(own, axes))
            return found

        return Pending(done=lambda: done() and copies.done(), result=predictions, worked_again=lambda: bool(again))

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """One prediction for each frame of a run, which SAM2 follows with its memory.

        The first frame's options hold for all. Holds a window of frames and memories, however long the run is.
        """
        first, frames = _peek(frames)
        if first is None:
            return
        axes = FLIPS if first.options.tta else FLIPS[:1]
        copies = tee(frames, len(axes))
        views = [self._follow_view(copy, flip) for copy, flip in zip(copies, axes, strict=True)]
        for prediction, *others in zip(*views, strict=True):
            yield average(prediction, others) if others else prediction

    def _follow_view(self, frames: Iterable[Frame], axes: tuple[int, ...]) -> Iterator[Prediction]:
        for tracked in follow(self.engine, (mirrored(frame, axes) for frame in frames)):
            reply = tracked.reply
            yield _prediction(reply.text, reply.decode, reply.labels, unmirror(tracked.probability, axes))

    def golden(self) -> Golden | None:
        """None: a model that somebody fine-tuned has no mask that we know."""
        return None

    def skeleton(self) -> Sa2vaNetwork:
        """The model's modules with parameters on the meta device."""
        return skeleton(self._config)

    def skeleton_at(self, dtype: str) -> Sa2vaNetwork:
        """The same, with tensors of the sizes that they have on cards."""
        network = self.skeleton().to(torch_dtype(dtype))
        if dtype == fp8.NAME:
            fp8.shrink(network)
        return network

    def milliseconds(self) -> Mapping[str, float]:
        """Of a 512 x 512 picture, by the rates at which an H200 worked on each part in batches of sixteen."""
        network = self.skeleton()

        def of(module: torch.nn.Module, tokens: int, rate: float) -> float:
            return 2e3 * tokens * sum(parameter.numel() for parameter in module.parameters()) / rate

        found = {"sam2": SAM2_MS, "vision": of(network.vision, PATCHES, VISION_RATE)}
        for number, layer in enumerate(network.language.model.layers):
            found[f"language.model.layers.{number}"] = of(layer, TOKENS, LANGUAGE_RATE)
        return found

    def no_split(self) -> tuple[str, ...]:
        """Class names of the parts that stay on one device."""
        return NO_SPLIT

    def reserve_gib(self, batch_size: int) -> float:
        """Activations of one device at eight billion parameters in bfloat16.

        Measured 2.5 for sixteen frames of one tile; frames of thirteen tiles reach the bound that
        `batching.PASS_LIMIT` sets. One frame needed 0.24, and the graphs of lone ones `graphs.GRAPHS_GIB`.
        """
        return min(1.5 + 0.25 * batch_size, 6.0)


def average(prediction: Prediction, others: Sequence[Prediction]) -> Prediction:
    """Mean probabilities over ``prediction``, that of the picture itself, and those of its mirrored views.

    What the model says about the picture itself decides which masks there are; views that gave other masks are left
    out, and the note says so.
    """
    if prediction.probability is None:
        return prediction
    shape = prediction.probability.shape
    same = [other.probability for other in others if other.probability is not None and other.probability.shape == shape]
    views = 1 + len(others)
    return Prediction(
        probability=np.mean([prediction.probability, *same], axis=0, dtype=np.float32),
        labels=prediction.labels,
        answer=prediction.answer,
        decode=prediction.decode,
        note=f"averaged over {1 + len(same)} of {views} views",
    )


def mirrored(frame: Frame, axes: tuple[int, ...]) -> Frame:
    """The frame, mirrored along ``axes`` (0 upside down, 1 left to right)."""
    if not axes:
        return frame
    return Frame(pixels=np.ascontiguousarray(np.flip(frame.pixels, axes)), options=frame.options)


def unmirror(maps: NDArray[np.float32] | None, axes: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Undo `mirrored` on maps (height, width) or (classes, height, width)."""
    if maps is None or not axes:
        return maps
    return np.ascontiguousarray(np.flip(maps, tuple(axis - 2 for axis in axes)))


def _prediction(text: str, decode: str, labels: tuple[str, ...], maps: NDArray[np.float32] | None) -> Prediction:
    return Prediction(
        probability=maps,
        # One mask needs no name: it is what was asked for.
        labels=labels if maps is not None and maps.ndim == 3 else (),
        answer=text,
        decode=decode,
    )


def _check_vocabulary(words: Words, rows: int, folder: Path) -> None:
    """Raise `UnavailableError` if the tokenizer has tokens for which the model has no embedding."""
    if max(words.seg, words.context, words.end) >= rows:
        raise UnavailableError(
            f"The tokenizer in {folder} has tokens beyond the model's {rows}: [SEG] is {words.seg}.",
            hint="The tokenizer and the weights are of different models; take both from one folder.",
        )


def _peek(frames: Iterable[Frame]) -> tuple[Frame | None, Iterable[Frame]]:
    """The first frame, and all of them."""
    rest = iter(frames)
    first = list(islice(rest, 1))
    return (first[0] if first else None), chain(first, rest)
