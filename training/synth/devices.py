"""What people put into and onto patients: dark, smooth, thin, and not vessels. Log-absorption, in the unit square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synth.drawing import blur, cable, ellipse, soft

if TYPE_CHECKING:
    from numpy.random import Generator

    from training.synth.drawing import Array


def devices(
    rng: Generator, size: int, ostium: tuple[float, float], *, contrast: float, caliber: float, likely: float
) -> tuple[Array, Array]:
    """Absorption of all the devices, and a mask (1) of the catheter, where vessel and catheter cannot be told apart."""
    out, catheter_mask = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    if rng.random() < likely:
        tube_, catheter_mask = catheter(rng, size, ostium, caliber=caliber)
        out += tube_ * contrast * rng.uniform(0.35, 1.3)
    for draw, often, strength in (
        (catheter_elsewhere, 0.25, 0.8),
        (wire, 0.35, 0.9),
        (lead, 0.3, 1.0),
        (clips, 0.15, 1.2),
    ):
        if rng.random() < likely * often:
            for _ in range(int(rng.integers(1, 3))):
                out += draw(rng, size) * contrast * strength * rng.uniform(0.3, 1.2)
    return blur(out, 0.35 * size / 300), catheter_mask


def strays(rng: Generator, size: int) -> Array:
    """Absorption of one to three things that cross a picture and belong to no tree."""
    out = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        draw = (catheter_elsewhere, wire, lead)[int(rng.integers(3))]
        out += draw(rng, size) * rng.uniform(0.3, 1.0)
    return blur(out, rng.uniform(0.35, 1.2) * size / 300)


def catheter(rng: Generator, size: int, ostium: tuple[float, float], *, caliber: float) -> tuple[Array, Array]:
    """A guiding catheter from the picture's edge to the ostium: even width, smooth, full or empty of contrast agent."""
    radius = float(np.clip(caliber * rng.uniform(0.5, 1.2), 0.004, 0.012))
    end = np.array(ostium)
    start = _edge_point(rng, near=ostium)
    sideways = np.array([start[1] - end[1], end[0] - start[0]])
    arch = rng.uniform(-0.6, 0.6)
    controls = [
        start,
        start + (end - start) * 0.35 + sideways * arch,
        start + (end - start) * 0.75 + sideways * arch * rng.uniform(0.3, 1.4),
    ]
    if rng.random() < 0.4:  # the hook of a Judkins or Amplatz tip
        controls.append(end + rng.normal(0, 0.08, 2))
    controls.append(end)
    path = np.array(controls, np.float32)
    return _walled(rng, path, radius, size), (cable(path, radius * 1.2, size) > 0).astype(np.float32)


def catheter_elsewhere(rng: Generator, size: int) -> Array:
    """A second catheter, a pacing or a temperature lead, crossing the picture or ending in it."""
    start = _edge_point(rng)
    controls = np.vstack(
        [
            start,
            start + np.cumsum(rng.normal(0, 0.25, (4, 2)), axis=0) + (0.5 - start) * np.linspace(0.3, 1.2, 4)[:, None],
        ]
    )
    return _walled(rng, controls.astype(np.float32), rng.uniform(0.003, 0.009), size)


def _walled(rng: Generator, controls: Array, radius: float, size: int) -> Array:
    outer = cable(controls, radius, size) / (2 * radius)
    if rng.random() < 0.55:
        return outer
    hollow = rng.uniform(0.5, 0.8)
    return outer - rng.uniform(0.5, 0.95) * cable(controls, radius * hollow, size) / (2 * radius)


def wire(rng: Generator, size: int) -> Array:
    """A guide wire or a thin lead: very thin, very dark."""
    start = _edge_point(rng)
    controls = np.vstack(
        [
            start,
            start + np.cumsum(rng.normal(0, 0.15, (5, 2)), axis=0) + (0.5 - start) * np.linspace(0.3, 1.3, 5)[:, None],
        ]
    )
    radius = rng.uniform(0.0012, 0.003)
    out = cable(controls.astype(np.float32), radius, size) / (2 * radius)
    if rng.random() < 0.4:
        out += _blob(rng, size, controls[-1], rng.uniform(0.004, 0.009))
    return out


def lead(rng: Generator, size: int) -> Array:
    """An ECG lead on the skin: a nearly straight even line, sometimes with its electrode."""
    a, b = _edge_point(rng), _edge_point(rng)
    if rng.random() < 0.5:
        b = rng.uniform(0.1, 0.9, 2)
    controls = np.stack([a, a + (b - a) * 0.3, a + (b - a) * 0.7, b]) + rng.normal(0, 0.04, (4, 2))
    radius = rng.uniform(0.0015, 0.006)
    out = cable(controls.astype(np.float32), radius, size) / (2 * radius)
    if rng.random() < 0.5:
        out += _blob(rng, size, b, rng.uniform(0.01, 0.035))
    return out


def clips(rng: Generator, size: int) -> Array:
    """Surgical clips and the wire loops of a closed breastbone."""
    out = np.zeros((size, size), np.float32)
    at = rng.uniform(0.1, 0.9, 2)
    for _ in range(int(rng.integers(1, 6))):
        here = at + rng.normal(0, 0.15, 2)
        radius = rng.uniform(0.0015, 0.004)
        if rng.random() < 0.6:
            turn, reach = rng.uniform(0, np.pi), rng.uniform(0.008, 0.025)
            direction = np.array([np.cos(turn), np.sin(turn)]) * reach
            controls = np.stack([here - direction, here, here + direction])
        else:
            angles = np.linspace(0, 5.5, 8) + rng.uniform(0, 6)
            controls = here + np.stack(
                [np.cos(angles) * rng.uniform(0.015, 0.05), np.sin(angles) * rng.uniform(0.01, 0.03)], axis=1
            )
        out += cable(controls.astype(np.float32), radius, size) / (2 * radius)
    return out


def _blob(rng: Generator, size: int, at: Array, radius: float) -> Array:
    inside = 1 - ellipse(size, (float(at[0]), float(at[1])), (radius, radius * rng.uniform(0.6, 1)), rng.uniform(0, 3))
    return soft(inside, 6) * rng.uniform(0.3, 1)


def _edge_point(rng: Generator, near: tuple[float, float] | None = None) -> Array:
    """A point just outside the picture; the top is the likeliest, for catheters come down the aorta."""
    side = rng.choice(4, p=[0.55, 0.15, 0.15, 0.15])
    along = (
        rng.uniform(0, 1)
        if near is None or rng.random() < 0.5
        else float(np.clip(near[side in (1, 2)] + rng.normal(0, 0.2), 0, 1))
    )
    return np.array([(along, -0.05), (-0.05, along), (1.05, along), (along, 1.05)][side])
