"""How much two models' masks of the same scans agree, where nobody has drawn any. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watcherd.evaluation.figures import Judged

FIGURES: Final = ("dice", "cldice", "ratio")
"""Figures that quantiles are given of."""

QUANTILES: Final = {"least": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "most": 1.0}
"""What they are called, as shares of the scans; between two scans as numpy's linear ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two masks of one scan. ``areas``: their pixels, those of all frames together, the first model's first.

    ``dice`` and ``cldice`` are 0 to 1, the same whichever model comes first; 1 where both masks are empty. ``cldice``
    is None where a mask is too large and solid to be thinned in time.
    """

    name: str
    jobs: tuple[int, int]
    dice: float
    cldice: float | None
    areas: tuple[int, int]

    @property
    def ratio(self) -> float | None:
        """The first area in terms of the second; None where that is empty."""
        return self.areas[0] / self.areas[1] if self.areas[1] else None

    def value(self, name: str) -> float | None:
        """One of `FIGURES`."""
        found: float | None = getattr(self, name)
        return found

    def as_json(self, pixels: tuple[float | None, float | None]) -> dict[str, Any]:
        """``pixels``: each model's mask as a share of the pixels, as its record has it."""
        return {
            "name": self.name,
            "jobs": list(self.jobs),
            "dice": self.dice,
            "cldice": self.cldice,
            "areas": list(self.areas),
            "mask_fractions": list(pixels),
            "ratio": self.ratio,
        }


def of(judged: Judged, jobs: tuple[int, int]) -> Agreement:
    """The agreement of the first model's mask, as if it were judged by the second one's."""
    score = judged.score
    return Agreement(
        name=judged.name,
        jobs=jobs,
        dice=score.dice,
        cldice=judged.figures.get("cldice"),
        areas=(score.both + score.invented, score.both + score.missed),
    )


def apart_first(found: Iterable[Agreement]) -> list[Agreement]:
    """The largest differences first: by Dice, then by how far the areas are from each other."""
    return sorted(found, key=lambda one: (one.dice, -abs(one.areas[0] - one.areas[1]), one.name, one.jobs))


def summary(found: Sequence[Agreement]) -> dict[str, Mapping[str, float | int]]:
    """Of each figure the mean, the quantiles, and how many scans have it; a figure that none has is left out."""
    whole: dict[str, Mapping[str, float | int]] = {}
    for name in FIGURES:
        values = [value for one in found if (value := one.value(name)) is not None]
        if values:
            shares = np.quantile(values, list(QUANTILES.values())).tolist()
            whole[name] = {
                "mean": float(np.mean(values)),
                **dict(zip(QUANTILES, shares, strict=True)),
                "scans": len(values),
            }
    return whole
