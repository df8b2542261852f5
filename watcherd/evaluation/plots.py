"""Plots for people, by matplotlib and without a screen. Only ``watcherd evaluate`` draws any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watcherd.evaluation.figures import Bin, Judged, Point

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Fit for colour-blind people (M. Okabe and K. Ito, "Color Universal Design", 2008); lines also differ in dashes."""

MOST_NAMED = 40
"""Scans whose names can be read below one another."""


def write_plot(
    path: Path, judged: Sequence[Judged], points: Sequence[Point], bins: Sequence[Bin], threshold: float
) -> None:
    """All in one picture: Dice of each scan, the sweep, reliability. ``points`` may be empty."""
    figure, axes = _figure(3 if points else 2, 4.2)
    _dice(axes[0], judged)
    if points:
        _sweep(axes[1], points, threshold)
    _reliability(axes[-1], bins)
    figure.savefig(path, dpi=110)


def write_reliability(path: Path, bins: Sequence[Bin]) -> None:
    """The reliability plot alone."""
    figure, (axis,) = _figure(1, 4.2)
    _reliability(axis, bins)
    figure.savefig(path, dpi=90)


def _figure(columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to load; no other command draws plots
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _dice(axis: Any, judged: Sequence[Judged]) -> None:
    """From the worst to the best; names where there is room for them."""
    ordered = sorted(judged, key=lambda one: (one.score.dice, one.name))
    axis.barh(range(len(ordered)), [one.score.dice for one in ordered], color=BLUE)
    axis.set(xlabel="Dice", xlim=(0, 1), title="scans, worst first", ylabel="")
    axis.invert_yaxis()
    names = [one.name for one in ordered] if len(ordered) <= MOST_NAMED else []
    axis.set_yticks(range(len(names)), names, fontsize=7)


def _sweep(axis: Any, points: Sequence[Point], threshold: float) -> None:
    where = [point.threshold for point in points]
    for name, colour, dashes in (("dice", BLUE, "-"), ("precision", ORANGE, "--"), ("recall", GREEN, ":")):
        axis.plot(where, [getattr(point, name) for point in points], color=colour, linestyle=dashes, label=name)
    axis.axvline(threshold, color=GREY, linewidth=0.8, label=f"in use: {threshold:g}")
    axis.set(
        xlabel="threshold", ylabel="mean over the scans", xlim=(0, 1), ylim=(0, 1), title="thresholds, of the map alone"
    )
    axis.legend(loc="lower left", fontsize=8)


def _reliability(axis: Any, bins: Sequence[Bin]) -> None:
    """Share of vessel by probability, and below how many pixels there are."""
    probability, vessel = [one.probability for one in bins], [one.vessel for one in bins]
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="calibrated")
    axis.plot(probability, vessel, color=BLUE, marker="o", label="found")
    axis.set(
        xlabel="probability in the map", ylabel="share that is vessel", xlim=(0, 1), ylim=(0, 1), title="reliability"
    )
    axis.legend(loc="upper left", fontsize=8)
    most = max((one.pixels for one in bins), default=1)
    pixels = axis.twinx()
    pixels.bar(probability, [one.pixels for one in bins], width=0.06, color=GREY, alpha=0.25, zorder=0)
    pixels.set(ylabel="pixels", yscale="log", ylim=(1, float(most) ** 4))
    pixels.set_yticks([10**power for power in range(len(str(most)))], minor=False)
    pixels.tick_params(labelsize=7)
    pixels.minorticks_off()
