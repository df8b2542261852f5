"""What ``watcherd evaluate`` leaves and says: tables, JSON, plots, pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from watcherd.cli.common import print_json, print_table
from watcherd.status.units import for_spreadsheets

if TYPE_CHECKING:
    from datetime import datetime

    from watcherd.cli.evaluate_masks import Asked
    from watcherd.evaluation.figures import Judged, Point
    from watcherd.evaluation.intervals import Difference, Interval
    from watcherd.evaluation.judging import Report
    from watcherd.evaluation.operating_point import Choice
    from watcherd.evaluation.pairing import Made, Pair
    from watcherd.evaluation.summaries import Mean

WORST = 5
"""Worst scans that are drawn, best ones, and scans that differ most."""

MOST_SAID = 20
"""Lines on standard error about files; all of them are in the JSON."""

IN_TABLE = ("dice", "cldice", "iou", "precision", "recall", "hd95", "assd", "nsd", "betti0", "betti1")
SPARE = ("iou", "assd", "nsd", "betti1")
"""Columns that a narrow terminal is spared."""

SAME_SCANS = (
    "This threshold was chosen on the scans that it is judged on, so its figures are too good: judge it on others."
)

Files = dict[str, Path | list[Path]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """All that there is to be told. ``other``: the same scans by the masks of ``against``."""

    report: Report
    choice: Choice | None
    other: Report | None
    files: Files
    asked: Asked
    against: Path | None


# --------------------------------------------------------------------------------------------------------------- files


def write(out: Path, report: Report, choice: Choice | None, other: Report | None, folder: Path) -> Files:
    """The table, the plots, worst and best scans in three colours, and those that differ most from ``other``."""
    from watcherd.evaluation import plots
    from watcherd.evaluation.figures import reliability, worst
    from watcherd.evaluation.summaries import most_apart

    out.mkdir(parents=True, exist_ok=True)
    judged = list(report.judged.values())
    bins = reliability(report.pixels) if report.pixels else []
    files: Files = {"page": out / "evaluation.html", "scores": out / "scores.csv", "plot": out / "plot.png"}
    _write_csv(out / "scores.csv", judged)
    plots.write_plot(out / "plot.png", judged, _points(report, choice), bins, choice)
    if bins:
        files["reliability"] = out / "reliability.png"
        plots.write_reliability(out / "reliability.png", bins)
    keys = {id(one): key for key, one in report.judged.items()}
    ordered = [(report, keys[id(one)], "") for one in worst(judged, len(judged))]
    files["worst"] = _pictures(out / "worst", ordered[:WORST], folder)
    files["best"] = _pictures(out / "best", ordered[: -WORST - 1 : -1], folder)
    if other is not None:
        apart = most_apart(report.judged, other.judged, WORST)
        both = [(each, key, which) for key in apart for each, which in ((report, "a"), (other, "b"))]
        files["differ"] = _pictures(out / "differ", both, folder)
    return files


def _points(report: Report, choice: Choice | None) -> list[Point]:
    from watcherd.evaluation.figures import sweep

    return sweep(report.sweeps, [point.threshold for point in choice.points]) if choice else []


def _write_csv(path: Path, judged: Sequence[Judged]) -> None:
    from watcherd.evaluation.frame_figures import EXTENTS
    from watcherd.evaluation.summaries import ALL

    columns = (*ALL, *EXTENTS)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *columns, "unit", "both", "invented", "missed", "group"])
        for one in judged:
            score = one.score
            counts = (score.both, score.invented, score.missed)
            values = (one.value(name) for name in columns)
            writer.writerow([for_spreadsheets(one.name), *values, one.unit, *counts, for_spreadsheets(one.group)])


def _pictures(folder: Path, shown: Sequence[tuple[Report, str, str]], temporary: Path) -> list[Path]:
    """Of each scan a picture, numbered in order; those of an earlier evaluation go."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9]*-*.jpg"):
        old.unlink()
    order = {key: number for number, key in enumerate(dict.fromkeys(key for _, key, _ in shown), start=1)}
    return [
        draw(
            folder / f"{order[key]}{which}-{Path(report.judged[key].name).stem}.jpg",
            report.judged[key],
            report.pairs[key],
            temporary,
        )
        for report, key, which in shown
    ]


def draw(
    path: Path, one: Judged, pair: tuple[Pair, Made], folder: Path, names: Mapping[str, str] | None = None
) -> Path:
    """Of a run the frame in which most is wrong. Where there is no scan to draw on, the ground is black.

    ``names``: see `agreement`.
    """
    import numpy as np

    from watcherd.evaluation import judging
    from watcherd.evaluation.agreement import TRUTH, agreement
    from watcherd.formats.npy_frames import FrameFile
    from watcherd.imaging.decode import DecodeLimits, decode

    wrong = [int(np.count_nonzero(mask ^ truth)) for mask, truth, _ in judging.frames(*pair, folder)]
    index = int(np.argmax(wrong))
    masks = next(shown for place, shown in enumerate(judging.frames(*pair, folder)) if place == index)
    ground = np.zeros(masks[0].shape, np.uint8)
    if pair[0].image is not None:
        decode(pair[0].image, folder / "scan.npy", DecodeLimits())
        pixels = FrameFile(folder / "scan.npy")[index]
        ground = pixels if pixels.shape[:2] == ground.shape else ground
    which = f", frame {index + 1} of {len(wrong)}" if len(wrong) > 1 else ""
    lines = one.value("cldice")
    figures = f"Dice {one.score.dice:.3f}" + ("" if lines is None else f", clDice {lines:.3f}")
    picture = agreement(ground, *masks, title=f"{one.name}{which}: {figures}", names=names or TRUTH)
    picture.save(path, quality=90, subsampling=0)
    return path


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What it comes to. ``document``: all of it as JSON would have it."""

    means: Mapping[str, Mean]
    differences: Mapping[str, Difference]
    document: dict[str, Any]


def compute(said: Said) -> Found:
    """Means, and differences if there is something to compare; intervals take their time, so once."""
    from watcherd.evaluation import summaries

    own = said.report.judged
    differences = summaries.compared(own, said.other.judged) if said.other is not None else {}
    means = summaries.summary(list(own.values()))
    return Found(means=means, differences=differences, document=_as_json(said, means, differences))


def write_page(said: Said, found: Found, made_at: datetime) -> None:
    """All of it for a browser, with the pictures in it."""
    from watcherd.cli.evaluate_page import page
    from watcherd.evaluation import plots
    from watcherd.evaluation.figures import reliability

    report = said.report
    bins = reliability(report.pixels) if report.pixels else []
    parts = plots.apart(list(report.judged.values()), _points(report, said.choice), bins, said.choice)
    pictures = {name: files for name, files in said.files.items() if isinstance(files, list)}
    content = page(found.document, found.means, parts, pictures, made_at)
    Path(str(said.files["page"])).write_text(content, encoding="utf-8")


def print_all(said: Said, found: Found, *, as_json: bool) -> None:
    """On standard output, and the same as JSON beside the tables."""
    document = found.document
    path = Path(str(said.files["scores"])).with_name("evaluation.json")
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        _show(said, found.means, found.differences)
        if document["evaluation"] is not None:
            typer.echo(f"In the history as evaluation {document['evaluation']}.")
    problems = [*document["doubts"], *document["problems"]]
    for problem in problems[:MOST_SAID]:
        typer.echo(f"watcherd: {problem}", err=True)
    if len(problems) > MOST_SAID:
        typer.echo(f"watcherd: {len(problems) - MOST_SAID} more such lines are in {path}.", err=True)


def _as_json(said: Said, means: Mapping[str, Mean], differences: Mapping[str, Difference]) -> dict[str, Any]:
    from watcherd.evaluation import figures, summaries

    report, choice = said.report, said.choice
    judged = list(report.judged.values())
    points = _points(report, choice)
    bins = figures.reliability(report.pixels) if report.pixels else []
    best = next((point for point in points if choice and point.threshold == choice.best.threshold), None)
    return {
        "model": report.models[0] if len(report.models) == 1 else None,
        "models": report.models,
        "truth": str(said.asked.wanted.masks),
        "threshold": report.threshold,
        "tolerance": asdict(said.asked.tolerance),
        "scans": [_scan(one) for one in judged],
        "summary": {name: mean.as_json() for name, mean in means.items()},
        "classes": {
            str(label): {name: mean.as_json() for name, mean in summaries.summary(scans).items()}
            for label, scans in summaries.by_class(judged).items()
        },
        "agreement": {name: asdict(one) for name, one in summaries.extents(judged).items()},
        "worst": [one.name for one in figures.worst(judged, WORST)],
        "sweep": [asdict(point) for point in points],
        "best": asdict(best) if best else None,
        "choice": asdict(choice) if choice else None,
        "against": _against(said, differences),
        "reliability": [asdict(one) for one in bins],
        "calibration_error": figures.calibration_error(bins) if bins else None,
        "problems": [*report.problems, *(said.other.problems if said.other else [])],
        "doubts": summaries.doubts(judged),
        "files": {
            name: list(map(str, path)) if isinstance(path, list) else str(path) for name, path in said.files.items()
        },
    }


def _scan(one: Judged) -> dict[str, Any]:
    return {
        "name": one.name,
        **one.score.figures(),
        **one.figures,
        "unit": one.unit,
        "group": one.group,
        **asdict(one.score),
        "classes": {str(label): _scan(of) for label, of in one.classes.items()},
    }


def _against(said: Said, differences: Mapping[str, Difference]) -> dict[str, Any] | None:
    from watcherd.evaluation.summaries import most_apart

    if said.other is None:
        return None
    own, others = said.report.judged, said.other.judged
    return {
        "masks": str(said.against),
        "differences": {name: asdict(one) for name, one in differences.items()},
        "most_apart": [own[key].name for key in most_apart(own, others, WORST)],
    }


def _show(said: Said, means: Mapping[str, Mean], differences: Mapping[str, Difference]) -> None:
    from watcherd.evaluation import figures

    report = said.report
    judged = list(report.judged.values())
    rows = [(one.name, *(_number(one.value(name)) for name in IN_TABLE)) for one in figures.worst(judged, len(judged))]
    print_table(("scan", *IN_TABLE), rows, right=IN_TABLE, spare=SPARE)
    _show_summary(means, judged)
    _show_classes(judged)
    if said.choice is not None:
        _show_choice(said.choice, _points(report, said.choice), said.asked.profile)
    if said.other is not None:
        _show_differences(differences, said.against)
    used = "" if report.threshold is None else f", masks at threshold {report.threshold:g}"
    count = "1 scan" if len(judged) == 1 else f"{len(judged)} scans"
    typer.echo(f"\n{count}, {', '.join(filter(None, report.models))}{used}")
    if report.pixels is not None:
        error = figures.calibration_error(figures.reliability(report.pixels))
        typer.echo(f"Probabilities are off by {error:.3f} in the mean (see {said.files['reliability']})")
    typer.echo(
        f"{said.files['page']} for a browser; {said.files['scores']}, and the worst in "
        f"{Path(str(said.files['scores'])).parent / 'worst'}"
    )


def _show_summary(found: Mapping[str, Mean], judged: Sequence[Judged]) -> None:
    from watcherd.evaluation.summaries import extents

    typer.echo("\nMeans over the scans")
    rows = [
        (name, _number(mean.mean), _bounds(mean.interval), _number(mean.median), mean.scans, mean.unit)
        for name, mean in found.items()
    ]
    columns = ("figure", "mean", "95 % interval", "median", "scans", "unit")
    print_table(columns, rows, right=columns[1:5])
    for name, one in extents(judged).items():
        what, unit = name.rsplit("_", 1)
        limits = "" if one.low is None else f", 95 % of the scans between {one.low:+,.4g} and {one.high:+,.4g}"
        typer.echo(f"{'mean ' * (what == 'width')}{what}: measured less drawn {one.bias:+,.4g} {unit}{limits}")


def _show_classes(judged: Sequence[Judged]) -> None:
    from watcherd.evaluation.summaries import by_class, summary

    classes = by_class(judged)
    if not classes:
        return
    typer.echo("\nMeans by class, over the scans that have it")
    rows = []
    for label, scans in classes.items():
        means = summary(scans)
        cells = (_number(means[name].mean) if name in means else "" for name in IN_TABLE)
        rows.append((label, *cells, len(scans)))
    columns = ("class", *IN_TABLE, "scans")
    print_table(columns, rows, right=columns, spare=SPARE)


def _show_choice(choice: Choice, points: Sequence[Point], profile: str | None) -> None:
    from watcherd.evaluation.figures import FIGURES
    from watcherd.evaluation.operating_point import lines_for

    typer.echo("\nMeans of the probability maps alone, without the model's own clean-up")
    by = () if choice.figure in FIGURES else (choice.figure,)
    interval = f"{choice.figure}, 95 %"
    lines = [
        (
            f"{point.threshold:.2f}",
            *(_number(getattr(point, name)) for name in FIGURES),
            *(_number(of.mean) for _ in by),
            _bounds(of.interval),
            "best" if of is choice.best else "in use" if of.threshold == choice.in_use else "",
        )
        for point, of in zip(points, choice.points, strict=True)
    ]
    columns = ("threshold", *FIGURES, *by, interval, "")
    print_table(columns, lines, right=columns[:-1])
    best = choice.best
    if best.threshold == choice.in_use:
        typer.echo(f"\n{best.threshold:g}, which is in use, is best by {choice.figure}.")
        return
    if choice.gain is not None:
        typer.echo(f"\n{best.threshold:g} in place of {choice.in_use:g}: {choice.figure} {_difference(choice.gain)}")
    if choice.elsewhere is not None:
        typer.echo(f"On scans that it was not chosen on: {choice.figure} {choice.elsewhere:.4f}")
    typer.echo(f"{SAME_SCANS}\n\n{lines_for(profile, best.threshold)}")


def _show_differences(found: Mapping[str, Difference], against: Path | None) -> None:
    typer.echo(f"\nThese masks less those in {against}, scan by scan")
    rows = [(name, f"{one.mean:+.4f}", _bounds(one.interval, "+"), _p(one.p), one.scans) for name, one in found.items()]
    columns = ("figure", "difference", "95 % interval", "Wilcoxon's p", "scans")
    print_table(columns, rows, right=columns[1:])


def _difference(one: Difference) -> str:
    bounds = f" ({_bounds(one.interval, '+')})" if one.interval else ""
    p = f", p = {_p(one.p)}" if one.p is not None else ""
    return f"{one.mean:+.4f}{bounds}{p}"


def _bounds(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"
