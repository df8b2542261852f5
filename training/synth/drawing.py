"""Tubes, smooth noise and soft shapes: what every scene is drawn with."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.interpolate import BSpline

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Array = NDArray[Any]  # float32 or float64, whichever comes about; bool for masks


def tube(points: Array, radii: Array, size: int) -> Array:
    """The thickness of a round tube seen from above, 2 sqrt(R^2 - d^2), in units of the picture's side.

    ``points``: (n, 2) as (x, y) in the unit square, at most about half a pixel apart (see `dense`); ``radii``: (n,).
    The tube is the union of balls, so that bends and tapers need no special care.
    """
    out = np.zeros((size, size), np.float32)
    place, part = tube_part(points, radii, size)
    out[place] = part
    return out


def tube_part(points: Array, radii: Array, size: int) -> tuple[tuple[slice, slice], Array]:
    """As `tube`, but only the box that the tube lies in, and where that box is."""
    xy, radius = points * size - 0.5, np.asarray(radii) * size
    half = np.ceil(radius).astype(int)
    inside = ((xy > -half[:, None] - 1) & (xy < size + half[:, None])).all(axis=1)
    if not inside.any():
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.float32)
    xy, radius, half = xy[inside], radius[inside], half[inside]
    margin = int(half.max()) + 1
    left, top = np.maximum(np.floor(xy.min(axis=0)).astype(int) - margin, 0)
    right, bottom = np.minimum(np.ceil(xy.max(axis=0)).astype(int) + margin + 1, size)
    shape = (int(bottom - top), int(right - left))
    out = np.zeros(shape[0] * shape[1], np.float32)
    for h in np.unique(half):
        chosen = half == h
        _stamp(out, xy[chosen] - (left, top), radius[chosen], int(h), shape)
    return (slice(top, bottom), slice(left, right)), out.reshape(shape) / size


def _stamp(out: Array, xy: Array, radius: Array, half: int, shape: tuple[int, int]) -> None:
    """Raise ``out`` to the thickness of balls at ``xy`` (pixels), all within windows of ``half`` pixels."""
    base = np.floor(xy + 0.5).astype(int)
    offsets = np.arange(-half, half + 1)
    columns = base[:, 0, None] + offsets
    rows = base[:, 1, None] + offsets
    dx2 = (columns - xy[:, 0, None]) ** 2
    dy2 = (rows - xy[:, 1, None]) ** 2
    height2 = radius[:, None, None] ** 2 - dy2[:, :, None] - dx2[:, None, :]
    flat = rows[:, :, None] * shape[1] + columns[:, None, :]
    seen = (height2 > 0) & _within(rows, shape[0])[:, :, None] & _within(columns, shape[1])[:, None, :]
    np.maximum.at(out, flat[seen], (2 * np.sqrt(height2[seen])).astype(np.float32))


def _within(index: NDArray[np.int_], size: int) -> NDArray[np.bool_]:
    return (index >= 0) & (index < size)


def dense(points: Array, step: float) -> tuple[Array, Array]:
    """The polyline resampled every ``step``, and each new point's place on the old one (0 to n - 1)."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    places = np.interp(np.linspace(0, along[-1], max(2, int(along[-1] / step) + 1)), along, np.arange(len(points)))
    index = np.arange(len(points))
    return np.stack([np.interp(places, index, points[:, k]) for k in (0, 1)], axis=1), places


def curve(controls: Array, count: int = 200) -> Array:
    """A smooth curve (a B-spline of the controls) as (count, 2)."""
    degree = min(3, len(controls) - 1)
    knots = np.concatenate([np.zeros(degree), np.linspace(0, 1, len(controls) - degree + 1), np.ones(degree)])
    return np.asarray(BSpline(knots, controls, degree)(np.linspace(0, 1, count)), dtype=np.float32)


def cable(controls: Array, radius: float, size: int) -> Array:
    """The thickness of a tube of constant width along a smooth curve."""
    points, _ = dense(curve(controls), 0.5 / size)
    return tube(points, np.full(len(points), radius, np.float32), size)


def grid(size: int) -> tuple[Array, Array]:
    """x and y of every pixel's centre in the unit square."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def resize(array: Array, size: int) -> Array:
    """Bicubic when growing, with averaging when shrinking."""
    if array.shape == (size, size):
        return array
    return np.asarray(
        Image.fromarray(array.astype(np.float32), mode=None).resize((size, size), Image.Resampling.BICUBIC)
    )


def smooth_noise(rng: Generator, size: int, scale: float) -> Array:
    """Noise of unit variance whose blobs are about ``scale`` of the side."""
    cells = min(size, max(3, round(1.5 / scale) + 2))
    field = rng.standard_normal((cells, cells)).astype(np.float32)
    return resize(field, size) / 0.75


def clouds(rng: Generator, size: int, *, largest: float, smallest: float, roughness: float) -> Array:
    """Octaves of smooth noise; each half as large as the last one has ``roughness`` times its amplitude."""
    out = np.zeros((size, size), np.float32)
    scale, amplitude = largest, 1.0
    while scale > smallest:
        out += amplitude * smooth_noise(rng, size, scale)
        scale, amplitude = scale / 2, amplitude * roughness
    return out


def ellipse(size: int, center: tuple[float, float], axes: tuple[float, float], angle: float) -> Array:
    """The squared radius in an ellipse's own coordinates: less than 1 inside."""
    x, y = grid(size)
    dx, dy = x - center[0], y - center[1]
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / axes[0]
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / axes[1]
    return np.asarray(u * u + v * v)


def soft(inside: Array, sharpness: float) -> Array:
    """A step at 0, smooth over about 1 / ``sharpness``."""
    return 1 / (1 + np.exp(-np.clip(inside * sharpness, -30, 30)))


def blur(array: Array, sigma: float | tuple[float, float]) -> Array:
    """A Gaussian blur; ``sigma`` in pixels."""
    return ndimage.gaussian_filter(array, sigma, mode="nearest") if np.any(np.asarray(sigma) > 0.05) else array


def motion(array: Array, length: float, angle: float) -> Array:
    """Smeared along a line of ``length`` pixels."""
    count = max(1, int(np.ceil(length)))
    steps = np.linspace(-length / 2, length / 2, count + 1)
    moved = [ndimage.shift(array, (s * np.sin(angle), s * np.cos(angle)), order=1, mode="nearest") for s in steps]
    return np.asarray(np.mean(moved, axis=0, dtype=np.float32))


def unsharp(array: Array, sigma: float, amount: float) -> Array:
    """Edges raised, as X-ray machines and cameras do."""
    return array + amount * (array - blur(array, sigma))


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The picture after a JPEG of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
