"""Made-up scans of kinds that the default model was not made for: ultrasound, CT, MR, a radiograph of a hand.

As such pictures are exported: a sector, a trunk, a head, a hand, on black. Uint8 (side, side).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]
    Point = tuple[float, float]


def grid(side: int) -> tuple[Plane, Plane]:
    """Rows and columns from -1 to 1."""
    y, x = np.mgrid[0:side, 0:side] / (side - 1) * 2 - 1
    return y, x


def ellipse(y: Plane, x: Plane, at: Point, radii: Point) -> Plane:
    """0 in its middle, 1 on its border."""
    return np.hypot((y - at[0]) / radii[0], (x - at[1]) / radii[1])


def rough(chance: Generator, side: int, grain: float) -> Plane:
    """Noise with spots of so many pixels, of standard deviation 1."""
    noise = ndimage.gaussian_filter(chance.standard_normal((side, side)), grain)
    return np.asarray(noise / noise.std())


def to_bytes(values: Plane) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values, 0, 1) * 255 + 0.5, np.uint8)


def ultrasound(chance: Generator, side: int) -> NDArray[np.uint8]:
    """A sector with speckle, dark holes with bright walls, and marks of depth at the right."""
    y, x = grid(side)
    top = chance.uniform(-1.3, -0.95)
    far, angle = np.hypot(x, y - top), np.arctan2(x, y - top)
    sector = (np.abs(angle) < chance.uniform(0.45, 0.8)) & (far < chance.uniform(1.6, 1.95))
    sector &= far > chance.uniform(0.05, 0.4)
    tissue = 0.28 + 0.12 * rough(chance, side, side / 20) + 0.08 * np.sin(far * chance.uniform(8, 20))
    for _ in range(chance.integers(1, 5)):
        at = (chance.uniform(-0.4, 0.6), chance.uniform(-0.4, 0.4))
        hole = ellipse(y, x, at, (chance.uniform(0.08, 0.3), chance.uniform(0.08, 0.3)))
        tissue = np.where(hole < 1, chance.uniform(0, 0.12), tissue) + 0.25 * (np.abs(hole - 1) < 0.07)
    speckle = ndimage.gaussian_filter(chance.rayleigh(1, (side, side)), (0.8, 1.5))
    shown = np.where(sector, np.clip(tissue, 0, 1) * speckle / speckle.mean(), 0)
    for row in range(1, 9):
        shown[side * row // 9, -8:-3] = 0.7
    return to_bytes(shown)


def ct(chance: Generator, side: int) -> NDArray[np.uint8]:
    """A slice of a trunk with ribs, a vertebra, and lungs or organs."""
    y, x = grid(side)
    tall, wide = chance.uniform(0.5, 0.75), chance.uniform(0.7, 0.95)
    depth = ellipse(y, x, (0, 0), (tall, wide)) / (1 + 0.04 * np.cos(3 * np.arctan2(y, x) + chance.uniform(0, 6)))
    shown = np.where(depth < 1, 0.28, 0.0)
    shown[depth < chance.uniform(0.82, 0.92)] = 0.48
    if chance.random() < 0.5:
        for sign in (-1, 1):
            lung = ellipse(y, x, (-0.05, sign * wide * 0.42), (tall * 0.62, wide * 0.3)) < 1
            shown[lung] = 0.06 + 0.02 * rough(chance, side, 3)[lung]
    else:
        for _ in range(chance.integers(3, 8)):
            at = (chance.uniform(-0.4, 0.4), chance.uniform(-0.55, 0.55))
            organ = ellipse(y, x, at, (chance.uniform(0.08, 0.3), chance.uniform(0.08, 0.3))) < 1
            shown[organ & (depth < 0.8)] = chance.uniform(0.4, 0.62)
    shown[ellipse(y, x, (tall * 0.6, 0), (0.12, 0.14)) < 1] = 0.92
    for _ in range(chance.integers(4, 10)):
        turn = chance.uniform(0, 2 * np.pi)
        at = (0.84 * tall * np.sin(turn), 0.84 * wide * np.cos(turn))
        shown[ellipse(y, x, at, (0.035, 0.08)) < 1] = 0.9
    shown += 0.02 * rough(chance, side, 0.8) * (depth < 1.02)
    return to_bytes(ndimage.gaussian_filter(shown, 0.8))


def mr(chance: Generator, side: int) -> NDArray[np.uint8]:
    """A slice of a head: fat, skull, folds, ventricles, uneven coils, noise."""
    y, x = grid(side)
    depth = ellipse(y, x, (0, 0), (chance.uniform(0.7, 0.9), chance.uniform(0.55, 0.7)))
    shown = np.select([depth < 0.87, depth < 0.93, depth < 1], [0.42, 0.08, 0.85], 0.0)
    folds = rough(chance, side, side / 60)
    shown = np.where((depth < 0.86) & (folds > 0.6), 0.62, shown)
    shown = np.where((depth < 0.86) & (depth > 0.6) & (folds < -0.8), 0.18, shown)
    for sign in (-1, 1):
        shown[ellipse(y, x, (-0.02, sign * 0.1), (0.3, 0.07)) < 1] = chance.choice([0.1, 0.95])
    shown = shown * np.clip(1 + 0.25 * rough(chance, side, side / 4), 0.4, 1.6)
    return to_bytes(ndimage.gaussian_filter(np.abs(shown + 0.025 * chance.standard_normal(shown.shape)), 0.9))


def hand(chance: Generator, side: int) -> NDArray[np.uint8]:
    """Five fingers of three bones each, wrist and forearm; dark on white now and then."""
    y, x = grid(side)

    def rod(one: Point, other: Point, radius: float) -> Plane:
        along = np.array(other) - np.array(one)
        place = ((y - one[0]) * along[0] + (x - one[1]) * along[1]) / (along @ along)
        place = np.clip(place, 0, 1)
        away = np.hypot(y - one[0] - place * along[0], x - one[1] - place * along[1])
        return np.asarray(np.sqrt(np.clip(1 - away / radius, 0, 1)))

    flesh = np.sqrt(np.clip(1 - ellipse(y, x, (0.4, 0), (0.42, 0.42)) ** 2, 0, 1))
    flesh = np.maximum(flesh, rod((0.6, 0), (1.2, 0), 0.3))
    bones = np.maximum(rod((0.75, -0.12), (1.2, -0.12), 0.11), rod((0.75, 0.12), (1.2, 0.12), 0.11))
    for number, length in enumerate((0.8, 1.0, 1.08, 1.0, 0.75)):
        turn, reach = -0.5 + 0.25 * number + chance.uniform(-0.05, 0.05), length * chance.uniform(0.9, 1.05)
        base = np.array((0.25 - 0.2 * np.cos(turn), 0.3 * np.sin(turn)))
        tip = np.array((0.35 - 1.2 * reach * np.cos(turn), 0.9 * reach * np.sin(turn)))
        flesh = np.maximum(flesh, rod(tuple(base), tuple(tip), 0.12))
        for start in (0.02, 0.35, 0.68):
            ends = (tuple(base + (tip - base) * share) for share in (start, start + 0.28))
            bones = np.maximum(bones, rod(*ends, 0.055))
    shown = 0.05 + 0.38 * flesh + 0.45 * bones * (1 + 0.1 * rough(chance, side, 2))
    shown += 0.015 * chance.standard_normal(shown.shape)
    return to_bytes(ndimage.gaussian_filter(1 - shown if chance.random() < 0.3 else shown, 1))


KINDS: dict[str, Callable[[Generator, int], NDArray[np.uint8]]] = {
    "ultrasound": ultrasound,
    "ct": ct,
    "mr": mr,
    "hand": hand,
}
