"""The page of ``watcherd evaluate``: one HTML file with figures, plots, and the worst and best scans as pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.report.html import document, picture, section, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from watcherd.evaluation.summaries import Mean

MOST_SAID = 20
"""Lines about files that are shown."""

TILES = {"dice": "Dice", "cldice": "clDice", "iou": "IoU", "hd95": "HD95"}

WORDS = {
    "worst": ("The lowest Dice", "Agreement, misses and inventions in three colours."),
    "best": ("The highest Dice", "The same, of the scans on which both agree most."),
    "differ": ("Where the two differ most", "Of each scan first these masks, then the others."),
}
"""Files of an evaluation to title and words of their section."""


def page(
    found: Mapping[str, Any],
    means: Mapping[str, Mean],
    plots: Mapping[str, bytes],
    pictures: Mapping[str, Sequence[Path]],
    made_at: datetime,
) -> str:
    """The whole of it. ``found``: what `evaluation.json` holds; ``pictures``: JPEGs by the key in `WORDS`."""
    when = f"{made_at.day} {made_at:%b %Y %H:%M}{_threshold(found)}"
    model = f"<p>{escape(', '.join(found['models']))}</p>"
    truth = f'<p class="quiet">{_count(found)} judged by {escape(found["truth"])}, {when}</p>'
    return document("watcherd evaluation", "\n".join(_sections(found, means, plots, pictures)), [model, truth])


def _count(found: Mapping[str, Any]) -> str:
    count = len(found["scans"])
    return "1 scan" if count == 1 else f"{count:,} scans"


def _threshold(found: Mapping[str, Any]) -> str:
    return "" if found["threshold"] is None else f", threshold {found['threshold']:g}"


def _sections(
    found: Mapping[str, Any],
    means: Mapping[str, Mean],
    plots: Mapping[str, bytes],
    pictures: Mapping[str, Sequence[Path]],
) -> Iterator[str]:
    yield _tiles(means)
    if found["doubts"]:
        yield section("To know of these figures", _lines(found["doubts"]))
    yield _means(means)
    if found["against"] is not None:
        yield _differences(found["against"])
    shown = "".join(picture(content, "png", title) for title, content in plots.items())
    yield section("Plots", f'<div class="row">{shown}</div>')
    for key, (title, words) in WORDS.items():
        if pictures.get(key):
            shown = "".join(picture(path.read_bytes(), "jpeg", path.stem) for path in pictures[key])
            yield section(title, f'<p>{words}</p><div class="row">{shown}</div>')
    if found["problems"]:
        yield section("Files", _lines(found["problems"]))


def _lines(texts: Sequence[str]) -> str:
    more = f"<p>And {len(texts) - MOST_SAID} more, in evaluation.json.</p>" if len(texts) > MOST_SAID else ""
    return "".join(f"<p>{escape(line)}</p>" for line in texts[:MOST_SAID]) + more


def _tiles(means: Mapping[str, Mean]) -> str:
    cells = "".join(
        f"<div><dt>{title}, mean</dt><dd>{mean.mean:.3f}{' ' + mean.unit if mean.unit else ''}</dd>"
        f"<dd>{_bounds(mean) or 'no interval'}</dd></div>"
        for name, title in TILES.items()
        if (mean := means.get(name)) is not None
    )
    return f'<dl class="tiles">{cells}</dl>'


def _bounds(mean: Mean) -> str:
    return "" if mean.interval is None else f"{mean.interval.low:.3f} to {mean.interval.high:.3f}"


def _means(means: Mapping[str, Mean]) -> str:
    rows = [
        (
            name,
            mean.unit,
            f"{mean.mean:.4f}",
            _bounds(mean),
            "" if mean.median is None else f"{mean.median:.4f}",
            str(mean.scans),
        )
        for name, mean in means.items()
    ]
    head = ("figure", "unit", "mean", "95 % interval", "median", "scans")
    return section("Means over the scans", table(head, rows, words=2))


def _differences(against: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            f"{one['mean']:+.4f}",
            "" if one["interval"] is None else f"{one['interval']['low']:+.4f} to {one['interval']['high']:+.4f}",
            "" if one["p"] is None else f"{one['p']:.2g}",
            str(one["scans"]),
        )
        for name, one in against["differences"].items()
    ]
    words = f"<p>These masks less those in {escape(against['masks'])}, scan by scan.</p>"
    head = ("figure", "difference", "95 % interval", "Wilcoxon's p", "scans")
    return section("Compared", words + table(head, rows))
