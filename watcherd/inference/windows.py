"""Overlapping windows over pictures that are larger than what a network sees at once.

Positions and weights are those of MONAI's `sliding_window_inference` with ``mode="gaussian"``, whose import takes
longer than all else that a replica does before its first scan.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SPREAD = 0.125
"""Standard deviation of a window's weights, as a share of its side."""
LEAST = 1e-3
"""Weight below which no pixel of a window falls."""


def slide(
    pictures: Tensor, window: tuple[int, int], predict: Callable[[Tensor], Tensor], *, overlap: float, at_once: int = 1
) -> Tensor:
    """``predict`` over all of ``pictures`` (n, channels, height, width), window by window, blended.

    ``predict`` gives (k, classes, *window) for ``at_once`` windows or fewer. A picture smaller than the window is
    padded with zeros around it. Everything is added up in the pictures' dtype: give float32, for sums of half precision
    round away or overflow.
    """
    height, width = pictures.shape[-2:]
    room = [max(0, side - length) for side, length in zip(window, (height, width), strict=True)]
    top, left = room[0] // 2, room[1] // 2
    padded = functional.pad(pictures, (left, room[1] - left, top, room[0] - top))
    places = [starts(length, side, overlap) for length, side in zip(padded.shape[-2:], window, strict=True)]
    cuts = [
        (picture, slice(y, y + window[0]), slice(x, x + window[1]))
        for picture in range(len(pictures))
        for y, x in itertools.product(*places)
    ]
    weight = importance(window).to(pictures)
    sums, weights = None, torch.zeros_like(padded[:, :1])
    for first in range(0, len(cuts), at_once):
        some = cuts[first : first + at_once]
        found = predict(torch.stack([padded[picture, :, rows, columns] for picture, rows, columns in some]))
        if sums is None:
            sums = padded.new_zeros((len(padded), found.shape[1], *padded.shape[-2:]))
        for part, (picture, rows, columns) in zip(found, some, strict=True):
            sums[picture, :, rows, columns] += part * weight
            weights[picture, :, rows, columns] += weight
    assert sums is not None
    return (sums / weights)[..., top : top + height, left : left + width]


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows of ``side`` pixels begin; the last one is moved back to end where the picture does."""
    step = max(1, int(side * (1 - overlap)))
    places = [0]
    while places[-1] + side < length:
        places.append(min(places[-1] + step, length - side))
    return places


def importance(window: tuple[int, int]) -> Tensor:
    """What each pixel of a window counts, (height, width): a bell, never less than `LEAST`."""
    sides = []
    for side in window:
        away = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        sides.append(torch.exp(away**2 / (-2 * (SPREAD * side) ** 2)))
    bell = sides[0][:, None] * sides[1]
    return bell.clamp_min(max(float(bell.min()), LEAST))
