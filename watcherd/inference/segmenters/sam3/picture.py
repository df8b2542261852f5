"""Frames as transformers' processor of SAM 3 prepares them, which needs torchvision; equal to it, bit for bit.

It scales in whole levels, by torch's own antialiased bilinear filter on the CPU: Pillow's differs by up to two levels.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from watcherd.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    import torch
    from numpy.typing import NDArray

    from watcherd.inference.base import Frame
    from watcherd.inference.segmenters.sam3.folder import Description


def prepare(frames: Sequence[Frame], how: Description, device: torch.device, threads: Executor) -> torch.Tensor:
    """The frames as float32 (frames, 3, side, side) on ``device``. The aspect ratio is not kept, as in training.

    ``threads``: where they are scaled, side by side. Raises `InputError` for pixels that are not what `Frame` promises.
    """
    import torch

    levels = torch.empty((len(frames), 3, how.side, how.side), dtype=torch.uint8, pin_memory=device.type == "cuda")
    list(threads.map(_fill, levels.numpy(), frames))
    pictures = levels.to(device, non_blocking=True).float()
    mean = _on_device(tuple(each * (1 / how.rescale) for each in how.mean), device)
    std = _on_device(tuple(each * (1 / how.rescale) for each in how.std), device)
    return (pictures - mean) / std


def _fill(place: NDArray[np.uint8], frame: Frame) -> None:
    np.copyto(place, _scaled(frame, place.shape[-1]))  # grey goes into all three


def _scaled(frame: Frame, side: int) -> NDArray[np.uint8]:
    """One frame as (3 or 1, side, side)."""
    import torch
    from torch.nn.functional import interpolate

    pixels = frame.pixels
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InputError(f"A frame of {pixels.dtype} {pixels.shape} is neither grey nor RGB in 8 bits.")
    own = torch.from_numpy(pixels.copy())  # the frame's are read-only, of which torch warns
    picture = own[None, None] if own.ndim == 2 else own.permute(2, 0, 1)[None]
    if picture.shape[-2:] == (side, side):
        scaled = picture
    else:
        scaled = interpolate(picture, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    levels: NDArray[np.uint8] = scaled[0].numpy()
    return levels


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A value for each channel, as (1, channels, 1, 1). Kept: to send them anew would wait for the batch under way."""
    import torch

    return torch.tensor(values, device=device).view(1, -1, 1, 1)
