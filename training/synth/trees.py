"""Vessel trees: centre lines with radii, grown at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from training.synth.drawing import dense, resize, tube_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

    from training.synth.drawing import Array

STEP = 0.004
"""Length between the points of a centre line, as a share of the side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """``points`` (n, 2), ``radii`` (n,) in the unit square; ``strength`` (n,): how much contrast it carries, 0 to 1.

    ``depth``: 0 for a trunk, 1 for its side branches, and so on.
    """

    points: Array
    radii: Array
    strength: Array
    depth: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Habit:
    """How a tree grows. Lengths and radii are shares of the side; ranges are drawn from evenly.

    ``spacing``: between side branches. ``angle``: at which they leave, in radians. ``thinner``: a side branch's radius
    over its parent's there (Murray's law gives 0.79 for an even split). ``reach``: a side branch's length over its
    radius. ``taper``: how much of its radius a branch loses to its end. ``wander``: slow bends; ``wiggle``: quick ones.
    """

    spacing: tuple[float, float] = (0.05, 0.16)
    angle: tuple[float, float] = (0.4, 1.3)
    thinner: tuple[float, float] = (0.4, 0.85)
    reach: tuple[float, float] = (18.0, 50.0)
    taper: tuple[float, float] = (0.35, 0.75)
    wander: float = 5.0
    wiggle: float = 0.12
    smallest: float = 0.0016
    deepest: int = 3


def walk(rng: Generator, start: Array, heading: float, length: float, *, bend: float, habit: Habit) -> Array:
    """A smooth path: its heading turns by ``bend`` radians in all, and wanders and wiggles besides."""
    count = max(6, int(length / STEP))
    slow = ndimage.gaussian_filter1d(rng.standard_normal(count), 18, mode="reflect") * habit.wander
    quick = ndimage.gaussian_filter1d(rng.standard_normal(count), 5, mode="reflect") * habit.wiggle * 4
    headings = heading + bend * np.linspace(0, 1, count) + np.cumsum(slow) * STEP * 6 + quick
    steps = STEP * np.stack([np.cos(headings), np.sin(headings)], axis=1)
    return (start + np.cumsum(steps, axis=0)).astype(np.float32)


def radii(rng: Generator, first: float, count: int, habit: Habit) -> Array:
    """Radii along a branch: tapering, a little uneven, now and then with a narrowing or a bulge."""
    along = np.linspace(0, 1, count)
    out = first * (1 - rng.uniform(*habit.taper) * along ** rng.uniform(0.8, 1.6))
    out *= 1 + 0.05 * ndimage.gaussian_filter1d(rng.standard_normal(count), 6) * 6
    if rng.random() < 0.12:
        depth, at = rng.uniform(-0.7, 0.4), rng.uniform(0.1, 0.9)
        out *= 1 + depth * np.exp(-(((along - at) * count * STEP / rng.uniform(0.008, 0.03)) ** 2))
    return np.maximum(out, first * 0.12).astype(np.float32)


def grow(rng: Generator, trunk: Branch, habit: Habit) -> list[Branch]:
    """The trunk and all that grows from it."""
    branches = [trunk]
    if trunk.depth >= habit.deepest:
        return branches
    place, side, total = rng.uniform(*habit.spacing), rng.choice([-1, 1]), len(trunk.points) * STEP
    while place < total * 0.97:
        child = _side_branch(rng, trunk, int(place / STEP), side, habit)
        if child is not None:
            branches += grow(rng, child, habit)
        place += rng.uniform(*habit.spacing) * (1 + 0.4 * trunk.depth)
        side = -side if rng.random() < 0.75 else side
    return branches


def _side_branch(rng: Generator, parent: Branch, at: int, side: int, habit: Habit) -> Branch | None:
    at = min(max(at, 1), len(parent.points) - 1)
    radius = float(parent.radii[at] * rng.uniform(*habit.thinner))
    if radius < habit.smallest:
        return None
    dx, dy = parent.points[at] - parent.points[at - 1]
    heading = float(np.arctan2(dy, dx)) + side * rng.uniform(*habit.angle)
    length = min(0.8, radius * rng.uniform(*habit.reach))
    # Side branches bend back towards the way their parent goes.
    path = walk(rng, parent.points[at], heading, length, bend=-side * rng.uniform(-0.3, 0.9), habit=habit)
    strength = parent.strength[at] * np.linspace(1, rng.uniform(0.5, 1.0), len(path))
    return Branch(
        points=path,
        radii=radii(rng, radius, len(path), habit),
        strength=strength.astype(np.float32),
        depth=parent.depth + 1,
    )


def moved(branches: list[Branch], how: Callable[[Array], Array]) -> list[Branch]:
    """The tree with its points sent through ``how``."""
    return [replace(branch, points=how(branch.points).astype(np.float32)) for branch in branches]


def on_a_heart(rng: Generator, center: tuple[float, float], radius: float) -> Callable[[Array], Array]:
    """A map that lays a flat tree around ``center`` onto a turned ovoid and looks at it from the front.

    What lies on the sides is foreshortened, what goes round the back crosses what is in front: a projection.
    """
    turn = rng.uniform(-0.7, 0.7, 2)
    stretch = rng.uniform(0.85, 1.3)

    def lay(points: Array) -> Array:
        lon = (points[:, 0] - center[0]) / radius + turn[0]
        lat = (points[:, 1] - center[1]) / radius + turn[1]
        x = np.sin(lon) * np.cos(lat * 0.6) - np.sin(turn[0]) * np.cos(turn[1] * 0.6)
        y = np.sin(lat) - np.sin(turn[1])
        return np.stack([center[0] + radius * x, center[1] + radius * stretch * y], axis=1)

    return lay


def strand(branch: Branch, size: int) -> tuple[Array, Array, Array]:
    """A branch's points, radii and strength, close enough together to be drawn at ``size`` pixels a side."""
    points, places = dense(branch.points, 0.5 / size)
    index = np.arange(len(branch.points))
    return points, np.interp(places, index, branch.radii), np.interp(places, index, branch.strength)


def thickness(branches: list[Branch], size: int) -> Array:
    """What all the branches together absorb: thickness times strength, added up where branches cross."""
    out = np.zeros((size, size), np.float32)
    for branch in branches:
        points, radius, strength = strand(branch, size)
        place, part = tube_part(points, radius, size)
        spread = _spread(points, strength, size)
        out[place] += part * (spread if isinstance(spread, float) else spread[place])
    return out


def _spread(points: Array, strength: Array, size: int) -> Array | float:
    """The strength of the nearest point for every pixel near a branch; a number where it is even."""
    if float(np.ptp(strength)) < 0.05:
        return float(np.mean(strength))
    coarse = max(8, size // 8)
    total, weight = np.zeros((coarse, coarse), np.float32), np.zeros((coarse, coarse), np.float32)
    cell = np.floor(points * coarse).astype(int)
    seen = ((cell >= 0) & (cell < coarse)).all(axis=1)
    np.add.at(total, (cell[seen, 1], cell[seen, 0]), strength[seen])
    np.add.at(weight, (cell[seen, 1], cell[seen, 0]), 1)
    total, weight = ndimage.gaussian_filter(total, 1.2), ndimage.gaussian_filter(weight, 1.2)
    field = np.where(weight > 1e-4, total / np.maximum(weight, 1e-4), float(np.mean(strength)))
    return np.clip(resize(field.astype(np.float32), size), 0, 1)


def outline(
    branches: list[Branch], size: int, *, wider: float, visible: Callable[[Array, Array], Array], edge: float = 1.0
) -> tuple[Array, Array]:
    """Masks (bool) of what a reader would draw and of what nobody could say.

    ``wider``: pixels added to every radius, as readers draw a vessel's outer edge. ``visible``: for a branch's
    dense radii and strengths, True where it is seen, 0 where it is not. ``edge``: the share of the radius at which a
    reader sees the vessel end.
    """
    drawn, unsure = np.zeros((size, size), bool), np.zeros((size, size), bool)
    for branch in branches:
        points, radius, strength = strand(branch, size)
        seen = visible(radius, strength) > 0.5
        padded = np.maximum(edge * radius + wider / size, 0.55 / size).astype(np.float32)
        for chosen, target in ((seen, drawn), (~seen, unsure)):
            if chosen.any():
                place, part = tube_part(points[chosen], padded[chosen], size)
                target[place] |= part > 0
    return drawn, unsure & ~drawn
