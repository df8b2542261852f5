"""Cutting a picture into the tiles that the vision tower sees.

The grid is chosen by the picture's aspect ratio alone, among all grids of at most twelve tiles; more than one tile
gets a thumbnail of the whole picture behind it.
"""

from __future__ import annotations

from functools import lru_cache

from watcherd.inference.segmenters.sa2va.config import TILE

MAX_TILES = 12

GRIDS = tuple(
    sorted(
        (
            (columns, rows)
            for columns in range(1, MAX_TILES + 1)
            for rows in range(1, MAX_TILES + 1)
            if columns * rows <= MAX_TILES
        ),
        key=lambda grid: grid[0] * grid[1],
    )
)
"""Columns and rows of every grid, fewest tiles first."""


@lru_cache(maxsize=1024)
def best_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the grid whose aspect ratio is nearest to the picture's.

    Of grids that are equally near the larger one is taken where the picture has more than half of its pixels.
    """
    best, least = GRIDS[0], float("inf")
    for columns, rows in GRIDS:
        distance = abs(width / height - columns / rows)
        if distance < least:
            best, least = (columns, rows), distance
        elif distance == least and width * height > 0.5 * TILE * TILE * columns * rows:
            best = (columns, rows)
    return best


def count_tiles(width: int, height: int) -> int:
    """How many tiles a picture of this size becomes, thumbnail included: 1 to 13."""
    columns, rows = best_grid(width, height)
    return columns * rows + (columns * rows > 1)
