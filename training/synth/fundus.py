"""Made-up fundus photographs, as their green channel: vessels dark, the disc bright, the surround black."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from training.synth import retina
from training.synth.camera import to_bytes
from training.synth.drawing import blur, ellipse, grid, jpeg, tube_part, unsharp
from training.synth.scene import Scene
from training.synth.trees import Branch, Habit, grow, outline, radii, strand, walk

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from training.synth.drawing import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How likely and how strong each difficulty is."""

    lesions: float = 0.35
    choroid: float = 0.55
    uneven: float = 0.6
    sheen: float = 0.35
    contrast: tuple[float, float] = (0.25, 0.75)
    noise: tuple[float, float] = (0.005, 0.045)
    blur: tuple[float, float] = (0.3, 1.6)


_PLAIN = Style(lesions=0, choroid=0, uneven=0, sheen=0, contrast=(0.45, 0.7), noise=(0.005, 0.015), blur=(0.3, 0.8))
STYLES = {
    "mixed": Style(),
    "plain": _PLAIN,
    "lesions": replace(_PLAIN, lesions=1),
    "choroid": replace(_PLAIN, choroid=1, sheen=1),
    "uneven": replace(_PLAIN, uneven=1),
    "faint": replace(_PLAIN, contrast=(0.2, 0.32), blur=(0.8, 1.6)),
    "noisy": replace(_PLAIN, noise=(0.035, 0.06)),
    "hard": Style(lesions=1, choroid=1, uneven=1, contrast=(0.22, 0.4), noise=(0.02, 0.045)),
}
"""Difficulties, one at a time, and all of them at once; ``mixed`` is what the network is trained on."""


def fundus(rng: Generator, *, size: int, style: Style) -> Scene:
    """One picture, ``size`` pixels a side; the field of view fills 85 to 99 % of it."""
    field = field_of_view(rng, size)
    disc = (rng.choice([rng.uniform(0.1, 0.35), rng.uniform(0.65, 0.9), rng.uniform(0.4, 0.6)]), rng.uniform(0.4, 0.6))
    reach = rng.uniform(0.055, 0.11)
    caliber = rng.uniform(0.0045, 0.0095)
    contrast = rng.uniform(*style.contrast)
    arteries, veins = retinal_trees(rng, disc, reach, caliber)
    light = retina.ground(rng, size, disc, reach)
    if rng.random() < style.choroid:
        light *= np.exp(retina.choroid(rng, size))
    if rng.random() < style.uneven:
        light *= np.exp(retina.shadows(rng, size))
    light *= np.exp(-contrast * _absorption(rng, arteries, veins, size))
    if rng.random() < style.lesions:
        light = retina.lesions(rng, light)
    if rng.random() < style.sheen:
        light += retina.sheen(rng, size, [*arteries, *veins])
    noise = rng.uniform(*style.noise)
    softness = rng.uniform(*style.blur) * size / 640
    image = _photographed(rng, light, field=field, noise=noise, softness=softness)
    mask, ignore = _truth([*arteries, *veins], size, contrast=contrast, caliber=caliber, noise=noise)
    return Scene(image=image, mask=mask & field, ignore=ignore & field, field=field)


def field_of_view(rng: Generator, size: int) -> NDArray[np.bool_]:
    """The camera's circle, sometimes cut off above and below, or so close that it fills the picture."""
    reach = rng.uniform(0.425, 0.5)
    inside = ellipse(size, tuple(0.5 + rng.uniform(-0.01, 0.01, 2)), (reach, reach), 0) < 1
    _, y = grid(size)
    if rng.random() < 0.35:
        inside &= np.abs(y - 0.5) < rng.uniform(0.36, 0.46)
    if rng.random() < 0.06:
        inside = np.ones_like(inside)
    return inside


def retinal_trees(
    rng: Generator, disc: tuple[float, float], reach: float, caliber: float
) -> tuple[list[Branch], list[Branch]]:
    """Arteries and veins: four arcades each that leave the disc, and small vessels between them."""
    arteries: list[Branch] = []
    veins: list[Branch] = []
    towards = 0.0 if disc[0] < 0.5 else np.pi  # where the fovea lies
    tortuous = rng.uniform(0.2, 1.6)
    habit = Habit(
        spacing=(0.025, rng.uniform(0.08, 0.16)), angle=(0.35, 1.2), reach=(18, 60), taper=(0.35, 0.7),
        wander=3 * tortuous, wiggle=0.07 * tortuous, smallest=0.0007, deepest=int(rng.integers(2, 4)),
    )  # fmt: skip
    for up in (-1, 1):
        for temporal in (True, False):
            steep = rng.uniform(0.9, 1.5) if temporal else rng.uniform(0.5, 1.1)
            heading = towards + up * steep if temporal else towards + np.pi - up * steep
            bend = -up * rng.uniform(0.5, 1.5) if temporal else up * rng.uniform(-0.4, 0.6)
            for tree, width in ((arteries, rng.uniform(0.6, 0.9)), (veins, rng.uniform(0.85, 1.1))):
                start = np.array(disc) + rng.normal(0, reach * 0.3, 2)
                radius = caliber * width * (1 if temporal else rng.uniform(0.55, 0.95))
                tree.extend(
                    _arcade(rng, start, heading + rng.normal(0, 0.18), radius, bend + rng.normal(0, 0.2), habit)
                )
    for _ in range(int(rng.integers(3, 10))):
        start = np.array(disc) + rng.normal(0, reach * 0.5, 2)
        small = caliber * rng.uniform(0.15, 0.4)
        (arteries if rng.random() < 0.5 else veins).extend(
            _arcade(rng, start, rng.uniform(0, 2 * np.pi), small, rng.normal(0, 0.4), habit)
        )
    return arteries, veins


def _arcade(rng: Generator, start: Array, heading: float, radius: float, bend: float, habit: Habit) -> list[Branch]:
    length = min(rng.uniform(0.5, 1.1), radius * 200)
    path = walk(rng, start, heading, length, bend=bend, habit=habit)
    strength = np.linspace(1, rng.uniform(0.6, 1.0), len(path)).astype(np.float32)
    return grow(rng, Branch(points=path, radii=radii(rng, radius, len(path), habit), strength=strength), habit)


def _absorption(rng: Generator, arteries: list[Branch], veins: list[Branch], size: int) -> Array:
    """What the trees take from the light: veins more than arteries; arteries have a bright reflex along the middle."""
    out = np.zeros((size, size), np.float32)
    reflex, pale = rng.uniform(0, 0.7) * (rng.random() < 0.7), rng.uniform(0.55, 0.95)
    flat = rng.uniform(0.4, 0.9)
    for branches, depth, shine in ((veins, 1.0, reflex * 0.4), (arteries, pale, reflex)):
        tree = np.zeros((size, size), np.float32)
        bright = np.zeros((size, size), np.float32)
        for branch in branches:
            points, radius, strength = strand(branch, size)
            thickest = 2 * float(radius.max())
            # A thin vessel takes less light, but not in proportion to its width: blood near the surface is dark.
            weight = float(np.mean(strength)) * (branch.radii[0] / 0.007) ** rng.uniform(0.25, 0.55)
            place, part = tube_part(points, radius, size)
            tree[place] = np.maximum(tree[place], weight * (part / thickest) ** flat)
            if shine and thickest * size > 4:
                place, part = tube_part(points, radius * 0.3, size)
                bright[place] = np.maximum(bright[place], part / (0.3 * thickest))
        out = np.maximum(out, depth * (tree - shine * np.minimum(tree, bright))) + 0.25 * np.minimum(out, depth * tree)
    return out


def _photographed(
    rng: Generator, light: Array, *, field: NDArray[np.bool_], noise: float, softness: float
) -> NDArray[np.uint8]:
    size = len(light)
    seen = blur(light, softness)
    grain = blur(rng.standard_normal((size, size)).astype(np.float32), rng.uniform(0, 1.2))
    seen = seen + noise * grain / max(float(grain.std()), 1e-6) * np.sqrt(np.maximum(seen, 0.05))
    if rng.random() < 0.4:
        seen = unsharp(seen, rng.uniform(1, 4), rng.uniform(0.2, 1.0))
    seen = np.clip(seen, 0, None) ** rng.uniform(0.7, 1.4)
    exposure = rng.uniform(0.2, 0.6) / max(float(np.median(seen[field])), 1e-6)
    rim = ndimage.uniform_filter(field.astype(np.float32), int(rng.integers(1, 5)))
    image = to_bytes(255 * np.clip(seen * exposure, 0, 1) * rim + rng.uniform(0, 8) * (1 - rim))
    return jpeg(image, int(rng.integers(50, 97))) if rng.random() < 0.6 else image


def _truth(branches: list[Branch], size: int, *, contrast: float, caliber: float, noise: float) -> tuple[Array, Array]:
    def visible(radius: Array, strength: Array) -> Array:
        depth = contrast * strength * (radius / caliber) ** 0.5
        averaged = noise / np.sqrt(np.maximum(radius * size * 2, 0.5) * 6)
        return np.asarray((depth > np.maximum(2.5 * averaged, 0.03)) & (radius * 600 > 0.45))

    return outline(branches, size, wider=0.2, visible=visible)
