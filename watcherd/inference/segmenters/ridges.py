"""Find dark lines in a picture: field of view, local contrast, oriented line filters, hysteresis. NumPy and SciPy only.

The line filter is the second derivative of a Gaussian across the line, averaged by a longer Gaussian along it. Plain
Hessian filters (A. F. Frangi et al., MICCAI 1998; Y. Sato et al., Medical Image Analysis 2, 1998) take every blob of
noise for a piece of vessel; averaging along the line does not (S. Chaudhuri et al., IEEE TMI 8, 1989).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Map = NDArray[np.float32]
    Area = NDArray[np.bool_]

DIRECTIONS = 12
"""Angles that are tried, 15 degrees apart."""

BLACK, SHADE, WHITE = 0.08, 0.25, 0.97
"""Shares of the picture's brightest value: a border below `BLACK` is no part of the picture; one below `SHADE` (scatter
lightens a collimator's blades), above `WHITE` or as dark as the picture ever gets is none where it is flat."""

FLAT = 0.01
"""Mean deviation, as a share of the picture's range, of what is flat."""

SCATTER = 0.5
"""Light that is everywhere and was not absorbed by anything, as a share of the brightest. Fitted."""

LEAST_RANGE = 0.25
"""A picture whose values span less than this share of the brightest shows little, and is not stretched further."""

SLOPE = np.float32(1.5)
"""How much the slope across a line counts against it. Fitted."""

SMALLEST_FIELD = 0.2
"""A field of view below this share of the picture is a mistake, and the whole picture is taken."""


def field_of_view(grey: Map, margin: int) -> Area:
    """Where the picture shows anything: without the collimator's blades or the surroundings of a retina.

    ``grey``: (height, width). ``margin``: pixels taken off at the rim, where the surroundings blur into the picture.
    """
    low, top = (float(value) for value in np.percentile(grey, (0.5, 99)))
    local = ndimage.uniform_filter(grey, 5, mode="nearest")
    spread = ndimage.uniform_filter(np.abs(grey - local), 5, mode="nearest")
    flat = spread < FLAT * (top - low)
    shade = (local < SHADE * top) | (local < low + BLACK * (top - low)) | (local > WHITE * max(top, 230))
    outside = (local < BLACK * top) | (flat & shade)
    outside = _touching_border(outside)
    labels, _ = ndimage.label(~outside)
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size or sizes.max() < SMALLEST_FIELD * grey.size or not outside.any():
        return np.ones(grey.shape, bool)
    inside = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
    # the picture's own edge is no rim: erosion there would lose vessels that leave the picture
    return np.asarray(ndimage.distance_transform_edt(inside) > margin, bool)


def _touching_border(area: Area) -> Area:
    labels, count = ndimage.label(area)
    touching = np.zeros(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    touching[0] = False
    return np.asarray(touching[labels], bool)


def absorption(grey: Map, field: Area) -> Map:
    """The picture in which a vessel is as deep in the dark as in the light: 100 times the logarithm of the brightness.

    Light and X-rays are absorbed by a share of what there is (Beer and Lambert). Brightness runs from 0 to 1 between
    the field's darkest and brightest hundredth, so that the window in which a scan was exported makes no difference.
    `SCATTER` keeps noise in the dark small.
    """
    low, top = (float(value) for value in np.percentile(grey[field], (1, 99))) if field.any() else (0.0, 1.0)
    low = min(low, (1 - LEAST_RANGE) * top)
    bright = np.maximum(grey - low, 0) / max(top - low, 1.0)
    return np.asarray(100 * np.log(bright + SCATTER), np.float32)


def local_contrast(grey: Map, field: Area, *, radius: int, floor: float, locality: float) -> Map:
    """How far each pixel is above its surroundings, in standard deviations; 0 outside the field.

    Surroundings are squares of ``radius``, within the field only. ``locality`` 1 takes the surroundings' own deviation,
    0 the picture's mean one, and what is between mixes them (as powers). ``floor`` is added to both, in the picture's
    own units, so that noise in flat parts is not blown up.
    """
    weight = field.astype(np.float32)
    share = _mean(weight, radius) + np.float32(1e-3)
    above = (grey - _mean(grey * weight, radius) / share) * weight
    here = np.sqrt(np.maximum(_mean(above * above, radius) / share, 0)) + np.float32(floor)
    everywhere = float(here[field].mean()) if field.any() else 1.0
    return np.asarray(above / (here**locality * everywhere ** (1 - locality)), np.float32)


def _mean(values: Map, radius: int) -> Map:
    return np.asarray(ndimage.uniform_filter(values, 2 * radius + 1, mode="constant"), np.float32)


def dark_lines(contrast: Map, *, sigmas: tuple[float, ...], elongation: float, reach: int) -> Map:
    """The strongest answer of a dark line of any direction and width at each pixel, at least 0.

    ``sigmas``: half the widths looked for, in pixels; a line answers alike at every size.
    ``elongation``: the filter's length over its width.

    A step, such as the diaphragm's or a rib's edge, answers as well as a faint line. But on a line's axis the slope
    across it is 0, on a step it is not: nothing may answer stronger than the best answer less `SLOPE` times its
    slope within ``reach`` pixels.
    """
    pad = int(2 * elongation * max(sigmas))
    height, width = contrast.shape
    shape = (fft.next_fast_len(height + pad, real=True), fft.next_fast_len(width + pad, real=True))
    workers = len(os.sched_getaffinity(0))
    spectrum = fft.rfft2(contrast, shape, workers=workers)
    lines, axes = np.zeros(contrast.shape, np.float32), np.zeros(contrast.shape, np.float32)
    for kernel in _kernels(shape, sigmas, elongation):
        curvature = fft.irfft2(spectrum * kernel.curvature, shape, workers=workers)[:height, :width]
        slope = fft.irfft2(spectrum * kernel.slope, shape, workers=workers)[:height, :width]
        np.maximum(lines, curvature, out=lines)
        np.maximum(axes, curvature - SLOPE * np.abs(slope), out=axes)
    return np.minimum(lines, ndimage.maximum_filter(axes, 2 * reach + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kernel:
    """Transforms of the second and first derivative across a line, normalised by sigma squared and sigma."""

    curvature: Map
    slope: NDArray[np.complex64]


@lru_cache(maxsize=2)
def _kernels(shape: tuple[int, int], sigmas: tuple[float, ...], elongation: float) -> list[_Kernel]:
    """With w the frequency across and v along: -(w s)^2 g and i w s g, where g = exp(-((w s)^2 + (v e s)^2) / 2)."""
    down = 2 * np.pi * fft.fftfreq(shape[0])[:, np.newaxis]
    right = 2 * np.pi * fft.rfftfreq(shape[1])[np.newaxis]
    kernels = []
    for sigma in sigmas:
        for angle in np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
            across = sigma * (np.cos(angle) * down - np.sin(angle) * right)
            along = sigma * elongation * (np.sin(angle) * down + np.cos(angle) * right)
            bell = np.exp(-(across**2 + along**2) / 2)
            kernels.append(
                _Kernel(
                    curvature=(-(across**2) * bell).astype(np.float32),
                    slope=(1j * across * bell).astype(np.complex64),
                )
            )
    return kernels


def connected(weak: Area, strong: Area, smallest: float) -> Area:
    """The parts of ``weak`` that hold a pixel of ``strong`` and have at least ``smallest`` pixels."""
    labels, count = ndimage.label(weak, np.ones((3, 3)))
    keep = np.zeros(count + 1, bool)
    keep[labels[strong]] = True
    keep &= np.bincount(labels.ravel(), minlength=count + 1) >= smallest
    keep[0] = False
    return np.asarray(keep[labels], bool)
