"""Pictures to the inputs of both vision branches.

Resizing is Pillow's antialiased bicubic on 8 bits, as in the reference code: anything else moves masks. It happens on
the CPU, in threads; the bytes then go to the device, where they are normalised in float32. Nothing here waits for a
device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.tiling import best_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GROUNDING_SIDE = 1024
"""Side of SAM2's input in pixels; the aspect ratio is not kept."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def tiles_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The vision tower's tiles, (tiles, 448, 448) for a grey picture or (tiles, 448, 448, 3): row by row, then the
    thumbnail where there is more than one."""
    picture = Image.fromarray(pixels)
    columns, rows = best_grid(picture.width, picture.height)
    whole = np.asarray(picture.resize((columns * TILE, rows * TILE), Image.Resampling.BICUBIC))
    grid = whole.reshape(rows, TILE, columns, TILE, *whole.shape[2:]).swapaxes(1, 2)
    tiles = grid.reshape(rows * columns, TILE, TILE, *whole.shape[2:])
    if len(tiles) == 1:
        return tiles
    return np.concatenate([tiles, squashed(pixels, TILE)[None]])


def squashed(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture at ``side`` times ``side`` pixels, whatever its aspect ratio."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def stacked(pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """Pictures of one size on ``device`` as bytes, (n, height, width) where all are grey, else with a last axis of
    three."""
    return staged(pictures, device).to(device, non_blocking=True)


def staged(pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """The same on the host, where ``device`` can read it by itself."""
    if len({picture.ndim for picture in pictures}) > 1:
        pictures = [colour(picture) for picture in pictures]
    if device.type != "cuda":
        return torch.from_numpy(np.stack(pictures))
    # Written by NumPy: torch's own copy wakes threads that then look for more work for as long as a batch takes.
    host = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(pictures, out=host.numpy())
    return host


def as_rgb(pictures: torch.Tensor) -> torch.Tensor:
    """What `stacked` gives as float32 (n, 3, height, width) in 0..255; grey ones become RGB by repetition."""
    if pictures.ndim == 3:
        pictures = pictures[..., None].expand(-1, -1, -1, 3)
    return pictures.permute(0, 3, 1, 2).float()


def upload(pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    """Pictures of one size on ``device`` as float32 (n, 3, height, width) in 0..255."""
    return as_rgb(stacked(pictures, device))


def colour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB of a grey picture, by repetition; RGB as it is."""
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def for_vision(tiles: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Normalise tiles (n, 3, 448, 448) of 0..255 for the vision tower: in float32, then cast."""
    mean, std = channels(MEAN, tiles.device), channels(STD, tiles.device)
    return ((tiles / 255 - mean) / std).to(dtype)


def for_grounding(pictures: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Normalise pictures (n, 3, 1024, 1024) of 0..255 for SAM2.

    The constants are rounded to bfloat16 at every dtype, because the reference code does so and was trained with it.
    """
    mean, std = (channels(values, pictures.device).bfloat16().float() for values in (MEAN, STD))
    return ((pictures / 255 - mean) / std).to(dtype)


def channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A value for each channel, float32 (channels, 1, 1), on ``device``."""
    # On a GPU they stay: to bring them anew would make the host wait.
    return (_kept if device.type == "cuda" else _brought)(values, device)


def _brought(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values).to(device)[:, None, None]


_kept = lru_cache(maxsize=64)(_brought)
