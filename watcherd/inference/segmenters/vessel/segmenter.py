"""The segmenter around the network: kind, field, scale, polarity, windows, clean-up.

A frame's way: its kind and field are found (`picture`), it is scaled so that its field has the size at which the
network sees vessels best, at two such sizes; the logits are averaged, the kind's border is moved to 0.5, and the map
goes back to the frame's own size. So the frame's number of pixels does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from watcherd.errors import InputError, UnavailableError
from watcherd.inference import folders
from watcherd.inference.base import Frame, Golden, ModelInfo, Prediction
from watcherd.inference.segmenters.vessel import picture
from watcherd.inference.segmenters.vessel.network import MULTIPLE, build, inputs, unpacked
from watcherd.inference.segmenters.vessel.recipe import CONFIG, WEIGHTS, Recipe, revision
from watcherd.inference.windows import slide
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from watcherd.inference.base import Mark, Placement
    from watcherd.inference.segmenters.vessel.picture import Kind
    from watcherd.inference.segmenters.vessel.recipe import Manner

Answers: TypeAlias = "dict[tuple[tuple[int, int], int], Tensor]"
"""Logits by the size of the network's input and the network."""

PACKAGED = Path(__file__).parent
MARGIN = 0.012
"""Share of the field's longest side next to its border where a mask has no pixels: rims look like vessels."""
INVERTED = 2.0
"""Bright vessels are believed in when the inverted frame shows this many times as much vessel as the frame itself."""
SMALLEST_SIDE = 16
STRANGE: Final[dict[Kind, str]] = {
    "xray": "by its outline it may be no angiogram, and the model was made for no other grey pictures",
    "fundus": "by its outline or colour it may be no photograph of the fundus, and the model was made for no others",
}
"""What a record says of pictures for which the model was probably not made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What was found out about a frame: its kind, one grey channel (h, w), and its field at the coarse copy's size.

    ``is_strange``: nobody has told of what kind it is, and it does not look like either.
    """

    kind: Kind
    grey: NDArray[np.uint8]
    field: NDArray[np.bool_]
    is_strange: bool

    def sizes(self, manner: Manner) -> tuple[tuple[int, int], ...]:
        """(height, width) at the network's input, for each of the manner's sides."""
        rows, columns = np.flatnonzero(self.field.any(1)), np.flatnonzero(self.field.any(0))
        extent = max(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) / max(self.field.shape)
        if self.kind == "xray":
            # Blades leave the scale as it is, and the frames of one run must share a batch: in coarse steps.
            extent = max(math.ceil(extent * 4) / 4, 0.75)
        height, width = self.grey.shape
        unit = max(height, width) * max(extent, 0.3)
        return tuple((_multiple(height * side / unit), _multiple(width * side / unit)) for side in manner.sides)


def look(frame: Frame) -> Sight:
    """Judge a frame; `InputError` when it is no picture or too small for one."""
    pixels = frame.pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise InputError(
            f"The vessel model takes 8-bit grey or RGB frames, not {pixels.dtype} of shape {pixels.shape}."
        )
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise InputError(
            f"The frame is only {pixels.shape[1]} x {pixels.shape[0]} pixels.",
            hint=f"The vessel model needs at least {SMALLEST_SIDE} pixels a side.",
        )
    told = None if frame.options.kind == "auto" else frame.options.kind
    told = told or picture.kind_by(frame.modality)
    kind = told or picture.kind_of(pixels)
    field = picture.field_of(pixels, kind)
    strange = told is None and picture.is_made_for(frame.modality) and not picture.is_like(kind, pixels, field)
    return Sight(kind=kind, grey=picture.grey_of(pixels, kind), field=field, is_strange=strange)


class VesselSegmenter:
    """A `Segmenter` and `Placeable` for a folder with `config.json` and `model.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._recipe = Recipe.read(folder)
        self._nets: nn.ModuleList | None = None
        self._device = torch.device("cpu")
        self._dtype = torch.float32
        self._layout = torch.contiguous_format

    def info(self) -> ModelInfo:
        return ModelInfo(
            segmenter="vessel",
            model=self._recipe.name if self._folder == PACKAGED else str(self._folder),
            revision=self._revision,
            dtype=str(self._dtype).removeprefix("torch."),
            parameters=self._parameters,
        )

    @cached_property
    def _revision(self) -> str:
        return revision(self._folder)

    @cached_property
    def _parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    def load(self, placement: Placement, mark: Mark) -> None:
        """Read the weights onto the first device; the network is far too small to be split."""
        from safetensors.torch import load_file

        mark("reading the weights", None)
        folders.refuse_faulty([self._folder / WEIGHTS])
        self._device = torch.device(placement.devices[0])
        self._dtype = getattr(torch, placement.dtype)
        nets = self._build()
        try:
            nets.load_state_dict(unpacked(load_file(self._folder / WEIGHTS)))
        except (RuntimeError, OSError, ValueError) as error:
            raise UnavailableError(
                f"The weights in {self._folder / WEIGHTS} do not fit its config.json: {error}",
                hint="Both files must come from the same export.",
            ) from error
        self._nets = nets.eval().requires_grad_(False).to(self._device, self._dtype)
        if self._device.type == "cpu":  # a third quicker there; on a GPU every group norm would undo it
            self._layout = torch.channels_last
        self._nets.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch knows it, its types do not
        mark("weights in place", 1.0)

    def skeleton(self) -> nn.Module:
        with torch.device("meta"):
            return self._build()

    def _build(self) -> nn.ModuleList:
        recipe = self._recipe
        try:
            return build(recipe.network, members=recipe.members, architecture=recipe.architecture)
        except (TypeError, ValueError) as error:
            raise UnavailableError(
                f"{self._folder / CONFIG} describes a network that {recipe.architecture} cannot be: {error}",
                hint="docs/vessel-model.md lists its keys; training/export.py writes it.",
            ) from error

    def no_split(self) -> tuple[str, ...]:
        return (self._recipe.architecture,)

    def reserve_gib(self, batch_size: int) -> float:
        """Measured on a CPU: 0.31 GiB for a photograph at sides of 512 and 640, most of it the first level's."""
        return 0.1 + 0.4 * batch_size

    def batch_key(self, frame: Frame) -> Hashable:
        sight = look(frame)
        return sight.kind, sight.grey.shape, sight.sizes(self._recipe.manners[sight.kind]), frame.options.tta

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        if self._nets is None:
            raise UnavailableError("The vessel model was asked for a mask before it was loaded.")
        sights = [look(frame) for frame in frames]
        with torch.inference_mode():
            maps, inverted = self._maps(sights, tta=frames[0].options.tta)
        return [
            self._prediction(frame, sight, probability, turned)
            for frame, sight, probability, turned in zip(frames, sights, maps, inverted, strict=True)
        ]

    def golden(self) -> Golden | None:
        """The folder's ``golden.png`` with the mask that the model gave for it when it was exported."""
        image, mask = self._folder / "golden.png", self._folder / "golden-mask.png"
        if not (image.is_file() and mask.is_file()):
            return None
        pixels, labels = (np.asarray(Image.open(path).convert("L")) for path in (image, mask))
        return Golden(frame=Frame(pixels=pixels, options=Options(kind="xray")), mask=(labels > 127).astype(np.uint8))

    def _maps(self, sights: list[Sight], *, tta: bool) -> tuple[list[NDArray[np.float32]], list[bool]]:
        """Probabilities at the frames' own size, and which frames were taken inverted."""
        kind = sights[0].kind
        manner = self._recipe.manners[kind]
        grey = torch.stack([torch.tensor(sight.grey)[None] for sight in sights]).to(self._device).float() / 255
        field = torch.stack([torch.tensor(sight.field)[None] for sight in sights]).to(self._device).float()
        sizes = sights[0].sizes(manner)
        inverted = [False] * len(sights)
        known: Answers = {}
        if kind == "xray":
            [glance] = sights[0].sizes(replace(manner, sides=(manner.glance or min(manner.sides),)))
            key = (glance, manner.members[0])
            dark, bright = (self._logits(turned, field, key[0], kind, key[1:]) for turned in (grey, 1 - grey))
            inverted = _bright_vessels(dark, bright)
            grey = torch.where(torch.tensor(inverted, device=grey.device).view(-1, 1, 1, 1), 1 - grey, grey)
            if not any(inverted):
                known[key] = dark
        size = max(sizes)
        logits = torch.stack(
            [scaled(self._logits(grey, field, at, kind, manner.members, known, tta=tta), size) for at in sizes]
        ).mean(0)
        # A frame of one single level shows nothing, and networks dream when they are shown nothing.
        shows = (grey.amax((2, 3), keepdim=True) > grey.amin((2, 3), keepdim=True)).float()
        inside = scaled(field, size, nearest=True) * shows
        probability = torch.sigmoid((logits - manner.shift) * manner.slope) * inside
        full = scaled(probability, (grey.shape[-2], grey.shape[-1])).clamp(0, 1)
        return list(full[:, 0].cpu().numpy()), inverted

    def _logits(
        self,
        grey: Tensor,
        field: Tensor,
        size: tuple[int, int],
        kind: Kind,
        members: tuple[int, ...],
        known: Answers | None = None,
        *,
        tta: bool = False,
    ) -> Tensor:
        """The networks' mean answer at one scale, (batch, 1, *size). ``known``: answers that need no computing."""
        flag = torch.full((len(grey),), float(kind == "xray"), device=grey.device)
        given = inputs(scaled(grey, size), scaled(field, size, nearest=True), flag).to(self._dtype)
        flips: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3)) if tta else ((),)
        answers = [
            known[size, member]
            if known and not flip and (size, member) in known
            else self._windows(given.flip(flip).contiguous(memory_format=self._layout), member).float().flip(flip)
            for flip in flips
            for member in members
        ]
        return torch.stack(answers).mean(0)

    def _windows(self, given: Tensor, member: int) -> Tensor:
        """One network over the whole picture at once, or in overlapping windows where it is long."""
        assert self._nets is not None
        net = self._nets[member]
        window = tuple(min(side, self._recipe.window) for side in given.shape[-2:])
        if window == tuple(given.shape[-2:]):
            return cast("Tensor", net(given))
        return slide(
            given.float(),
            (window[0], window[1]),
            lambda part: net(part.to(self._dtype).contiguous(memory_format=self._layout)).float(),
            overlap=self._recipe.overlap,
        )

    def _prediction(self, frame: Frame, sight: Sight, probability: NDArray[np.float32], inverted: bool) -> Prediction:
        smallest = self._recipe.manners[sight.kind].smallest
        mask = cleaned(probability > frame.options.threshold, within(sight.field, probability.shape), smallest=smallest)
        note = f"taken as {sight.kind}, {_told(frame)}"
        note += "; vessels brighter than their surroundings" if inverted else ""
        if not picture.is_made_for(frame.modality):
            known = frame.modality if frame.modality in picture.OTHERS | picture.RADIOGRAPHY else "that its file names"
            note += f"; the model was not made for pictures of the modality {known}"
        elif sight.is_strange:
            note += f"; {STRANGE[sight.kind]}"
        return Prediction(probability=probability, mask=mask.astype(np.uint8), labels=("vessel",), note=note)


def _told(frame: Frame) -> str:
    """Who says of what kind a frame is."""
    if frame.options.kind != "auto":
        return "as its profile says"
    return "as its file says" if picture.kind_by(frame.modality) else "found out by itself"


def _bright_vessels(dark: Tensor, bright: Tensor) -> list[bool]:
    """Whether each frame shows vessels brighter than what is around them: logits of the frames and of their inverse."""
    d, b = ((torch.sigmoid(logits) - 0.5).clamp_min(0).mean((1, 2, 3)).tolist() for logits in (dark, bright))
    return [shown > INVERTED * expected + 0.002 for expected, shown in zip(d, b, strict=True)]


def scaled(values: Tensor, size: tuple[int, int], *, nearest: bool = False) -> Tensor:
    """(batch, 1, *size), averaged where it shrinks."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    if nearest:
        return functional.interpolate(values, size, mode="nearest-exact")
    return functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)


def within(field: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The field less its margin, at the frame's size. The frame's own edge is no border."""
    if field.all():
        return np.ones(shape, bool)
    steps = max(1, round(MARGIN * max(field.shape)))
    core = ndimage.binary_erosion(np.pad(field, steps, mode="edge"), iterations=steps)[steps:-steps, steps:-steps]
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(core).resize(size, Image.Resampling.NEAREST), dtype=bool)


def cleaned(mask: NDArray[np.bool_], field: NDArray[np.bool_], *, smallest: float) -> NDArray[np.bool_]:
    """``mask`` inside ``field``, without its connected parts (corners connect) smaller than a share of the field."""
    inside: NDArray[np.bool_] = mask & field
    labels, count = ndimage.label(inside, structure=np.ones((3, 3), int))
    if count == 0:
        return inside
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    keep = areas >= smallest * field.sum()
    keep[0] = False
    return np.asarray(keep[labels])


def _multiple(side: float) -> int:
    return max(32, MULTIPLE * math.ceil(side / MULTIPLE - 0.5))
