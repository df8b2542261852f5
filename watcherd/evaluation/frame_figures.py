"""All figures of a mask against a drawn one beyond counts of pixels, of a frame and of a scan. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from watcherd.evaluation.distances import apart, boundary_f
from watcherd.evaluation.topology import betti, cldice
from watcherd.imaging.results.measures import measure_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Spacing = tuple[float, float]
    Values = Mapping[str, float | None]

SHAPES: Final = ("cldice", "hd95", "assd", "nsd", "betti0", "betti1")
"""Figures of a frame's shapes; of a run the mean over its frames."""

OF_RUNS: Final = ("j", "f", "jf")
"""Figures of runs alone: the DAVIS benchmark's J, F, and their mean J&F."""

EXTENTS: Final = ("length", "length_drawn", "width", "width_drawn")
"""The skeleton's length and the mean width on it, of the mask and of the drawn one: see docs/measures.md."""

EVERY: Final = (*SHAPES, *EXTENTS)

LOWER_IS_BETTER: Final = frozenset({"hd95", "assd", "betti0", "betti1"})

SECONDS = 15.0
"""Seconds that thinning one frame may take by `measures`' estimate; of larger ones skeletons are not made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far outlines may be apart for NSD. ``amount`` in ``unit``."""

    amount: float = 2.0
    unit: Literal["px", "mm"] = "px"

    def within(self, spacing: Spacing | None) -> float | None:
        """In the unit that distances have: mm where the spacing is known, a pixel then being its mean side.

        None: it is given in mm, and how large a pixel is is not known.
        """
        if self.unit == "mm":
            return self.amount if spacing else None
        return self.amount * float(np.sqrt(spacing[0] * spacing[1])) if spacing else self.amount


def of_frame(
    mask: Mask,
    truth: Mask,
    counted: Mask | None = None,
    *,
    spacing: Spacing | None = None,
    tolerance: Tolerance | None = None,
    names: Sequence[str] = EVERY,
) -> dict[str, float | None]:
    """The figures ``names`` of one frame; arrays of one shape (height, width). Lengths are in mm with a ``spacing``.

    What is not ``counted`` is empty in both. None: there is nothing to be measured, or it would take too long.
    """
    if counted is not None:
        mask, truth = mask & counted, truth & counted
    found: dict[str, float | None] = {}
    wanted = set(names)
    if wanted & set(OF_RUNS):
        found |= _davis(mask, truth)
    mask, truth = _cropped(mask, truth)
    if wanted & {"cldice", *EXTENTS}:
        found |= _lines(mask, truth, spacing)
    if wanted & {"hd95", "assd", "nsd"}:
        found |= _apart(mask, truth, spacing, tolerance or Tolerance())
    if wanted & {"betti0", "betti1"}:
        pieces, holes = (float(abs(one - other)) for one, other in zip(betti(mask), betti(truth), strict=True))
        found |= {"betti0": pieces, "betti1": holes}
    return {name: found[name] for name in names}


def _cropped(mask: Mask, truth: Mask) -> tuple[Mask, Mask]:
    """The box around what is set in either: nothing outside of it changes a figure."""
    either = mask | truth
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask[:1, :1], truth[:1, :1]
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return mask[box], truth[box]


def _davis(mask: Mask, truth: Mask) -> dict[str, float | None]:
    either = np.count_nonzero(mask | truth)
    j = float(np.count_nonzero(mask & truth) / either) if either else 1.0
    f = boundary_f(mask, truth)
    return {"j": j, "f": f, "jf": None if f is None else (j + f) / 2}


def _lines(mask: Mask, truth: Mask, spacing: Spacing | None) -> dict[str, float | None]:
    """clDice, lengths and widths; None where thinning would take longer than `SECONDS`."""
    own, drawn = (
        measure_frames(area.astype(np.uint8)[np.newaxis], [int(np.count_nonzero(area))], spacing, seconds=SECONDS)[0]
        for area in (mask, truth)
    )
    return {
        "cldice": None if own.length is None or drawn.length is None else cldice(mask, truth),
        "length": own.length,
        "length_drawn": drawn.length,
        "width": own.mean_width,
        "width_drawn": drawn.mean_width,
    }


def _apart(mask: Mask, truth: Mask, spacing: Spacing | None, tolerance: Tolerance) -> dict[str, float | None]:
    reach = tolerance.within(spacing)
    found = apart(mask, truth, spacing=spacing or (1.0, 1.0), tolerance=0.0 if reach is None else reach)
    return {"hd95": found.hd95, "assd": found.assd, "nsd": None if reach is None else found.nsd}


def of_scan(frames: Sequence[Values]) -> dict[str, float | None]:
    """The means over a scan's frames; of each figure over those that have it, None where none has."""
    found: dict[str, float | None] = {}
    for name in frames[0]:
        values = [value for frame in frames if (value := frame[name]) is not None]
        found[name] = statistics.fmean(values) if values else None
    return found
