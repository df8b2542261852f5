"""Seeing whole pictures in patches, as Qwen-VL does: at their own aspect ratio, at a size within limits.

Pictures are resized twice, as the reference code does it: once by Pillow to multiples of 28 pixels, then by torch's
antialiased bicubic on 8 bits to multiples of two patches, between `LEAST` and `MOST` pixels. The second is what
torchvision does, without it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from watcherd.errors import ConfigError, InputError, UnavailableError
from watcherd.inference.segmenters.sa2va.eyes import Seen
from watcherd.inference.segmenters.sa2va.families import MERGE
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import channels, colour, upload
from watcherd.inference.segmenters.sa2va.qwen_vl import Grid, layout_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.families import Family
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

FIRST = 28
"""Pixels of which the first resizing makes multiples, in both families."""
FIRST_LEAST, FIRST_MOST = 4 * FIRST**2, 16384 * FIRST**2
"""Pixels of a picture behind the first resizing: qwen-vl-utils' own limits."""
LEAST, MOST = 512 * FIRST**2, 2048 * FIRST**2
"""Pixels of a picture behind the second resizing: Sa2VA's own limits, the same for patches of either size."""
MOST_RATIO = 200
"""Longest side over the shortest of a picture that is taken."""
FRAMES = 2
"""Frames that a patch holds: a still picture's is there twice."""

PATCHES_AT_ONCE = 32_768
"""Patches that go through the tower together, unless a single picture has more: four of the largest pictures."""
SMALL, MEDIUM = 700, 1400
"""Visual tokens up to which a picture counts as small and as medium."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resized:
    """A picture's pixels (height, width, 3) at the size at which it is seen, and its ``grid`` of patches."""

    pixels: NDArray[np.uint8]
    grid: Grid


class PatchedEyes:
    """Sees for a family whose tower takes patches."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def prepare(self, pixels: NDArray[np.uint8]) -> Resized:
        """The picture as it is seen. Raises `InputError` for one that is far too long."""
        height, width = pixels.shape[:2]
        first, second = sizes(height, width, MERGE * self._family.patch)
        picture = Image.fromarray(colour(pixels)).resize(first[::-1], Image.Resampling.BICUBIC)
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].contiguous()
        resized = functional.interpolate(planes, size=second, mode="bicubic", antialias=True, align_corners=False)
        patch = self._family.patch
        whole = resized[0].permute(1, 2, 0).numpy()
        return Resized(pixels=whole, grid=(second[0] // patch, second[1] // patch))

    prepare_frame = prepare
    """The same for a frame of a run."""

    def block(self, picture: Resized) -> tuple[int, int]:
        """What stands for the picture in a prompt: rows and columns of its visual tokens."""
        return (picture.grid[0] // MERGE, picture.grid[1] // MERGE)

    def size_class(self, width: int, height: int) -> str:
        """``small``, ``medium`` or ``large``, by how many visual tokens a picture of this size has."""
        unit = MERGE * self._family.patch
        _, (rows, columns) = sizes(height, width, unit)
        tokens = rows * columns // unit**2
        return "small" if tokens <= SMALL else "medium" if tokens <= MEDIUM else "large"

    def see(self, network: Sa2vaNetwork, pictures: Sequence[Resized]) -> list[Seen]:
        """The visual tokens of each picture, on the tower's device."""
        return [seen for part in _at_once(pictures) for seen in self._see(network, part)]

    def _see(self, network: Sa2vaNetwork, pictures: Sequence[Resized]) -> list[Seen]:
        tower: Any = network.vision
        device = device_of(tower)
        flat = torch.cat([self._patches(picture, device) for picture in pictures])
        layout = layout_for(tower, [picture.grid for picture in pictures])
        said = tower(flat.to(next(tower.parameters()).dtype), **layout.on(device))
        counts = [picture.grid[0] * picture.grid[1] // MERGE**2 for picture in pictures]
        layers = [said.pooler_output, *getattr(said, "deepstack_features", ())]
        each = zip(*(layer.split(counts) for layer in layers), strict=True)
        return [Seen(tokens=tokens, deep=tuple(deep)) for tokens, *deep in each]

    def _patches(self, picture: Resized, device: torch.device) -> torch.Tensor:
        """Normalised patches (patches, values) in float32: two by two neighbours behind one another."""
        mean, deviation = (
            # Multiplied in float32, as the reference code does it.
            channels(tuple(float(np.float32(value) * np.float32(255)) for value in values), device)
            for values in (self._family.mean, self._family.deviation)
        )
        planes = (upload([picture.pixels], device)[0] - mean) / deviation
        (rows, columns), patch = picture.grid, self._family.patch
        cut = planes.view(3, rows // MERGE, MERGE, patch, columns // MERGE, MERGE, patch)
        # To (row, column, row within, column within, channel, frame, height, width).
        cut = cut.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None].expand(-1, -1, -1, -1, -1, FRAMES, -1, -1)
        return cut.reshape(rows * columns, -1)


def refuse_other_looks(folder: Path, family: Family) -> None:
    """Raise `ConfigError` if the folder's processor would prepare pictures in another way than this family's does."""
    path = folder / "preprocessor_config.json"
    if family.sees != "patches" or not path.is_file():
        return
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}.", hint="Download it again.") from error
    expected = {
        "patch_size": family.patch,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "image_mean": list(family.mean),
        "image_std": list(family.deviation),
    }
    other = [f"{key} = {said[key]!r}" for key, wanted in expected.items() if said.get(key, wanted) != wanted]
    if other:
        raise ConfigError(
            f"{path} prepares pictures in another way than {family.name} does: {', '.join(other)}.",
            hint="Take the processor's files that were saved with this model.",
        )


@lru_cache(maxsize=1024)
def sizes(height: int, width: int, unit: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Heights and widths behind the first and the second resizing, the second to multiples of ``unit``.

    Raises `InputError` for a picture that is more than `MOST_RATIO` times as long as it is wide.
    """
    if max(height, width) > MOST_RATIO * min(height, width):
        raise InputError(
            f"The picture is {width} x {height} pixels; this model takes none whose sides differ by a factor of more "
            f"than {MOST_RATIO}."
        )
    first = fitted(height, width, FIRST, FIRST_LEAST, FIRST_MOST)
    return first, fitted(*first, unit, LEAST, MOST)


def fitted(height: int, width: int, unit: int, least: int, most: int) -> tuple[int, int]:
    """The nearest multiples of ``unit``, of about the same ratio, that have between ``least`` and ``most`` pixels."""
    near = (max(unit, round(height / unit) * unit), max(unit, round(width / unit) * unit))
    pixels = near[0] * near[1]
    if pixels > most:
        shrink = math.sqrt(height * width / most)
        down = (math.floor(side / shrink / unit) * unit for side in (height, width))
        return (max(unit, next(down)), max(unit, next(down)))
    if pixels < least:
        grow = math.sqrt(least / (height * width))
        return (math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit)
    return near


def _at_once(pictures: Sequence[Resized]) -> Iterator[list[Resized]]:
    """Parts of the pictures that go through the tower together."""
    part: list[Resized] = []
    count = 0
    for picture in pictures:
        patches = picture.grid[0] * picture.grid[1]
        if part and count + patches > PATCHES_AT_ONCE:
            yield part
            part, count = [], 0
        part.append(picture)
        count += patches
    if part:
        yield part
