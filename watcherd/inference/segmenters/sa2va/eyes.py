"""The seam between pictures and the language model: how a family looks at pictures, and what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from watcherd.inference.segmenters.sa2va.config import TILE
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import as_rgb, for_vision, squashed, stacked, tiles_of
from watcherd.inference.segmenters.sa2va.tiling import count_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork
    from watcherd.inference.segmenters.sa2va.prompt import Block

TILES_AT_ONCE = 32
"""Tiles that go through the vision tower together."""

SMALL, MEDIUM = 1, 7
"""Tiles up to which a picture counts as small and as medium."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Visual tokens (n, D) of one picture, and what is added to them (n, D) behind each of the first layers."""

    tokens: torch.Tensor
    deep: tuple[torch.Tensor, ...] = ()


class Eyes(Protocol):
    """How a family looks at pictures. What `prepare` gives is the host's, and `see` alone knows what it is."""

    def prepare(self, pixels: NDArray[np.uint8]) -> Any:
        """A picture, resized; called in threads. Raises `InputError` for one that the family does not take."""

    def prepare_frame(self, pixels: NDArray[np.uint8]) -> Any:
        """One of the frames of a run that are asked about."""

    def block(self, picture: Any) -> Block:
        """What stands for a prepared picture in a prompt (`prompt.Words.prompt`)."""

    def see(self, network: Sa2vaNetwork, pictures: Sequence[Any]) -> list[Seen]:
        """What is seen in each, wherever the last part that looks at them is."""

    def size_class(self, width: int, height: int) -> str:
        """``small``, ``medium`` or ``large``: a batch's memory goes with how much its pictures become."""


class TiledEyes:
    """Sees tiles of one size; a prepared picture is an array of them, (tiles, 448, 448) or (tiles, 448, 448, 3)."""

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As many tiles as suit the picture's aspect ratio."""
        return tiles_of(pixels)

    def prepare_frame(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One tile, whatever the aspect ratio."""
        return squashed(pixels, TILE)[None]

    def block(self, picture: NDArray[np.uint8]) -> int:
        """How many tiles there are."""
        return len(picture)

    def size_class(self, width: int, height: int) -> str:
        """One tile, up to seven, or more."""
        tiles = count_tiles(width, height)
        return "small" if tiles <= SMALL else "medium" if tiles <= MEDIUM else "large"

    def see(self, network: Sa2vaNetwork, pictures: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        """Each picture's tiles, 256 visual tokens each, on the projector's device."""
        device = device_of(network.vision)
        tiles = [tile for block in pictures for tile in block]
        seen = torch.cat(
            [
                see_tiles(network, stacked(tiles[begin : begin + TILES_AT_ONCE], device))
                for begin in range(0, len(tiles), TILES_AT_ONCE)
            ]
        )
        return [Seen(tokens=part.flatten(0, 1)) for part in seen.split([len(block) for block in pictures])]


def see_tiles(network: Sa2vaNetwork, tiles: torch.Tensor) -> torch.Tensor:
    """Visual tokens (tiles, 256, D), on the projector's device, of tiles that are on the tower's, as
    `preprocess.stacked` has them."""
    return network.see(for_vision(as_rgb(tiles), next(network.vision.parameters()).dtype))
