"""Plots for people, by matplotlib and without a screen. Only ``watcherd evaluate`` draws any."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from watcherd.evaluation.figures import Bin, Judged, Point
    from watcherd.evaluation.operating_point import Choice

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
"""Fit for colour-blind people (M. Okabe and K. Ito, "Color Universal Design", 2008); lines also differ in dashes."""

MOST_NAMED = 60
"""Scans whose names are written below one another; of more there are only the bars."""

NAME_INCHES = 0.15
"""Inches of height that a name of 7 points takes."""

LONGEST_NAME = 30
"""Letters of a name that are shown."""

HEIGHT = 4.2
"""Inches of a plot without names."""


def write_plot(
    path: Path, judged: Sequence[Judged], points: Sequence[Point], bins: Sequence[Bin], choice: Choice | None = None
) -> None:
    """All in one picture: Dice of each scan, length and width against the drawn ones, the sweep, reliability.

    ``points`` and ``bins`` may be empty: then there were no probabilities.
    """
    figure, axes = _figure(3 + bool(points) + bool(bins), _height(judged))
    _dice(axes[0], judged)
    _bland_altman(axes[1], judged, "length")
    _bland_altman(axes[2], judged, "width")
    if points:
        _sweep(axes[3], points, choice)
    if bins:
        _reliability(axes[-1], bins)
    figure.savefig(path, dpi=110)


def apart(
    judged: Sequence[Judged], points: Sequence[Point], bins: Sequence[Bin], choice: Choice | None = None
) -> dict[str, bytes]:
    """The same, each by itself: what it shows to a PNG."""
    drawn: dict[str, Callable[[Any], None]] = {
        "Dice and clDice of each scan": lambda axis: _dice(axis, judged),
        "Length against the drawn one, by Bland and Altman": lambda axis: _bland_altman(axis, judged, "length"),
        "Width against the drawn one, by Bland and Altman": lambda axis: _bland_altman(axis, judged, "width"),
    }
    if points:
        drawn["What other thresholds would give"] = lambda axis: _sweep(axis, points, choice)
    if bins:
        drawn["Share of vessel among pixels of similar probability"] = lambda axis: _reliability(axis, bins)
    found = {}
    for place, (title, draw) in enumerate(drawn.items()):
        figure, (axis,) = _figure(1, HEIGHT if place else _height(judged))
        draw(axis)
        content = BytesIO()
        figure.savefig(content, dpi=110)
        found[title] = content.getvalue()
    return found


def write_reliability(path: Path, bins: Sequence[Bin]) -> None:
    """The reliability plot alone."""
    figure, (axis,) = _figure(1, HEIGHT)
    _reliability(axis, bins)
    figure.savefig(path, dpi=90)


def _figure(columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to load; no other command draws plots
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _height(judged: Sequence[Judged]) -> float:
    """Inches that leave room for every name, a title and an axis."""
    return max(HEIGHT, 1.0 + NAME_INCHES * len(judged)) if len(judged) <= MOST_NAMED else HEIGHT


def _short(name: str) -> str:
    """A long name without its middle: beginnings and ends tell scans apart."""
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}\u2026{name[-half:]}"


def _plain(name: str) -> str:
    """A name as it stands: dollars would begin a formula."""
    return name.replace("$", r"\$")


def _dice(axis: Any, judged: Sequence[Judged]) -> None:
    """From the worst to the best, clDice as a dot; names where there is room for them."""
    ordered = sorted(judged, key=lambda one: (one.score.dice, one.name))
    axis.barh(range(len(ordered)), [one.score.dice for one in ordered], color=BLUE)
    lines = [(one.value("cldice"), row) for row, one in enumerate(ordered)]
    there = [(value, row) for value, row in lines if value is not None]
    axis.plot([value for value, _ in there], [row for _, row in there], "o", color=ORANGE, ms=3)
    title = "Dice (bars), clDice (dots), worst first"
    axis.set(xlabel="Dice, clDice", xlim=(0, 1), ylim=(len(ordered) - 0.4, -0.6), title=title)
    names = [_plain(_short(one.name)) for one in ordered] if len(ordered) <= MOST_NAMED else []
    axis.set_yticks(range(len(names)), names, fontsize=7)


def _bland_altman(axis: Any, judged: Sequence[Judged], name: str) -> None:
    """Measured less drawn by their mean, with bias and limits, of the unit that most scans have."""
    from watcherd.evaluation.summaries import extents

    units = [one.unit for one in judged]
    unit = max(sorted(set(units)), key=units.count)
    pairs = [(one.figures.get(name), one.figures.get(f"{name}_drawn")) for one in judged if one.unit == unit]
    there = [(own, drawn) for own, drawn in pairs if own is not None and drawn is not None]
    means, gaps = [(own + drawn) / 2 for own, drawn in there], [own - drawn for own, drawn in there]
    axis.scatter(means, gaps, s=14, color=BLUE, zorder=3)
    axis.axhline(0, color=GREY, linewidth=0.8)
    found = extents(judged).get(f"{name}_{unit}")
    if found is not None:
        axis.axhline(found.bias, color=ORANGE, label=f"bias {found.bias:+,.4g}")
        if found.low is not None and found.high is not None:
            limits = f"limits {found.low:+,.4g} and {found.high:+,.4g}"
            axis.axhline(found.low, color=ORANGE, linestyle="--", label=limits)
            axis.axhline(found.high, color=ORANGE, linestyle="--")
        axis.margins(y=0.25)
        axis.legend(loc="upper left", fontsize=8)
    what = "length" if name == "length" else "mean width"
    axis.set(xlabel=f"mean of both, {unit}", ylabel=f"measured less drawn, {unit}", title=what)
    axis.locator_params(axis="x", nbins=5)


def _sweep(axis: Any, points: Sequence[Point], choice: Choice | None) -> None:
    where = [point.threshold for point in points]
    for name, colour, dashes in (("dice", BLUE, "-"), ("precision", ORANGE, "--"), ("recall", GREEN, ":")):
        axis.plot(where, [getattr(point, name) for point in points], color=colour, linestyle=dashes, label=name)
    if choice is not None:
        there = [point for point in choice.points if point.interval is not None]
        low, high = ([getattr(point.interval, end) for point in there] for end in ("low", "high"))
        if choice.figure in ("dice", "iou", "precision", "recall"):
            axis.fill_between([point.threshold for point in there], low, high, color=GREY, alpha=0.25, linewidth=0)
        axis.axvline(choice.in_use, color=GREY, linewidth=0.8, label=f"in use: {choice.in_use:g}")
        best = f"best {choice.figure}: {choice.best.threshold:g}"
        axis.axvline(choice.best.threshold, color=GREY, linewidth=0.8, linestyle="--", label=best)
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
