"""The table, the JSON, the plot, and the tables of docs/performance.md."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.figure import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.figure import Figure

HEADING = f"{'figure':<52}{'value':>12} {'unit':<14}{'smallest to largest':<24}{'target':<16}"
BEGIN = "<!-- bench: {} -->"
END = "<!-- bench: end -->"


def line(figure: Figure) -> str:
    """A figure as a row of the table on the terminal."""
    value = "not measured" if figure.value is None else number(figure.value)
    target = str(figure.target) if figure.target else ""
    row = f"{figure.name:<52}{value:>12} {figure.unit:<14}{spread(figure.values):<24}{target:<16}{figure.verdict}"
    return row.rstrip()


def spread(values: Sequence[float]) -> str:
    """From the smallest to the largest, where there are several."""
    return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""


def machine() -> dict[str, Any]:
    """Where it was measured. ``gpu`` and ``torch``: where torch was loaded, and found a GPU."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    return found


# --------------------------------------------------------------------------------------------------------------- plot


def plot(measured: Mapping[str, Any], path: Path) -> None:
    """Every slope of the JSON as a picture: each run's points, and the line through their medians."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    slopes = [figure for figures in measured["chapters"].values() for figure in figures if figure["points"]]
    rows = max(1, -(-len(slopes) // 3))
    canvas, axes = pyplot.subplots(rows, 3, figsize=(15, 4 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(slopes) :]:
        axis.set_visible(False)
    for axis, figure in zip(axes.flat, slopes, strict=False):
        points = {float(place): values for place, values in figure["points"].items()}
        for place, values in points.items():
            axis.plot([place] * len(values), values, ".", color="0.6")
        axis.plot(list(points), [sorted(values)[len(values) // 2] for values in points.values()], "-")
        axis.set(title=figure["name"].strip(), xlabel=figure["against"], ylabel=figure["of"], ylim=(0, None))
    canvas.savefig(path, dpi=100)
    pyplot.close(canvas)


# ---------------------------------------------------------------------------------------------------------------- docs


def with_tables(page: str, measured: Mapping[str, Any]) -> str:
    """The page with the table of each measured chapter between that chapter's markers; others stay as they are.

    Raises ValueError for a chapter that has no place on the page: a table that nobody sees is not documented.
    """
    for chapter, figures in measured["chapters"].items():
        page = _between(page, chapter, table(figures))
    return _between(page, f"machine-{measured['kind']}", described(measured))


def _between(page: str, name: str, text: str) -> str:
    begin = BEGIN.format(name)
    place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(END)}", re.DOTALL)
    if not place.search(page):
        raise ValueError(f"The page has no place for {name!r}; put the lines {begin!r} and {END!r} into it.")
    return place.sub(lambda _: f"{begin}\n{text}\n{END}", page, count=1)


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Figures of the JSON in Markdown."""
    rows = ["| figure | value | smallest to largest | runs | target |", "|---|---|---|---|---|"]
    for figure in figures:
        value = "not measured" if figure["value"] is None else f"{number(figure['value'])} {figure['unit']}".strip()
        target = f"{figure['target']}: {figure['verdict']}" if figure["target"] else ""
        cells = (figure["name"].strip(), value, spread(figure["values"]), len(figure["values"]), target)
        rows.append("| " + " | ".join(str(cell) for cell in cells).replace("|  |", "| |") + " |")
    return "\n".join(re.sub(r" +\|", " |", row) for row in rows)


def described(measured: Mapping[str, Any]) -> str:
    """What the figures are worth: on which machine, how busy, how many runs."""
    place = measured["machine"]
    busy = place["load_average"][0]
    text = f"{place['cores']} cores, Python {place['python']}, load average {busy:.1f} at the end"
    if "gpu" in place:
        text = f"One {place['gpu']}, torch {place['torch']}, {text}"
    if measured["quick"]:
        text += "; `--quick`: small numbers and few runs"
    if busy > place["cores"] + 1:
        text += ". **The machine had other work**: rates and latencies are worse than on a quiet one"
    return f"{text}. Measured in {measured['seconds']:.0f} s."
