"""The segmenter that needs no weights: dark vessels by oriented line filters, on X-ray angiograms and fundus images.

What is measured of it stands in ``benchmarks/vesselness_dice.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from watcherd.inference.base import Frame, Golden, ModelInfo, Prediction
from watcherd.inference.segmenters.ridges import absorption, connected, dark_lines, field_of_view, local_contrast
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from watcherd.config import Model
    from watcherd.inference.base import Mark, Placement
    from watcherd.inference.segmenters.ridges import Area, Map

REVISION = "1"
"""Counts up whenever masks may change."""

COLOURFUL = 12
"""Mean difference between a pixel's channels from which a picture is a colour photograph: fundus images have 60 and
more, grey frames stored as RGB 0, with burned-in coloured text 1 or 2."""

COARSE = 256
"""Longer side in pixels at which the field of view is looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How vessels look in one kind of image. All lengths are pixels after the picture is scaled to ``size``.

    ``size``: of the field of view's longer side (``by_field``) or of the picture's, whose part a collimator hides.
    ``sigmas``: half the vessels' widths. ``elongation``, ``reach``: see `ridges.dark_lines`. ``radius``, ``floor``,
    ``locality``: see `ridges.local_contrast`. ``margin``: taken off at the field's rim.
    ``middle``: the filter's answer that becomes probability 0.5. ``steepness``: the odds are the answer over ``middle``
    to this power (fitted by likelihood). ``seed``: a part of the mask is kept where it holds an answer of this many
    times the threshold's.
    ``smallest``: share of the picture that a part of the mask must have.
    """

    size: int
    by_field: bool
    sigmas: tuple[float, ...]
    elongation: float
    reach: int
    radius: int
    floor: float
    locality: float
    margin: int
    middle: float
    steepness: float
    seed: float
    smallest: float


FUNDUS = Recipe(
    size=400,
    by_field=True,
    sigmas=(1.2, 2.2),
    elongation=3.5,
    reach=2,
    radius=16,
    floor=3.3,
    locality=1,
    margin=3,
    middle=0.231,
    steepness=4,
    seed=1.5,
    smallest=0.0001,
)
"""Fitted on children 01 to 10 of CHASE_DB1."""

XRAY = Recipe(
    size=300,
    by_field=False,
    sigmas=(2, 3.5),
    elongation=3.5,
    reach=3,
    radius=30,
    floor=2.2,
    locality=0.3,
    margin=5,
    middle=0.275,
    steepness=3,
    seed=2,
    smallest=0.006,
)
"""Fitted on made-up angiograms (``training/synth``) at two magnifications; no real one was at hand."""


def create(config: Model) -> Vesselness:  # noqa: ARG001 - every segmenter is made from the configuration
    """The segmenter; it has nothing to configure but the options of each scan."""
    return Vesselness()


class Vesselness:
    """See `watcherd.inference.base.Segmenter`."""

    def info(self) -> ModelInfo:
        return ModelInfo(segmenter="vesselness", model="vesselness", revision=REVISION, dtype="float32")

    def load(self, placement: Placement, mark: Mark) -> None:
        """There are no weights: NumPy and SciPy compute on the CPU, wherever the replica is placed."""
        del placement
        mark("ready", 1.0)

    def batch_key(self, frame: Frame) -> Hashable:
        return frame.pixels.shape

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        return [_predict(frame) for frame in frames]

    def golden(self) -> Golden:
        """A drawn tree of three tubes on an uneven background with a dark border."""
        return _golden()


def _predict(frame: Frame) -> Prediction:
    recipe = _recipe(frame)
    answer = _answers(frame.pixels, recipe)
    threshold = frame.options.threshold
    with np.errstate(over="ignore"):
        odds = (answer / np.float32(recipe.middle)) ** np.float32(recipe.steepness)
    probability = odds / (1 + odds)
    weak = probability > threshold
    strong = weak & (odds > recipe.seed**recipe.steepness * threshold / max(1 - threshold, 1e-6))
    mask = connected(weak, strong, recipe.smallest * answer.size)
    return Prediction(probability=probability, mask=mask.astype(np.uint8), labels=("vessel",))


def _recipe(frame: Frame) -> Recipe:
    if frame.options.kind == "auto":
        return FUNDUS if is_colourful(frame.pixels) else XRAY
    return FUNDUS if frame.options.kind == "fundus" else XRAY


def is_colourful(pixels: NDArray[np.uint8]) -> bool:
    """Whether this is a colour photograph, not grey values with a coloured mark on them."""
    if pixels.ndim == 2:
        return False
    red, green, blue = (pixels[::4, ::4, channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return bool(spread.mean() > COLOURFUL)


def _answers(pixels: NDArray[np.uint8], recipe: Recipe) -> Map:
    """The line filter's answer at the picture's own size."""
    grey, bright = _channels(pixels, recipe)
    longer = max(grey.shape)
    field = field_of_view(_scaled(bright, COARSE / longer), margin=0)
    measured = _extent(field) * longer / max(field.shape) if recipe.by_field else longer
    small = _scaled(grey, recipe.size / measured)
    inside = field_of_view(_scaled(bright, recipe.size / measured), recipe.margin)
    depth = absorption(small, inside)
    contrast = local_contrast(depth, inside, radius=recipe.radius, floor=recipe.floor, locality=recipe.locality)
    lines = dark_lines(contrast, sigmas=recipe.sigmas, elongation=recipe.elongation, reach=recipe.reach)
    return _resized(lines * inside, grey.shape)


def _channels(pixels: NDArray[np.uint8], recipe: Recipe) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Where vessels are darkest, and where the field of view is brightest. Blood absorbs green light most."""
    if pixels.ndim == 2:
        return pixels, pixels
    if recipe is FUNDUS:
        return pixels[..., 1], np.maximum(pixels[..., 0], pixels[..., 1])
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    return grey, grey


def _extent(field: Area) -> int:
    """The longer side of the field's bounding box."""
    return int(max(np.ptp(np.flatnonzero(field.any(axis=side))) for side in (0, 1))) + 1


def _scaled(values: NDArray[np.uint8], factor: float) -> Map:
    height, width = values.shape
    return _resized(values, (max(1, round(height * factor)), max(1, round(width * factor))))


def _resized(values: NDArray[np.generic], shape: tuple[int, ...]) -> Map:
    """At another size, averaged when smaller and linear when larger."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _golden() -> Golden:
    side = 256
    down, right = np.mgrid[0:side, 0:side].astype(np.float32)
    lines = (
        (right - 128 - 30 * np.sin(down / 50), 5.0),
        (down - 60 - 0.4 * right, 3.5),
        (down - 200 + 0.3 * right - 12 * np.sin(right / 30), 3.0),
    )
    tube = np.max([1 - np.abs(distance) / half for distance, half in lines], axis=0)
    light = 150 + 40 * np.sin(right / 90) + 20 * np.cos(down / 70)
    picture = light * np.exp(-0.5 * np.sqrt(np.clip(tube, 0, 1)))
    inside = np.hypot(down - side / 2, right - side / 2) < side * 0.48
    pixels = np.where(inside, picture, 5).round().astype(np.uint8)
    return Golden(
        frame=Frame(pixels=pixels, options=Options(kind="xray")),
        mask=((tube > 0) & inside).astype(np.uint8),
        min_dice=0.85,
    )
