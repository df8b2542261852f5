"""Fit 16-bit, 32-bit and floating-point scans into the 8 bits of a picture, with one stated window for the whole scan.

Pure. Nothing is clipped without saying so: the window is returned and stands in the job's record. Pillow's own
conversions clip (``convert("L")`` turns everything from 256 up white), which whitens a 12-bit angiogram silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from watcherd.errors import InputError
from watcherd.imaging.readers.scan import bands

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import EllipsisType

PERCENTILES = (0.1, 99.9)
"""The window's ends: the darkest and the brightest thousandth of a scan's values become plain black and white, so that
a few hot pixels do not darken everything else."""

SAMPLES = 1 << 16
"""Values kept of each frame of 32-bit and floating-point scans; 8-bit and 16-bit ones are counted completely."""

MOST_SAMPLES = 1 << 22
"""Of all frames together (32 MiB): of a long run fewer are kept of each."""

LEVELS_ENOUGH = 32
"""Of 256 levels, as many as the values between the `PERCENTILES` must reach for a file's own window to be used if
another shows more: with fewer, a scan is plain black, white or grey."""

Numbers = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Values from ``low`` (black) to ``high`` (white), linear between; what lies outside is black or white."""

    low: float
    high: float

    def apply(self, values: Numbers) -> NDArray[np.uint8]:
        """The values as 0 to 255, rounded, in the same shape. NaN becomes black, as missing pixels are."""
        table = None
        if values.dtype == np.uint16 and values.size > 1 << 16:
            table = self._scale(np.arange(1 << 16))  # faster than arithmetic
        shown = np.empty(values.shape, np.uint8)
        for rows in _pieces(values):
            shown[rows] = self._scale(values[rows]) if table is None else np.take(table, values[rows])
        return shown

    def _scale(self, values: Numbers) -> NDArray[np.uint8]:
        # halves first: the difference of two huge numbers may overflow, that of their halves cannot
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            share = (values / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
            scaled: Numbers = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 255
        return np.asarray(scaled + 0.5, np.uint8)


def widest(windows: Sequence[Window]) -> Window:
    """The window that fits all of these."""
    return Window(low=min(window.low for window in windows), high=max(window.high for window in windows))


class Showing(Protocol):
    """A `Window`, or what else makes 0 to 255 of values."""

    def apply(self, values: Numbers) -> NDArray[np.uint8]: ...


def _pieces(values: Numbers) -> Iterable[slice | EllipsisType]:
    """Rows that are worked on together; all of what has no rows."""
    if values.ndim < 2 or not values.size:
        return (...,)
    return bands(values.shape[0], values.size // values.shape[0])


class Survey:
    """Looks at every frame of a scan once and then knows the window that fits them all.

    Memory stays bounded: counts of all values up to 16 bits, else `SAMPLES` values for each of its ``frames``, and
    `MOST_SAMPLES` in all.
    """

    def __init__(self, frames: int = 1) -> None:
        self._each = max(1, min(SAMPLES, MOST_SAMPLES // max(1, frames)))
        self._counts = np.zeros(1 << 16, np.int64)
        self._offset = 0
        self._samples: list[NDArray[np.float64]] = []
        self._low, self._high = np.inf, -np.inf
        self._full = (0.0, 1.0)
        self._of_8_bits = True
        self._found: Window | None = None

    @property
    def is_of_8_bits(self) -> bool:
        """Whether all frames were of unsigned 8 bits."""
        return self._of_8_bits

    def add(self, frame: Numbers) -> None:
        """Take in a frame of any integer or floating type. All frames of a scan have one type."""
        self._found = None
        self._of_8_bits &= frame.dtype == np.uint8
        for rows in _pieces(frame):
            if frame.dtype.kind in "iub" and frame.dtype.itemsize <= 2:
                self._count(frame[rows])
            else:
                self._sample(frame[rows], self._each * frame[rows].size / frame.size)

    def _count(self, frame: Numbers) -> None:
        info = np.iinfo(np.uint8 if frame.dtype == np.bool_ else frame.dtype)
        self._full, self._offset = (float(info.min), float(info.max)), int(info.min)
        shifted = frame.ravel().astype(np.int64) - self._offset
        self._counts += np.bincount(shifted, minlength=1 << 16)

    def _sample(self, frame: Numbers, most: float) -> None:
        if frame.dtype.kind in "iu":
            self._full = (float(np.iinfo(frame.dtype).min), float(np.iinfo(frame.dtype).max))
        finite = frame[np.isfinite(frame)]
        if finite.size:
            self._low = min(self._low, float(finite.min()))
            self._high = max(self._high, float(finite.max()))
            self._samples.append(finite[:: int(finite.size / most) + 1].astype(np.float64))

    def levels(self, shown: Showing) -> int:
        """How many of 256 levels the values between the `PERCENTILES` reach when they are ``shown``, from 1 on."""
        window = self.window()
        share = np.linspace(0, 1, 256)
        values = window.low * (1 - share) + window.high * share  # the difference of two huge numbers may overflow
        levels = shown.apply(values)
        return int(levels.max()) - int(levels.min()) + 1

    def window(self) -> Window:
        """The window between the `PERCENTILES`; between the extremes where those coincide; all that the type can hold
        (0 to 1 for floats) for a scan of one value.

        Raises `InputError` for a scan without a single finite value.
        """
        if self._found is None:
            low, high = self._counted() if self._counts.any() else self._sampled()
            self._found = Window(low=low, high=high) if low < high else Window(low=self._full[0], high=self._full[1])
        return self._found

    def _counted(self) -> tuple[float, float]:
        filled = np.cumsum(self._counts)
        ranks = [filled[-1] * share / 100 for share in PERCENTILES]
        low, high = (int(np.searchsorted(filled, rank)) for rank in ranks)
        if low == high:
            present = np.flatnonzero(self._counts)
            low, high = int(present[0]), int(present[-1])
        return float(low + self._offset), float(high + self._offset)

    def _sampled(self) -> tuple[float, float]:
        if not self._samples:
            raise InputError(
                "The scan holds no picture: not one of its values is a finite number.",
                hint="Every pixel is NaN or infinite; export the scan again.",
            )
        low, high = np.percentile(np.concatenate(self._samples), PERCENTILES)
        return (float(low), float(high)) if low < high else (self._low, self._high)
