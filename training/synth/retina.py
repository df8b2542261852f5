"""What lies behind and over the vessels of a retina: disc, fovea, choroid, shadows, lesions, reflections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synth.drawing import blur, clouds, ellipse, smooth_noise, soft
from training.synth.trees import Branch, Habit, grow, radii, thickness, walk

if TYPE_CHECKING:
    from numpy.random import Generator

    from training.synth.drawing import Array


def ground(rng: Generator, size: int, disc: tuple[float, float], reach: float) -> Array:
    """Light from an empty retina: pigment, the bright disc with its cup, the dark fovea. About 0.5."""
    light = 0.5 * np.exp(
        clouds(rng, size, largest=0.3, smallest=0.006, roughness=rng.uniform(0.45, 0.75)) * rng.uniform(0.01, 0.05)
    )
    axes = (reach * rng.uniform(0.8, 1.05), reach)
    wobble = 0.12 * smooth_noise(rng, size, 0.08)
    inside = 1 - ellipse(size, disc, axes, rng.uniform(-0.3, 0.3)) + wobble
    light += rng.uniform(0.05, 0.55) * soft(inside, rng.uniform(4, 25))
    cup = (disc[0] + rng.normal(0, reach * 0.2), disc[1] + rng.normal(0, reach * 0.15))
    light += rng.uniform(0, 0.4) * soft(
        1 - ellipse(size, cup, (reach * rng.uniform(0.25, 0.6),) * 2, 0), rng.uniform(3, 12)
    )
    if rng.random() < 0.35:  # a crescent of bare sclera or of pigment beside the disc
        ring = np.exp(-(((inside + rng.uniform(0.2, 0.8)) / 0.35) ** 2))
        light *= np.exp(rng.uniform(-0.35, 0.45) * ring * soft(smooth_noise(rng, size, 0.3), 4))
    side = 1 if disc[0] < 0.5 else -1
    fovea = (disc[0] + side * rng.uniform(0.36, 0.5), disc[1] + rng.uniform(0, 0.07))
    spread = rng.uniform(0.03, 0.12)
    light *= 1 - rng.uniform(0.05, 0.45) * np.exp(-ellipse(size, fovea, (spread, spread), 0))
    return light.astype(np.float32)


def choroid(rng: Generator, size: int) -> Array:
    """The choroid's own broad vessels shining through (a tessellated fundus), and mottled pigment. Log-light."""
    out = np.zeros((size, size), np.float32)
    habit = Habit(
        spacing=(0.03, 0.08), reach=(15, 40), wander=8, wiggle=0.15, smallest=0.003, deepest=1, taper=(0.1, 0.4)
    )
    for _ in range(int(rng.integers(5, 13))):
        path = walk(
            rng,
            rng.uniform(0, 1, 2).astype(np.float32),
            rng.uniform(0, 6.3),
            rng.uniform(0.3, 0.8),
            bend=rng.normal(0, 1),
            habit=habit,
        )
        trunk = Branch(
            points=path,
            radii=radii(rng, rng.uniform(0.005, 0.014), len(path), habit),
            strength=np.ones(len(path), np.float32),
        )
        np.maximum(out, thickness(grow(rng, trunk, habit), size), out=out)
    sign = rng.choice([-1, 1], p=[0.3, 0.7])  # most often brighter than what lies between
    broad = blur(out / max(float(out.max()), 1e-6), rng.uniform(2, 5) * size / 640)
    where = soft(smooth_noise(rng, size, 0.5) + rng.uniform(-0.5, 1), 3)
    mottle = clouds(rng, size, largest=0.08, smallest=0.01, roughness=0.7) * rng.uniform(0.01, 0.06)
    return np.asarray(sign * rng.uniform(0.06, 0.3) * broad * where + mottle)


def shadows(rng: Generator, size: int) -> Array:
    """Uneven light: a dark rim, a crescent from a pupil off centre, a bright haze. Log-light."""
    at = tuple(0.5 + rng.normal(0, 0.09, 2))
    rim = -rng.uniform(0.05, 0.7) * ellipse(size, at, (0.5, 0.5), 0) ** rng.uniform(0.8, 2)
    haze = (
        rng.uniform(0, 0.5)
        * soft(ellipse(size, tuple(0.5 + rng.normal(0, 0.05, 2)), (0.46, 0.46), 0) - 1, 8)
        * soft(smooth_noise(rng, size, 0.5), 3)
    )
    return rim + haze + smooth_noise(rng, size, 0.5) * rng.uniform(0, 0.25)


def lesions(rng: Generator, light: Array) -> Array:
    """Haemorrhages, microaneurysms, exudates, drusen, cotton wool, laser scars."""
    out, size = light.copy(), len(light)
    kinds = (
        (-1, (0.004, 0.03), (3, 25)),  # haemorrhages
        (-1, (0.0015, 0.004), (5, 60)),  # microaneurysms
        (1, (0.0015, 0.012), (10, 80)),  # exudates, drusen
        (1, (0.012, 0.035), (1, 8)),  # cotton wool, scars
    )
    for sign, reach, count in kinds:
        if rng.random() < 0.5:
            spots = _spots(rng, size, reach, int(rng.integers(*count)))
            out *= np.exp(sign * rng.uniform(0.15, 0.7) * spots)
    return out


def _spots(rng: Generator, size: int, reach: tuple[float, float], count: int) -> Array:
    """Irregular blots, clustered around a few places; 0 to 1."""
    out = np.zeros((size, size), np.float32)
    clusters = rng.uniform(0.15, 0.85, (3, 2))
    for _ in range(count):
        x, y = np.clip(clusters[rng.integers(3)] + rng.normal(0, 0.12, 2), 0.02, 0.98) * size
        radius = rng.uniform(*reach) * size
        half = int(radius * 2) + 3
        left, top = max(0, int(x) - half), max(0, int(y) - half)
        right, bottom = min(size, int(x) + half + 1), min(size, int(y) + half + 1)
        dx, dy = np.meshgrid(np.arange(left, right) - x, np.arange(top, bottom) - y)
        turn = np.arctan2(dy, dx)
        wobble = 1 + 0.25 * np.sin(2 * turn + rng.uniform(0, 6)) + 0.2 * np.sin(3 * turn + rng.uniform(0, 6))
        blot = soft(1 - np.hypot(dx, dy) / (radius * wobble), rng.uniform(3, 10))
        part = out[top:bottom, left:right]
        np.maximum(part, blot * rng.uniform(0.4, 1), out=part)
    return out


def sheen(rng: Generator, size: int, branches: list[Branch]) -> Array:
    """Reflections of a young retina: bright streaks that run along the vessels and bright dust. Light to be added."""
    streaks = np.zeros((size, size), np.float32)
    chosen = [branch for branch in branches if branch.radii[0] > 0.003]
    for branch in chosen:
        shifted = branch.points + rng.normal(0, 0.012, 2)
        beside = Branch(
            points=shifted.astype(np.float32), radii=branch.radii * rng.uniform(0.3, 1.2), strength=branch.strength
        )
        np.maximum(streaks, thickness([beside], size), out=streaks)
    streaks /= max(float(streaks.max()), 1e-6)
    broken = soft(smooth_noise(rng, size, rng.uniform(0.03, 0.1)) - rng.uniform(0, 1), 5)
    fibres = np.clip(clouds(rng, size, largest=0.02, smallest=0.003, roughness=0.8) - 1.2, 0, None) * 0.08
    where = soft(smooth_noise(rng, size, 0.3), 4)
    return blur(streaks * broken * rng.uniform(0.03, 0.25) + fibres * where * rng.uniform(0, 1), rng.uniform(0.5, 1.5))
