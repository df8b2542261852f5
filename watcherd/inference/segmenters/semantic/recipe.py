"""From a frame to what the model was trained to see, as ``preprocessor_config.json`` says.

transformers' own image processors need torchvision or go through Pillow picture by picture; the few steps that
segmentation models use are done here for a whole batch, on the device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from watcherd.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from watcherd.config import Semantic
    from watcherd.inference.base import Frame

BICUBIC = 3
"""Pillow's number for it, which stands in the files; 2 is bilinear."""
MULTIPLE = 32
"""Sides of pictures that keep their proportions are rounded to this, the stride of the models' deepest stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """How one frame goes through the model: scaled to ``size``, then whole or window by window. (height, width)."""

    size: tuple[int, int]
    sliding: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a picture must look for the model.

    ``window``: the model's own input, (height, width). ``tiles``: larger pictures are seen window by window, instead
    of shrunk. ``keeps_shape``: pictures are scaled by their shorter side,
    to at most ``longest`` pixels for the longer, instead of to the window exactly. ``scale``, ``mean``, ``std``:
    values become (value * scale - mean) / std, per channel.
    """

    window: tuple[int, int]
    tiles: bool
    keeps_shape: bool
    longest: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bicubic: bool
    shifted_labels: bool

    @classmethod
    def read(cls, folder: Path, setting: Semantic) -> Self:
        """From the model folder, with the window that the configuration asks for, if it does.

        Raises `ConfigError` when the folder does not say how pictures are prepared: guessing would change masks.
        """
        said = _processor(folder)
        height, width, keeps_shape = _size(said, folder)
        if setting.window:
            height = width = setting.window
        normalizes = bool(said.get("do_normalize", True))
        mean = tuple(map(float, said.get("image_mean") or ())) if normalizes else (0.0,)
        std = tuple(map(float, said.get("image_std") or ())) if normalizes else (1.0,)
        if not mean or not std:
            raise ConfigError(f"The image processor in {folder} normalises, but names no image_mean and image_std.")
        size = said.get("size")
        longest = size.get("longest_edge") if isinstance(size, dict) else None
        return cls(
            window=(height, width),
            tiles=setting.larger == "tile",
            keeps_shape=keeps_shape,
            longest=int(longest or 4 * max(height, width)),
            scale=float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0,
            mean=mean,
            std=std,
            bicubic=said.get("resample", 2) == BICUBIC,
            shifted_labels=bool(said.get("do_reduce_labels", said.get("reduce_labels", False))),
        )

    def geometry(self, height: int, width: int) -> Geometry:
        """How a frame of this size, in pixels, goes through."""
        if self.tiles and (height > self.window[0] or width > self.window[1]):
            factor = max(1.0, self.window[0] / height, self.window[1] / width)
            return Geometry(size=(round(height * factor), round(width * factor)), sliding=True)
        if not self.keeps_shape:
            return Geometry(size=self.window, sliding=False)
        factor = min(min(self.window) / min(height, width), self.longest / max(height, width))
        return Geometry(size=(_multiple(height * factor), _multiple(width * factor)), sliding=False)

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
        return ((pictures - mean) / std).expand(-1, 3, -1, -1)

    def _scaled(self, pixels: torch.Tensor, size: tuple[int, int], device: torch.device) -> torch.Tensor:
        from torch.nn.functional import interpolate

        pictures = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        if pictures.shape[-2:] == size:
            return pictures
        mode = "bicubic" if self.bicubic else "bilinear"
        return interpolate(pictures, size=size, mode=mode, antialias=True).clamp_(0, 255)


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


def _multiple(pixels: float) -> int:
    return max(MULTIPLE, round(pixels / MULTIPLE) * MULTIPLE)


def _processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings, from either of the files in which transformers keeps them."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            said = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: {folder / name} cannot be read: {error}.") from error
        settings = said.get("image_processor", said)
        return settings if isinstance(settings, dict) else said
    raise ConfigError(
        f"model.path = {str(folder)!r} has no preprocessor_config.json, which says how pictures are scaled.",
        hint="Download the whole model folder, or save the processor beside a model that you trained.",
    )


def _size(said: dict[str, Any], folder: Path) -> tuple[int, int, bool]:
    """Height, width, and whether pictures keep their proportions."""
    size = said.get("size")
    if isinstance(size, int):
        return size, size, False
    if isinstance(size, dict) and "height" in size and "width" in size:
        return int(size["height"]), int(size["width"]), False
    if isinstance(size, dict) and "shortest_edge" in size:
        return int(size["shortest_edge"]), int(size["shortest_edge"]), True
    raise ConfigError(
        f"The image processor in {folder} names the size {size!r}; understood are a number, height and width, or "
        "shortest_edge."
    )
