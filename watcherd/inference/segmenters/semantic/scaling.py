"""The size in pixels that an image processor scales a picture to. Pure arithmetic, as transformers does it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """Every picture becomes ``height`` x ``width``, rounded up to multiples of ``divisor``."""

    height: int
    width: int
    divisor: int = 1

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of the model's own input."""
        return _up(self.height, self.divisor), _up(self.width, self.divisor)

    def of(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002 - the same whatever the picture's size
        """(height, width) for a picture of this size."""
        return self.window


@dataclass(frozen=True, kw_only=True, slots=True)
class ShorterSide:
    """Pictures keep their shape: the shorter side becomes ``side``, unless the longer one passes ``longest`` by that.

    Both sides are then rounded up to multiples of ``divisor``. As `transformers.image_transforms`'
    ``get_size_with_aspect_ratio``.
    """

    side: int
    longest: int | None = None
    divisor: int = 1

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of the model's own input."""
        return _up(self.side, self.divisor), _up(self.side, self.divisor)

    def of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) for a picture of this size."""
        shorter, longer = min(height, width), max(height, width)
        exact, side = float(self.side), self.side
        if self.longest is not None and longer / shorter * side > self.longest:
            exact = self.longest * shorter / longer
            side = round(exact)
        stretched = longer if shorter == side else int(exact * longer / shorter)
        sides = (stretched, side) if width < height else (side, stretched)
        return _up(max(1, sides[0]), self.divisor), _up(max(1, sides[1]), self.divisor)


def starts(length: int, side: int) -> list[int]:
    """Where pieces of ``side`` pixels begin that cover ``length``: as few as there can be, evenly overlapping.

    As transformers' EoMT processor cuts pictures; but the last piece always ends where the picture does.
    """
    count = math.ceil(length / side)
    if count < 2:
        return [0]
    step = side - (count * side - length) / (count - 1)
    return [*(int(number * step) for number in range(count - 1)), length - side]


def _up(pixels: int, divisor: int) -> int:
    return math.ceil(pixels / divisor) * divisor
