"""From absorption or light to the bytes of a picture: field, noise, sharpness, window, compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synth.drawing import blur, ellipse, grid, jpeg, soft, unsharp

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from training.synth.drawing import Array


def collimator(rng: Generator, size: int) -> Array:
    """1 in the open field, 0 behind the blades or outside the intensifier's circle; edges a little soft."""
    x, y = grid(size)
    kind = rng.choice(["circle", "blades", "octagon"])
    if kind == "circle":
        reach = rng.uniform(0.48, 0.68)
        return soft(1 - ellipse(size, tuple(0.5 + rng.uniform(-0.03, 0.03, 2)), (reach, reach), 0), size / 3)
    field = np.ones((size, size), np.float32)
    turn = rng.uniform(-0.05, 0.05)
    for axis in range(2):
        for sign in (-1, 1):
            if rng.random() < 0.55:
                place = (x - 0.5) * np.cos(turn + axis * np.pi / 2) + (y - 0.5) * np.sin(turn + axis * np.pi / 2)
                field *= soft(rng.uniform(0.36, 0.5) - sign * place, rng.uniform(0.3, 1.0) * size)
    if kind == "octagon":
        field *= soft(rng.uniform(0.75, 0.95) - np.abs(x - 0.5) - np.abs(y - 0.5), size)
    return field


def xray(rng: Generator, log_image: Array, *, field: Array, noise: float) -> NDArray[np.uint8]:
    """The picture an X-ray machine shows. ``noise``: relative standard deviation of the quanta at mid grey."""
    size = len(log_image)
    scale = size / 300
    centred = log_image - float(np.median(log_image))
    sharp = blur(centred, rng.uniform(0.2, 1.0) * scale)
    quanta = rng.standard_normal((size, size)).astype(np.float32)
    grain = blur(quanta, rng.uniform(0, 0.9))
    grain *= noise / max(float(grain.std()), 1e-6)
    seen = sharp + grain * np.exp(-0.25 * np.clip(sharp, -2, 2))
    if rng.random() < 0.35:
        seen = unsharp(seen, rng.uniform(1, 6) * scale, rng.uniform(0.2, 1.2))
    if rng.random() < 0.5:
        seen = np.exp(seen)
    shown = window(rng, seen, field)
    behind = rng.choice([0.0, rng.uniform(0, 0.12), rng.uniform(0.9, 1.0)], p=[0.55, 0.33, 0.12])
    shown = shown * field + behind * (1 - field) + 0.004 * quanta * (1 - field)
    shown = burned_in(rng, shown)
    image = to_bytes(255 * shown)
    return jpeg(image, int(rng.integers(35, 96))) if rng.random() < 0.7 else image


def window(rng: Generator, seen: Array, field: Array) -> Array:
    """Stretched to 0..1 with a random black point, white point and gamma."""
    values = seen[field > 0.9]
    low, high = np.percentile(values if values.size else seen, [rng.uniform(0.02, 1.0), 100 - rng.uniform(0.02, 2.0)])
    stretched = np.clip((seen - low) / max(high - low, 1e-6), 0, 1) ** rng.uniform(0.65, 1.5)
    black, white = rng.uniform(0, 0.2), rng.uniform(0.65, 1.0)
    return np.asarray(black + (white - black) * stretched, np.float32)


def burned_in(rng: Generator, shown: Array) -> Array:
    """Now and then letters or marks in a corner; short strokes stand for them."""
    if rng.random() > 0.12:
        return shown
    out, size = shown.copy(), len(shown)
    tall = max(5, size // 40)
    y = int(rng.choice([size // 50, size - 2 * tall]))
    x = int(rng.choice([size // 50, size // 2]))
    for _ in range(int(rng.integers(3, 12))):
        glyph = rng.random((tall, tall * 2 // 3)) < 0.45
        part = out[y : y + tall, x : x + glyph.shape[1]]
        part[glyph[: part.shape[0], : part.shape[1]]] = 1.0
        x += tall
    return out


def to_bytes(values: Array) -> NDArray[np.uint8]:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
