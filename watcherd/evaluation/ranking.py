"""How well probabilities tell vessel from background at all thresholds together: AUC and average precision. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from watcherd.evaluation.figures import Histogram


def auc(pixels: Histogram) -> float | None:
    """The area under the ROC curve: how often a pixel of a vessel has a higher probability than one of the background,
    equal ones counting half (J. A. Hanley, B. J. McNeil, Radiology 143, 1982). None where there are not both.
    """
    vessels, others = int(pixels.vessel.sum()), int(pixels.other.sum())
    if not vessels or not others:
        return None
    below = np.cumsum(pixels.other) - pixels.other
    won = np.dot(pixels.vessel.astype(np.float64), below + pixels.other / 2)
    return float(won / vessels / others)


def average_precision(pixels: Histogram) -> float | None:
    """Precision at each probability that occurs, weighted by the recall gained there, without interpolation (C. D.
    Manning, P. Raghavan, H. Schuetze, "Introduction to information retrieval", 2008, 8.4). None without vessels.
    """
    vessels = int(pixels.vessel.sum())
    if not vessels:
        return None
    gained = pixels.vessel[::-1]
    found, taken = np.cumsum(gained), np.cumsum((pixels.vessel + pixels.other)[::-1])
    precision = found / np.maximum(taken, 1)
    return float(np.dot(gained, precision) / vessels)
