"""What stands behind the vessels of an X-ray: soft tissue, bones, edges. Log-absorption, in the unit square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synth.drawing import blur, cable, clouds, curve, dense, ellipse, grid, smooth_noise, soft, tube
from training.synth.trees import Branch, Habit, grow, radii, thickness, walk

if TYPE_CHECKING:
    from numpy.random import Generator

    from training.synth.drawing import Array


def soft_tissue(rng: Generator, size: int, *, texture: float) -> Array:
    """The body's slow shadows and a structured texture on top; ``texture``: its standard deviation."""
    x, y = grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.7) * ((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle))
    slow = clouds(rng, size, largest=0.6, smallest=0.15, roughness=0.6) * rng.uniform(0.05, 0.22)
    fine = clouds(rng, size, largest=0.12, smallest=0.012, roughness=rng.uniform(0.4, 0.8)) * texture * 0.18
    vignette = rng.uniform(-0.1, 0.35) * ellipse(size, (0.5, 0.5), (0.6, 0.6), 0)
    return np.asarray(slope + slow + fine + vignette, np.float32)


def heart(rng: Generator, size: int) -> Array:
    """The heart's shadow: an ovoid with a more or less soft edge."""
    inside = 1 - ellipse(
        size, (rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8)), tuple(rng.uniform(0.25, 0.5, 2)), rng.uniform(-1, 1)
    )
    return rng.uniform(0.1, 0.5) * soft(inside + 0.1 * smooth_noise(rng, size, 0.3), rng.uniform(4, 30))


def diaphragm(rng: Generator, size: int) -> Array:
    """A dome that comes in from below, sometimes from a side, with a clear edge."""
    at = (rng.uniform(-0.1, 1.1), rng.uniform(0.95, 1.5))
    inside = 1 - ellipse(size, at, (rng.uniform(0.35, 0.9), rng.uniform(0.3, 0.75)), rng.uniform(-0.3, 0.3))
    return rng.uniform(0.15, 0.8) * soft(inside, rng.uniform(15, 120))


def ribs(rng: Generator, size: int) -> Array:
    """Parallel curved bands with darker rims."""
    out = np.zeros((size, size), np.float32)
    count, width = int(rng.integers(2, 7)), rng.uniform(0.015, 0.045)
    slant, sag = rng.uniform(-0.5, 0.5), rng.uniform(-0.35, 0.35)
    spacing, first, strength = rng.uniform(0.13, 0.3), rng.uniform(-0.2, 0.3), rng.uniform(0.05, 0.28)
    side = rng.random() < 0.5
    for k in range(count):
        y0 = first + k * spacing + rng.uniform(-0.02, 0.02)
        controls = np.array(
            [(-0.1, y0 - slant / 2), (0.3, y0 + sag), (0.7, y0 + sag), (1.1, y0 + slant / 2)], np.float32
        )
        controls += rng.normal(0, 0.015, controls.shape)
        if rng.random() < 0.3:
            controls = controls[: int(rng.integers(2, 4))]
        out += _hollow(controls, width * rng.uniform(0.8, 1.2), size, rim=rng.uniform(0.12, 0.4)) * strength
    if side:
        out = out.T
    return blur(np.ascontiguousarray(out), rng.uniform(0.6, 3.0) * size / 300)


def _hollow(controls: Array, radius: float, size: int, *, rim: float) -> Array:
    """A tube with a dense wall; 1 where its whole diameter is wall. ``rim``: the wall over the radius."""
    outer = cable(controls, radius, size)
    inner = cable(controls, radius * (1 - rim), size)
    return (outer - 0.8 * inner) / (2 * radius)


def spine(rng: Generator, size: int) -> Array:
    """A broad band of vertebrae with discs between them, seen more or less from the front."""
    x, y = grid(size)
    angle, at = rng.uniform(-0.45, 0.45), rng.uniform(0.05, 0.95)
    v = (x - at) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    u = (y - 0.5) * np.cos(angle) - (x - at) * np.sin(angle)
    v = v + rng.uniform(-0.3, 0.3) * u * u
    half, period, phase = rng.uniform(0.07, 0.15), rng.uniform(0.14, 0.28), rng.uniform(0, 1)
    place = (u / period + phase) % 1
    disc = np.exp(-(((place - 0.5) / rng.uniform(0.05, 0.12)) ** 2))
    waist = half * (1 - 0.12 * np.sin(np.pi * place) ** 2)
    band = soft(waist - np.abs(v), rng.uniform(40, 160))
    rim = np.exp(-(((np.abs(v) - waist) / 0.008) ** 2)) * rng.uniform(0, 0.5)
    plates = np.exp(-(((np.abs(place - 0.5) - 0.13) * period / 0.007) ** 2)) * band * rng.uniform(0, 0.5)
    pedicles = np.exp(
        -(((np.hypot(np.abs(v) - half * 0.6, (place - 0.15) * period) - 0.02) / 0.006) ** 2)
    ) * rng.uniform(0, 0.5)
    out = band * (1 - rng.uniform(0.1, 0.5) * disc) + rim + plates + pedicles
    return blur(rng.uniform(0.1, 0.45) * out, rng.uniform(0.5, 2.5) * size / 300)


def lung_markings(rng: Generator, size: int) -> Array:
    """The lung's own vessels, without contrast agent: blurred, pale, and not what is looked for."""
    habit = Habit(deepest=2, smallest=0.003)
    path = walk(
        rng,
        rng.uniform(0, 1, 2).astype(np.float32),
        rng.uniform(0, 2 * np.pi),
        rng.uniform(0.4, 0.9),
        bend=rng.uniform(-1, 1),
        habit=habit,
    )
    trunk = Branch(
        points=path,
        radii=radii(rng, rng.uniform(0.008, 0.022), len(path), habit),
        strength=np.ones(len(path), np.float32),
    )
    drawn = thickness(grow(rng, trunk, habit), size)
    return blur(drawn / max(float(drawn.max()), 1e-6), rng.uniform(2.5, 7) * size / 300) * rng.uniform(0.04, 0.14)


def edges(rng: Generator, size: int) -> Array:
    """Skin folds, shoulder blades, fissures: the picture gets darker on one side of a smooth line."""
    out = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        inside = smooth_noise(rng, size, rng.uniform(0.25, 0.7)) - rng.normal(0, 0.5)
        step = soft(inside, rng.uniform(5, 60))
        out += rng.uniform(0.04, 0.25) * step
        if rng.random() < 0.3:
            out += rng.uniform(0.03, 0.12) * np.exp(-((inside * rng.uniform(12, 40)) ** 2))
    return blur(out, rng.uniform(0.3, 1.5) * size / 300)


def calcium(rng: Generator, size: int) -> Array:
    """Calcified valves, rings and nodes: small dark clumps."""
    at, reach = rng.uniform(0.2, 0.8, 2), rng.uniform(0.02, 0.08)
    speckle = smooth_noise(rng, size, rng.uniform(0.01, 0.03)) - 1.0
    return rng.uniform(0.1, 0.4) * soft(speckle, 6) * np.exp(-(ellipse(size, tuple(at), (reach, reach), 0)))


def stripes(rng: Generator, size: int) -> Array:
    """Faint straight streaks: clothing, table, grid lines."""
    x, y = grid(size)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.02, 0.25)
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + rng.uniform(0, 6))
    return np.asarray(rng.uniform(0.005, 0.03) * np.sign(wave) * np.abs(wave) ** rng.uniform(0.5, 6), np.float32)


def subtraction_ghosts(rng: Generator, size: int) -> Array:
    """What subtraction leaves of bones that moved between mask and frame: paired bright and dark edges."""
    bones = ribs(rng, size) + edges(rng, size) + spine(rng, size)
    shift = rng.uniform(0.5, 3) * size / 300
    moved = np.roll(bones, (round(shift), round(rng.uniform(-shift, shift))), (0, 1))
    return np.asarray(bones - moved, np.float32)


def aorta(rng: Generator, size: int) -> Array:
    """The aorta's soft broad band."""
    controls = np.stack(
        [np.linspace(rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), 4), np.linspace(-0.1, rng.uniform(0.4, 1.1), 4)],
        axis=1,
    )
    points, _ = dense(curve(controls + rng.normal(0, 0.08, controls.shape)), 1 / size)
    band = tube(points, np.full(len(points), rng.uniform(0.04, 0.09)), size)
    return blur(band / max(float(band.max()), 1e-6), rng.uniform(1, 6) * size / 300) * rng.uniform(0.05, 0.25)


BONES = {
    heart: 0.7, diaphragm: 0.45, ribs: 0.55, spine: 0.45, lung_markings: 0.5, edges: 0.6, calcium: 0.12, stripes: 0.15,
    aorta: 0.3,
}  # fmt: skip
"""What may stand behind, and how often."""
