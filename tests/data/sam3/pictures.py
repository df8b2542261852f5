"""The pictures of which ``record.py`` records what the processor makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 56
SIZES = ((1, 5), (56, 56), (40, 71), (123, 60), (512, 512), (1008, 1008), (1100, 1300))
"""(height, width): smaller, as it is, larger, both ways."""


def picture(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Waves with noise in colour, uint8 (height, width, 3)."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    waves = np.stack([(rows * 7 + columns * 3 * (channel + 1)) % 256 for channel in range(3)], axis=-1)
    noise = np.random.default_rng(size[0] * 4096 + size[1]).integers(-40, 41, waves.shape)
    return (waves + noise).clip(0, 255).astype(np.uint8)
