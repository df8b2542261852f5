"""From a frame to what the model was trained to see, as ``preprocessor_config.json`` says.

transformers' own image processors need torchvision or go through Pillow picture by picture; the few steps that
segmentation models use are done here for a whole batch, on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from watcherd.errors import ConfigError, InputError
from watcherd.inference.segmenters.semantic import processor
from watcherd.inference.segmenters.semantic.scaling import Exact, ShorterSide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from watcherd.config import Semantic
    from watcherd.inference.base import Frame

BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers for them, which stand in the files."""
ELONGATED = 4
"""How many windows long a whole picture may become where the processor sets no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How one frame goes through the model: scaled to ``size``, then whole or window by window. (height, width)."""

    size: tuple[int, int]
    sliding: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a picture must look for the model.

    ``window``: the model's own input, (height, width). ``tiles``: larger pictures are seen window by window, instead
    of shrunk. ``scaling``: what a whole picture is scaled to. ``placing``: how it then fits a model that only sees
    ``window``: padded below and to the right, or split into pieces along its longer side. ``scale``, ``mean``, ``std``:
    values become (value * scale - mean) / std, per channel. ``blue_first``: channels are turned round.
    """

    window: tuple[int, int]
    tiles: bool
    scaling: Exact | ShorterSide
    placing: Literal["as it is", "padded", "split"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bicubic: bool
    blue_first: bool
    shifted_labels: bool

    @classmethod
    def read(cls, folder: Path, setting: Semantic, model_type: str) -> Self:
        """From the model folder, with the window that the configuration asks for, if it does.

        Raises `ConfigError` when the folder does not say how pictures are prepared, or says what is not followed:
        guessing would change masks.
        """
        said = processor.read(folder, model_type)
        placing = _placing(said, folder)
        scaling = _scaling(said, setting.window, folder, limited=placing != "split")
        normalizes = bool(said.get("do_normalize", said["kind"] != "MobileViTImageProcessor"))
        mean = _channels(said.get("image_mean")) if normalizes else (0.0,)
        std = _channels(said.get("image_std")) if normalizes else (1.0,)
        if not mean or not std:
            raise ConfigError(f"The image processor in {folder} normalises, but names no image_mean and image_std.")
        resample = said.get("resample", BILINEAR)
        if resample not in (BILINEAR, BICUBIC):
            raise ConfigError(
                f"The image processor in {folder} has resample = {resample!r}; followed are {BILINEAR} (bilinear) and "
                f"{BICUBIC} (bicubic)."
            )
        return cls(
            window=scaling.window,
            tiles=setting.larger == "tile",
            scaling=scaling,
            placing=placing,
            scale=float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
            mean=mean,
            std=std,
            bicubic=resample == BICUBIC,
            blue_first=bool(said.get("do_flip_channel_order")),
            shifted_labels=bool(said.get("do_reduce_labels", said.get("reduce_labels", False))),
        )

    def geometry(self, height: int, width: int) -> Geometry:
        """How a frame of this size, in pixels, goes through."""
        if self.tiles and (height > self.window[0] or width > self.window[1]):
            factor = max(1.0, self.window[0] / height, self.window[1] / width)
            return Geometry(size=(round(height * factor), round(width * factor)), sliding=True)
        return Geometry(size=self.scaling.of(height, width), sliding=False)

    def prepare(self, frames: Sequence[Frame], size: tuple[int, int], device: torch.device) -> torch.Tensor:
        """The frames as one float32 tensor (frames, 3, *size), scaled and normalised on ``device``.

        Raises `InputError` for pixels that are not what `Frame` promises.
        """
        import torch

        mean, std = _on_device(self.mean, device), _on_device(self.std, device)
        shapes = {frame.pixels.shape for frame in frames}
        groups = [frames] if len(shapes) == 1 else [[frame] for frame in frames]
        scaled = [self._scaled(_pixels(group, device), size, device) for group in groups]
        if len(groups) > 1:
            scaled = [each.expand(-1, 3, -1, -1) for each in scaled]  # some may be grey, others in colour
        pictures = torch.cat(scaled) * self.scale
        if self.blue_first:
            pictures = pictures.flip(1)
        return ((pictures - mean) / std).expand(-1, 3, -1, -1)

    def padded(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures that `prepare` gave, with black below and to the right up to the window."""
        mean, std = _on_device(self.mean, pictures.device), _on_device(self.std, pictures.device)
        canvas = (-mean / std).expand(len(pictures), 3, *self.window).clone()
        canvas[..., : pictures.shape[-2], : pictures.shape[-1]] = pictures
        return canvas

    def _scaled(self, pixels: torch.Tensor, size: tuple[int, int], device: torch.device) -> torch.Tensor:
        from torch.nn.functional import interpolate

        pictures = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        if pictures.shape[-2:] == size:
            return pictures
        mode = "bicubic" if self.bicubic else "bilinear"
        for step in _steps((pictures.shape[-2], pictures.shape[-1]), size):
            # Whole values after each step, halves up, as Pillow has them.
            scaled = interpolate(pictures, size=step, mode=mode, antialias=True)
            pictures = scaled.add_(0.5).floor_().clamp_(0, 255)
        return pictures


def _steps(old: tuple[int, int], new: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) after each step in which Pillow scales: one side after the other.

    The width comes first, unless the height loses more than twice as many pixels (Pillow's ``ImagingResampleInner``).
    """
    shrinks = old[0] - new[0]
    between = (new[0], old[1]) if shrinks > 0 and shrinks > 2 * (old[1] - new[1]) else (old[0], new[1])
    return [step for step, last in ((between, old), (new, between)) if step != last]


def _pixels(frames: Sequence[Frame], device: torch.device) -> torch.Tensor:
    """Frames of one shape as (frames, height, width, 1 or 3), in memory that a GPU reads by itself if it is for one."""
    import torch

    shape = frames[0].pixels.shape
    if frames[0].pixels.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        raise InputError(f"A frame of {frames[0].pixels.dtype} {shape} is neither grey nor RGB in 8 bits.")
    stacked = torch.empty((len(frames), *shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack([frame.pixels for frame in frames], out=stacked.numpy())
    return stacked if stacked.ndim == 4 else stacked[..., None]


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A value for each channel, as (1, channels, 1, 1). Kept: to send them anew would wait for the batch under way."""
    import torch

    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _placing(said: Mapping[str, Any], folder: Path) -> Literal["as it is", "padded", "split"]:
    """How a whole picture fits EoMT, which sees squares of one size only; other models take pictures as they are.

    Raises `ConfigError` for settings by which transformers' processor gives something else than squares.
    """
    if said["kind"] != "EomtImageProcessor":
        return "as it is"
    size = _size(said)
    shorter, longer = size.get("shortest_edge"), size.get("longest_edge")
    splits, pads = bool(said.get("do_split_image")), bool(said.get("do_pad"))
    if splits and not pads and shorter and not longer:
        return "split"
    if pads and not splits and shorter and shorter == longer:
        return "padded"
    if not splits and not pads and not shorter and size.get("height") == size.get("width"):
        return "as it is"
    raise ConfigError(
        f"The image processor in {folder} does not give the squares that EoMT needs: do_split_image = {splits}, "
        f"do_pad = {pads}, size = {size!r}.",
        hint="Set do_split_image with a shortest_edge alone, or do_pad with an equal shortest_edge and longest_edge.",
    )


def _scaling(said: Mapping[str, Any], window: int, folder: Path, *, limited: bool) -> Exact | ShorterSide:
    """The processor's size; ``window``: the configuration's instead, if not 0. Raises `ConfigError` for other sizes."""
    size = _size(said)
    divisor = int(said.get("size_divisor") or 1)
    if {"height", "width"} == size.keys():
        height, width = (window, window) if window else (int(size["height"]), int(size["width"]))
        multiple = int(said.get("ensure_multiple_of") or 1)
        return Exact(height=_nearest(height, multiple), width=_nearest(width, multiple), divisor=divisor)
    if "shortest_edge" in size and size.keys() <= {"shortest_edge", "longest_edge"}:
        side = window or int(size["shortest_edge"])
        longest = size.get("longest_edge") or (ELONGATED * side if limited else None)
        return ShorterSide(side=side, longest=max(int(longest), side) if longest else None, divisor=divisor)
    raise ConfigError(
        f"The image processor in {folder} names the size {said.get('size')!r}; understood are a number, height and "
        "width, or shortest_edge with or without longest_edge."
    )


def _nearest(pixels: int, multiple: int) -> int:
    return max(multiple, round(pixels / multiple) * multiple)


def _size(said: Mapping[str, Any]) -> dict[str, Any]:
    """The size as transformers understands its older forms: one number, or two."""
    size = said.get("size")
    if isinstance(size, list | tuple) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    if isinstance(size, int):
        if said.get("default_to_square", True):
            return {"height": size, "width": size}
        return {"shortest_edge": size, "longest_edge": said.get("max_size")}
    return {key: value for key, value in size.items() if value is not None} if isinstance(size, dict) else {}


def _channels(values: Any) -> tuple[float, ...]:
    """A value for each channel; a single one counts for all. Empty when there is none."""
    return (float(values),) if isinstance(values, int | float) else tuple(map(float, values or ()))
