"""After loading, before READY: is the model in memory the one that we meant?

A model that loads without an error can still be wrong: a tensor that stayed on the meta device, a rotary table refilled
with whatever lay in memory, a card that computes nonsense. None of that shows in a log; it shows in masks.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from watcherd.config import Sa2va
from watcherd.errors import JobError, UnavailableError
from watcherd.inference.base import Frame, VolumeSegmenter
from watcherd.inference.faults import is_memory_error
from watcherd.inference.loading import listed
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from watcherd.inference.base import Prediction, Segmenter

RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""How far a table computed on another device may be from the one computed on the CPU."""
SAME_ANSWER = 0.02
"""Mean distance of probabilities up to which two answers are the same: kernels differ in the last digits only."""
SEGMENTERS_FAULT = "This is a fault of the segmenter; run watcherd.testing's suite on it."
SIDE = 256
"""Side in pixels of the picture that a model's own answer is remembered for."""


@runtime_checkable
class OwnAnswer(Protocol):
    """A segmenter that may rightly find nothing in a picture: it shows what it computed before it decided so."""

    def own_answer(self, frame: Frame) -> NDArray[np.float32]:
        """Values of 0 to 1 in an array of any shape, the same for every frame."""


def after_load(module: nn.Module, fresh: Callable[[], nn.Module] | None = None) -> None:
    """Check that every tensor is real, and that what no checkpoint holds is as a new module computes it.

    ``fresh``: builds the module anew; its parameters may be on the meta device (`loading.skeleton`), for only
    non-persistent buffers and tensors held as plain attributes are compared.

    Raises `UnavailableError` with the names of all that are wrong.
    """
    empty = [name for name, tensor in _all_tensors(module) if tensor.is_meta and not _is_offloaded(module, name)]
    if empty:
        raise UnavailableError(
            f"The model is not wholly loaded; {len(empty)} tensors have no values: {listed(empty)}.",
            hint="The weights do not belong to this model, or the segmenter forgot these when it loaded.",
        )
    if fresh is not None:
        _compare(module, fresh())


def golden(segmenter: Segmenter, cache: Path) -> None:
    """Let the loaded model answer a picture whose mask is known, else one that it answered before.

    ``cache``: folder for first answers, one file per model revision, dtype and kind of picture.

    Raises `UnavailableError` when the answer has no mask, holds values that are not numbers, or is another one.
    """
    if isinstance(segmenter, VolumeSegmenter):
        _own_answer_to_volume(segmenter, segmenter, cache)
        return
    known = segmenter.golden()
    if known is None:
        _own_answer(segmenter, cache)
        return
    found = _labels(_predict(segmenter, known.frame), known.frame.options.threshold)
    score = dice(found, known.mask)
    if score < known.min_dice:
        raise UnavailableError(
            f"The model does not give the known mask of its golden image: Dice {score:.3f}, at least {known.min_dice} "
            "is expected.",
            hint="The weights, the segmenter's code or the device are not what they should be; try another device.",
        )


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Sorensen-Dice overlap of two label masks, 0 to 1: 2 |A and B| / (|A| + |B|) over pixels that are not background,
    where a pixel counts as shared if its labels are equal. 1 for two empty masks."""
    shared = np.count_nonzero((one == other) & (one > 0))
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * shared / total if total else 1.0


def _own_answer(segmenter: Segmenter, cache: Path) -> None:
    """Compare with the model's first answer on such a device, or remember this one as that."""
    frame = golden_picture()
    answer = _answer(segmenter, frame)
    if answer is None:
        return  # a model that speaks may rightly find nothing in this picture
    _compare_with_first(answer, cache / f"golden-{_subject(segmenter, frame.options)}.npy")


def _own_answer_to_volume(segmenter: Segmenter, volumes: VolumeSegmenter, cache: Path) -> None:
    """The same for a model of volumes, with its own most demanding one: it may take no other."""
    volume = volumes.probe_volume()
    volume = replace(volume, options=replace(volume.options, outputs=("probability",)))
    with _explained():
        found = volumes.predict_volume(volume, lambda *_: None)
    if found.probability is None:
        raise UnavailableError("The model gives no probabilities, which were asked for.", hint=SEGMENTERS_FAULT)
    _refuse_not_numbers(found.probability)
    _compare_with_first(found.probability, cache / f"golden-{_subject(segmenter, volume.options)}.npy")


def _compare_with_first(probability: NDArray[np.float32], path: Path) -> None:
    first = _remembered(path)
    if first is None or first.shape != probability.shape:
        _remember(path, probability)
        return
    apart = float(np.abs(probability - first.astype(np.float32)).mean())
    if apart > SAME_ANSWER:
        raise UnavailableError(
            f"The model's answer to a test picture is not the one it gave at first: its probabilities are {apart:.3f} "
            f"apart on average, at most {SAME_ANSWER} is expected of the same weights.",
            hint=f"A device that computes wrongly does this. If it was the first answer that was wrong, delete {path}.",
        )


def _subject(segmenter: Segmenter, options: Options) -> str:
    """What an answer belongs to: the model, how it computes, and what it was asked."""
    import torch

    info = segmenter.info()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    subject = (info.segmenter, info.revision, info.dtype, card, torch.__version__, options)
    return hashlib.sha256(repr(subject).encode()).hexdigest()[:16]


def _remembered(path: Path) -> NDArray[Any] | None:
    """None for an answer that is not there, or not whole: the cache may be deleted, so it may also be broken."""
    try:
        return np.asarray(np.load(path))
    except (OSError, ValueError, EOFError):
        return None


def _remember(path: Path, probability: NDArray[np.float32]) -> None:
    """Replicas may answer at the same time: each file appears whole, and the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{time.monotonic_ns()}")
    with temporary.open("wb") as file:
        np.save(file, probability.astype(np.float16))
    temporary.replace(path)


def golden_picture() -> Frame:
    """A grey picture with dark, bent lines, as vessels are; drawn, not drawn at random."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    picture = 150 + 40 * np.sin(rows / SIDE * np.pi) * np.cos(columns / SIDE)
    for shift, width in ((60, 3.0), (128, 5.0), (190, 2.0)):
        distance = np.abs(columns - shift - 25 * np.sin(rows / 40 + shift))
        picture -= 80 * np.exp(-((distance / width) ** 2))
    speech = Sa2va()
    options = Options(prompt=speech.prompt, draft=speech.draft, decode="forced", outputs=("probability",))
    return Frame(pixels=picture.clip(0, 255).astype(np.uint8), options=options)


def _answer(segmenter: Segmenter, frame: Frame) -> NDArray[np.float32] | None:
    """What the model computes for the frame, which must be numbers; None when it shows nothing."""
    if not isinstance(segmenter, OwnAnswer):
        return _predict(segmenter, frame).probability
    with _explained():
        answer = segmenter.own_answer(frame)
    _refuse_not_numbers(answer)
    return answer


def _predict(segmenter: Segmenter, frame: Frame) -> Prediction:
    """The answer to one frame, which must hold numbers."""
    with _explained():
        (prediction,) = segmenter.predict([frame])
    if prediction.probability is not None:
        _refuse_not_numbers(prediction.probability)
    return prediction


@contextmanager
def _explained() -> Iterator[None]:
    """Raise `UnavailableError` for what keeps a model from computing what it is tested with."""
    try:
        yield
    except (JobError, RuntimeError, MemoryError, ValueError) as error:
        why = "there is not enough memory" if is_memory_error(error) else f"{type(error).__name__}: {error}"
        raise UnavailableError(
            f"The model is loaded, but cannot compute its test picture: {why}.",
            hint='Try another device, or model.dtype = "float32".',
        ) from error


def _refuse_not_numbers(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise UnavailableError(
            "The model is loaded, but computes values that are not numbers.",
            hint='Try model.dtype = "float32"; if that is what it runs in, the weights or the device are broken.',
        )


def _labels(prediction: Prediction, threshold: float) -> NDArray[np.uint8]:
    """The mask as label values. Raises `UnavailableError` when there is none."""
    labels = prediction.label_values(threshold)
    if labels is None:
        raise UnavailableError(
            f"The model gives no mask for its golden image. It answered: {prediction.answer!r}.",
            hint="The weights or the segmenter's code are not what they should be.",
        )
    return labels


def _all_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
    yield from _attributes(module)


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that modules hold as plain attributes, also in lists, tuples and dicts: torch does not know of them."""
    import torch

    for path, part in module.named_modules():
        for key, value in vars(part).items():
            if key in {"_parameters", "_buffers", "_modules"}:
                continue
            for place, tensor in _inside(value):
                if isinstance(tensor, torch.Tensor):
                    yield f"{path}.{key}{place}".lstrip("."), tensor


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    else:
        yield "", value


def _unsaved(module: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint does not hold: non-persistent buffers and tensors held as plain attributes."""
    saved = module.state_dict(keep_vars=True).keys()
    buffers = {name: tensor for name, tensor in module.named_buffers() if name not in saved}
    return buffers | dict(_attributes(module))


def _compare(module: nn.Module, fresh: nn.Module) -> None:
    """Raise `UnavailableError` naming every such tensor that is not as the fresh module has it."""
    loaded, expected = _unsaved(module), _unsaved(fresh)
    wrong = [f"{name} is not there" for name in expected.keys() - loaded.keys()]
    wrong += [
        f"{name} {how}" for name in expected.keys() & loaded.keys() if (how := _differs(loaded[name], expected[name]))
    ]
    if wrong:
        raise UnavailableError(
            f"{len(wrong)} tensors that no checkpoint holds are not as a new model computes them: {listed(wrong)}.",
            hint="The library that loaded the model refilled them with other memory. Masks would be wrong.",
        )


def _differs(loaded: torch.Tensor, expected: torch.Tensor) -> str:
    """How the loaded tensor differs from the expected one; empty when it does not."""
    import torch

    if expected.is_meta:
        return "has no values in the fresh model to compare with"
    if loaded.shape != expected.shape:
        return f"is {tuple(loaded.shape)}, expected {tuple(expected.shape)}"
    here, there = loaded.detach().cpu(), expected.detach().cpu().to(loaded.dtype)
    if here.is_floating_point() or here.is_complex():
        same = torch.allclose(here, there, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    else:
        same = torch.equal(here, there)
    return "" if same else "has other values"


def _is_offloaded(module: nn.Module, name: str) -> bool:
    """Whether accelerate keeps the tensor's values in host memory and brings them when they are needed."""
    owner = module.get_submodule(name.rpartition(".")[0]) if "[" not in name else module
    hook = getattr(owner, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ())))
