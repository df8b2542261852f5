"""Made-up X-ray coronary angiograms.

A picture is made as it comes about: everything between the tube and the detector absorbs, thicknesses add up, the
detector counts noisy quanta, the machine blurs, sharpens, windows and compresses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from training.synth import anatomy, camera, devices
from training.synth.drawing import blur, ellipse, motion, resize, smooth_noise, soft
from training.synth.scene import Scene
from training.synth.trees import Branch, Habit, grow, moved, on_a_heart, outline, radii, thickness, walk

if TYPE_CHECKING:
    from numpy.random import Generator

    from training.synth.drawing import Array

NATIVE = (300, 320, 384, 448, 512)
"""Sides in pixels at which pictures are taken, before they are brought to the asked size."""

HALF_CONTRAST = 0.87
"""Share of a tube's radius at which it is half as thick as in its middle (the root of 3/4): where readers draw it."""
THINNEST = 0.0035
"""Radius, as a share of the side, below which readers of angiograms draw no branch: about two pixels of 300 across."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How likely and how strong each difficulty is."""

    bones: float = 0.75
    devices: float = 0.8
    border: float = 0.35
    noise: tuple[float, float] = (0.008, 0.06)
    contrast: tuple[float, float] = (0.22, 0.8)
    fading: float = 0.35
    texture: tuple[float, float] = (0.05, 0.35)
    empty: float = 0.02


_PLAIN = Style(
    bones=0, devices=0, border=0, noise=(0.008, 0.02), contrast=(0.4, 0.8), fading=0, texture=(0.03, 0.1), empty=0
)
STYLES = {
    "mixed": Style(),
    "plain": _PLAIN,
    "bones": replace(_PLAIN, bones=1, texture=(0.15, 0.35)),
    "devices": replace(_PLAIN, devices=1),
    "border": replace(_PLAIN, border=1),
    "noisy": replace(_PLAIN, noise=(0.05, 0.08)),
    "faint": replace(_PLAIN, contrast=(0.2, 0.32), fading=1, texture=(0.1, 0.25)),
    "hard": Style(
        bones=1, devices=1, border=0.6, noise=(0.03, 0.06), contrast=(0.22, 0.45), fading=0.6, texture=(0.15, 0.35)
    ),
}
"""Difficulties, one at a time, and all of them at once; ``mixed`` is what the network is trained on."""


def angiogram(rng: Generator, *, size: int, style: Style) -> Scene:
    """One picture, ``size`` pixels a side."""
    native = int(rng.choice(NATIVE))
    branches, ostium = coronary_tree(rng, fading=rng.random() < style.fading)
    if rng.random() < style.empty:
        branches = []
    caliber = max((float(branch.radii[0]) for branch in branches), default=0.01)
    contrast = rng.uniform(*style.contrast)
    vessels = contrast * thickness(branches, native) / (2 * caliber)
    absorbed = _background(rng, native, style)
    noise = rng.uniform(*style.noise)
    things, mask_out = devices.devices(rng, native, ostium, contrast=contrast, caliber=caliber, likely=style.devices)
    vessels = _in_motion(rng, vessels * _streaming(rng, native)) + _blush(rng, native, ostium, contrast, bool(branches))
    log_image = -(absorbed + vessels + things)
    field = camera.collimator(rng, native) if rng.random() < style.border else np.ones((native, native), np.float32)
    image = camera.xray(rng, log_image, field=field, noise=noise)
    mask, ignore = _truth(branches, size, contrast=contrast, caliber=caliber, noise=noise)
    seen = resize(field, size) > 0.5
    hidden = resize(mask_out, size) > 0.5
    return Scene(
        image=camera.to_bytes(resize(image.astype(np.float32), size)),
        mask=mask & seen,
        ignore=(ignore & seen) | (hidden & mask),
        field=seen,
    )


def coronary_tree(rng: Generator, *, fading: bool) -> tuple[list[Branch], tuple[float, float]]:
    """A left or a right coronary tree on a heart, and where its ostium is."""
    ostium = (rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.45))
    radius = rng.uniform(0.0065, 0.021)
    inward = float(np.arctan2(0.6 - ostium[1], 0.5 - ostium[0]))
    kind = rng.choice(["left", "right", "wild"], p=[0.5, 0.3, 0.2])
    if kind == "left":
        spread = rng.uniform(0.25, 1.0)
        trunks = [(inward - spread, rng.uniform(-0.4, 1.2)), (inward + spread, rng.uniform(-1.2, 0.4))]
        trunks += [(inward + rng.uniform(-0.4, 0.4), 0.0)] * int(rng.integers(0, 2))
    elif kind == "right":
        side = rng.choice([-1, 1])
        trunks = [(inward + side * rng.uniform(0.5, 1.2), -side * rng.uniform(0.8, 2.4))]
    else:
        trunks = [(inward + rng.uniform(-1.5, 1.5), rng.uniform(-1.5, 1.5)) for _ in range(int(rng.integers(1, 4)))]
    habit = Habit(
        spacing=(0.05, rng.uniform(0.14, 0.3)),
        angle=(0.3, 1.1),
        reach=(22, 60),
        wander=rng.uniform(2, 8),
        wiggle=rng.uniform(0.02, 0.16),
        deepest=int(rng.integers(1, 4)),
    )
    branches: list[Branch] = []
    for heading, bend in trunks:
        path = walk(rng, np.array(ostium, np.float32), heading, rng.uniform(0.7, 1.5), bend=bend, habit=habit)
        strength = np.linspace(1, rng.uniform(0.15, 0.8) if fading else rng.uniform(0.8, 1), len(path)).astype(
            np.float32
        )
        first = radius * rng.uniform(0.8, 1.0)
        branches += grow(rng, Branch(points=path, radii=radii(rng, first, len(path), habit), strength=strength), habit)
    if rng.random() < 0.7:
        branches = moved(branches, on_a_heart(rng, ostium, rng.uniform(0.5, 1.0)))
    return branches, ostium


def _background(rng: Generator, size: int, style: Style) -> Array:
    out = anatomy.soft_tissue(rng, size, texture=rng.uniform(*style.texture))
    if rng.random() < 0.1 and style.bones < 1:
        return 0.25 * out + anatomy.subtraction_ghosts(rng, size)
    if style.bones:
        for part, likely in anatomy.BONES.items():
            if rng.random() < style.bones * likely:
                out += part(rng, size)
    return out


def _streaming(rng: Generator, size: int) -> Array:
    """Contrast agent mixes unevenly with blood."""
    return np.clip(1 + rng.uniform(0, 0.15) * smooth_noise(rng, size, rng.uniform(0.05, 0.2)), 0.5, 1.5)


def _in_motion(rng: Generator, vessels: Array) -> Array:
    """The beating heart smears vessels by up to a hundredth of the picture."""
    if rng.random() < 0.3:
        return motion(vessels, rng.uniform(1, 0.01 * len(vessels)), rng.uniform(0, np.pi))
    return vessels


def _blush(rng: Generator, size: int, ostium: tuple[float, float], contrast: float, any_vessels: bool) -> Array:
    """Contrast agent that flows back into the aorta, or stains the muscle: clouds, not vessels."""
    out = np.zeros((size, size), np.float32)
    if not any_vessels:
        return out
    if rng.random() < 0.35:
        wobble = 0.35 * smooth_noise(rng, size, 0.15)
        axes = (rng.uniform(0.03, 0.12), rng.uniform(0.05, 0.2))
        at = (ostium[0] + rng.uniform(-0.06, 0.06), ostium[1] - rng.uniform(0, 0.1))
        inside = 1 - ellipse(size, at, axes, rng.uniform(-0.6, 0.6)) + wobble
        out += contrast * rng.uniform(0.2, 0.9) * soft(inside, rng.uniform(2, 10))
    if rng.random() < 0.25:
        at = (rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9))
        stain = soft(
            1
            - ellipse(size, at, (rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3)), 0)
            + 0.5 * smooth_noise(rng, size, 0.1),
            3,
        )
        out += contrast * rng.uniform(0.05, 0.25) * stain
    return blur(out, size * 0.004)


def _truth(branches: list[Branch], size: int, *, contrast: float, caliber: float, noise: float) -> tuple[Array, Array]:
    """What a careful reader would draw: not what is too thin or too faint for the noise."""

    def visible(radius: Array, strength: Array) -> Array:
        depth = contrast * strength * radius / caliber
        # Seen over a stretch of five widths, averaged noise falls with the root of the pixels there.
        averaged = noise / np.sqrt(np.maximum(radius * size * 2, 0.5) * 5)
        return np.asarray((depth > np.maximum(4 * averaged, 0.045)) & (radius > THINNEST))

    return outline(branches, size, wider=0.1, visible=visible, edge=HALF_CONTRAST)
