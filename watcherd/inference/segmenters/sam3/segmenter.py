"""What watcherd sees of SAM 3: frames and a few words in, masks out; or the answer that the thing is not there."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import ConfigError, InputError, UnavailableError
from watcherd.inference import loading, transfer
from watcherd.inference.base import Frame, ModelInfo, Pending, Prediction
from watcherd.inference.faults import not_numbers
from watcherd.inference.segmenters.sam3.folder import describe
from watcherd.inference.segmenters.sam3.kept import Kept, names, paint, union
from watcherd.inference.segmenters.sam3.network import NO_SPLIT, ROWS_AT_ONCE, Network
from watcherd.inference.segmenters.sam3.picture import prepare
from watcherd.inference.segmenters.sam3.words import SEPARATOR, things
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from watcherd.config import Model
    from watcherd.inference.base import Golden, Mark, Placement
    from watcherd.inference.segmenters.sam3.network import Rows
    from watcherd.inference.transfer import Copies

VERSION = "sam3-1"
"""Part of the revision: raised whenever this code may give other masks for the same weights."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Test-time augmentation: the axes along which each view is mirrored; the first view is the picture itself."""


@dataclass(frozen=True, slots=True)
class _View:
    """The answers for the pictures, mirrored along ``axes``, and the copies of their scores that are under way."""

    axes: tuple[int, ...]
    rows: Rows
    scores: Copies


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One frame's masks on the device. ``finite``: whether all that they were made of are numbers."""

    mask: torch.Tensor
    probability: torch.Tensor
    finite: torch.Tensor
    labels: tuple[str, ...]
    left_out: int = 0


class Sam3Segmenter:
    """SAM 3 from the Hugging Face folder ``model.path``. Raises `ConfigError` for a folder that cannot be used."""

    def __init__(self, model: Model) -> None:
        self._setting = model.sam3
        self._description = describe(model.path)
        self._network: Network | None = None
        self._dtype = "float32"
        self._threads = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="resize")

    def info(self) -> ModelInfo:
        """Name, model and revision; the revision also changes with the settings that change masks."""
        return ModelInfo(
            segmenter="sam3",
            model=self._description.folder.name,
            revision=self._revision,
            dtype=self._dtype,
            parameters=self._parameters,
        )

    @cached_property
    def _revision(self) -> str:
        extra = f"{VERSION} {self._setting.presence} {self._setting.score}"
        return loading.fingerprint(self._description.folder, extra=extra)

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    def load(self, placement: Placement, mark: Mark) -> None:
        """Put the model onto the devices of ``placement``.

        Raises `UnavailableError` if it cannot be loaded, and `ConfigError` for a ``model.sam3.prompt`` that it cannot
        take.
        """
        mark("loading weights", None)
        network = Network(self._description, placement)
        try:
            network.know(things(self._setting.prompt))
        except InputError as error:
            raise ConfigError(f"model.sam3.prompt: {error.message}", hint=error.hint) from error
        self._network = network
        self._dtype = placement.dtype
        mark("loading weights", 1.0)

    def _loaded(self) -> Network:
        if self._network is None:
            raise UnavailableError("The model is not loaded yet.", hint="Call load first.")
        return self._network

    def batch_key(self, frame: Frame) -> Hashable:
        """Every picture becomes one of the model's size; a batch's memory goes with the things that are asked for."""
        return frame.options.prompt.count(SEPARATOR), frame.options.tta

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction for each frame. Raises `InputError` for pixels or a prompt that cannot be used."""
        return self.dispatch(frames).result()

    def dispatch(self, frames: Sequence[Frame]) -> Pending:
        """`predict` in two halves: the network, and the masks of what it found."""
        import torch

        network = self._loaded()
        asked = [_asked(frame) for frame in frames]
        for each in asked:
            network.know(each)
        pairs = [(number, thing) for number, each in enumerate(asked) for thing in each]
        with torch.inference_mode():
            pictures = self._prepared(frames, network)
            views = [
                self._view(network, pictures, pairs, axes) for axes in (FLIPS if frames[0].options.tta else FLIPS[:1])
            ]
        return Pending(done=views[-1].scores.done, result=partial(self._predictions, frames, asked, views))

    def _prepared(self, frames: Sequence[Frame], network: Network) -> torch.Tensor:
        return prepare(frames, self._description, network.device, self._threads)

    def _view(
        self, network: Network, pictures: torch.Tensor, pairs: Sequence[tuple[int, str]], axes: tuple[int, ...]
    ) -> _View:
        rows = network.ask(network.see(pictures.flip(axes) if axes else pictures), pairs)
        return _View(axes, rows, transfer.to_host(rows.scores))

    def _predictions(
        self, frames: Sequence[Frame], asked: Sequence[tuple[str, ...]], views: Sequence[_View]
    ) -> list[Prediction]:
        """Wait for the scores, make the masks of what counts, and bring these.

        Beside the batch that was begun since, in a stream of their own: they would come after it otherwise.
        """
        import torch

        found = [self._kept(asked, view) for view in views]
        with torch.inference_mode(), _beside(views[0].rows.masks.device):
            begin, drawn = 0, []
            for number, (frame, each) in enumerate(zip(frames, asked, strict=True)):
                rows = slice(begin, begin + len(each))
                begin = rows.stop
                answers = [(view, view.rows.masks[rows], kept[number]) for view, kept in zip(views, found, strict=True)]
                drawn.append(_draw(frame, answers) if any(kept.objects for kept in found[0][number]) else None)
            return self._brought(frames, found[0], drawn)

    def _kept(self, asked: Sequence[tuple[str, ...]], view: _View) -> list[list[Kept]]:
        """For each frame and thing what counts. Raises `TransientError` when the scores are not numbers."""
        scores = view.scores.result()
        if not all(np.isfinite(each).all() for each in scores):
            raise not_numbers()
        logits = iter(scores)
        return [[Kept.of(thing, next(logits), self._setting) for thing in each] for each in asked]

    def _brought(
        self, frames: Sequence[Frame], found: Sequence[Sequence[Kept]], drawn: Sequence[_Drawn | None]
    ) -> list[Prediction]:
        there = [each for each in drawn if each is not None]
        finite = transfer.to_host([each.finite for each in there])
        masks = transfer.to_host([each.mask for each in there])
        wanted = [
            each.probability
            for each, frame in zip(drawn, frames, strict=True)
            if each is not None and frame.options.asks_for_probability
        ]
        probabilities = iter(transfer.to_host(wanted).result())
        if not all(finite.result()):
            raise not_numbers()
        arrays = iter(masks.result())
        predictions = []
        for frame, kept, each in zip(frames, found, drawn, strict=True):
            answer = "; ".join(one.words(self._setting) for one in kept)
            if each is None:
                predictions.append(Prediction(probability=None, answer=answer))
                continue
            probability = next(probabilities) if frame.options.asks_for_probability else None
            predictions.append(
                Prediction(
                    probability=probability, mask=next(arrays), labels=each.labels, answer=answer, note=_note(each)
                )
            )
        return predictions

    def golden(self) -> Golden | None:
        """None: a model that somebody trained has no mask that we know."""
        return None

    def own_answer(self, frame: Frame) -> NDArray[np.float32]:
        """What the model computes before it is decided whether the thing is there, float32 (3, height, width), 0 to 1.

        Maps of "any of it", of the objects by their chances, and of presence alone.
        """
        import torch

        network = self._loaded()
        pairs = [(0, thing) for thing in _asked(frame)[:1]]
        with torch.inference_mode():
            seen = network.see(self._prepared([frame], network))
            rows, logits = network.ask(seen, pairs), network.semantic(seen, pairs)
            chances = rows.scores[0].sigmoid()
            objects = rows.masks[0].float().sigmoid() * chances[:-1, None, None].to(rows.masks.device)
            here = objects.amax(dim=0).cpu()
            maps = [logits[0, 0].float().sigmoid().cpu(), here, chances[-1].cpu().expand_as(here)]
            stacked: NDArray[np.float32] = torch.stack(maps).numpy()
            return stacked

    def probe_frame(self) -> Frame:
        """A frame of the model's own size, asked for what the configuration asks for."""
        side = self._description.side
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        return Frame(pixels=noise, options=Options(prompt=self._setting.prompt))

    def skeleton(self) -> nn.Module:
        """The model's modules with parameters on the meta device."""
        return self._description.skeleton()

    def no_split(self) -> tuple[str, ...]:
        """Class names of the parts that stay on one device."""
        return NO_SPLIT

    def reserve_gib(self, batch_size: int) -> float:
        """Activations by what a GPU has shown at the published size: for pictures, rows in the decoder, and masks."""
        rows = batch_size * (self._setting.prompt.count(SEPARATOR) + 1)
        share = (self._description.side / 1008) ** 2
        return 0.1 + share * (0.12 * batch_size + 0.3 * min(rows, ROWS_AT_ONCE) + 0.04 * rows)


def _asked(frame: Frame) -> tuple[str, ...]:
    """The things that the frame's prompt names. Raises `InputError` for options that cannot be followed together."""
    if frame.options.instances and frame.options.tta:
        raise InputError(
            "instances and tta are both asked for: instances of mirrored views cannot be averaged.",
            hint="Take one of them out of the profile or the sidecar.",
        )
    return things(frame.options.prompt)


def _draw(frame: Frame, answers: Sequence[tuple[_View, torch.Tensor, Sequence[Kept]]]) -> _Drawn:
    """The masks of one frame from its answers, view by view: each with the masks of its rows and what counts."""
    size, options = (frame.pixels.shape[0], frame.pixels.shape[1]), frame.options
    asked = [kept.thing for kept in answers[0][2]]
    if options.instances:
        _, masks, found = answers[0]
        painted = paint(list(zip(masks, found, strict=True)), size, options.threshold)
        finite = painted.strongest.sum().isfinite()
        return _Drawn(painted.values, painted.strongest, finite, names(asked, painted.count), painted.left_out)
    maps = [_maps(masks, found, size, view.axes) for view, masks, found in answers]
    mean = sum(maps[1:], maps[0]) / len(maps) if len(maps) > 1 else maps[0]
    return _Drawn(_values(mean, options.threshold), mean, mean.sum().isfinite(), tuple(asked))


def _maps(masks: torch.Tensor, found: Sequence[Kept], size: tuple[int, int], axes: tuple[int, ...]) -> torch.Tensor:
    """A map for each thing, mirrored back: float32 (things, height, width), or (height, width) for one."""
    import torch

    maps = torch.stack([union(each, kept, size) for each, kept in zip(masks, found, strict=True)])
    maps = maps.flip(axes) if axes else maps
    return maps[0] if len(maps) == 1 else maps


def _values(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Label values as `Prediction.label_values` has them."""
    import torch

    if maps.ndim == 2:
        return (maps > threshold).view(torch.uint8)
    most, likeliest = maps.max(dim=0)
    return torch.where(most > threshold, likeliest + 1, 0).to(torch.uint8)


def _note(drawn: _Drawn) -> str | None:
    if not drawn.left_out:
        return None
    return f"{drawn.left_out} instances have no label value of their own: a mask has no more"


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """On a GPU a stream beside that of the network; what is computed in it is there when this ends."""
    import torch

    if device.type != "cuda":
        yield
        return
    stream = _stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()  # nothing may be freed that it still reads


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)
