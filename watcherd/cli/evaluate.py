"""``watcherd evaluate``: how good the configured model's masks are, where somebody has drawn the truth."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, for_spreadsheets, load_config, print_json, print_table
from watcherd.errors import InputError, UsageError

if TYPE_CHECKING:
    from watcherd.evaluation.figures import Bin, Judged, Point
    from watcherd.evaluation.judging import Pair, Report
    from watcherd.service.trial import Segmented

WORST = 5
"""Worst scans that are drawn."""


def evaluate(
    images: Annotated[Path, typer.Option(help="Folder of scans.")],
    masks: Annotated[Path, typer.Option(help="Folder of drawn masks, called as their scans.")],
    fov: Annotated[Path | None, typer.Option(help="Folder of fields of view: what lies outside is not judged.")] = None,
    suffix: Annotated[
        str | None, typer.Option(help="What stands behind a scan's name in its mask's, as _1stHO; else it is guessed.")
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="sweep: the configured one, and what others would give; or a number from 0 to 1.")
    ] = "sweep",
    profile: Annotated[str | None, typer.Option(help="The profile whose settings count.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table, the plots and the pictures.")] = Path("evaluation"),
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare the configured model's masks with drawn ones: Dice, IoU, precision, recall, and a sweep of thresholds."""
    from watcherd.evaluation import figures, judging
    from watcherd.service import trial

    settings = load_config(config)
    chosen = None if threshold == "sweep" else _number(threshold)
    pairs = judging.pair_up(images, masks, fov, suffix)
    with tempfile.TemporaryDirectory(prefix="watcherd-evaluate-") as folder:
        typer.echo(f"Segmenting {len(pairs.scans)} scans ...", err=True)
        found = trial.segment(
            settings, [pair.image for pair in pairs.scans], Path(folder), profile=profile, threshold=chosen
        )
        report = judging.judge(pairs, found, Path(folder))
        if report.pixels is None:
            raise InputError("Not one scan could be judged.", hint="\n".join(report.problems))
        report.threshold = chosen if chosen is not None else _threshold(settings, profile)
        points = figures.sweep(report.sweeps) if chosen is None else []
        bins = figures.reliability(report.pixels)
        files = _write(out, report, points, bins, Path(folder))
    if as_json:
        print_json(_as_json(report, points, bins, files))
    else:
        _show(report, points, bins, files)
    for problem in report.problems:
        typer.echo(f"watcherd: {problem}", err=True)
    if report.failed:
        raise typer.Exit(InputError.exit_code)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--threshold {text} is neither sweep nor a number from 0 to 1.")
    return value


def _threshold(settings: Any, profile: str | None) -> float:
    """The one that the masks were made with."""
    own = settings.profiles[profile].threshold if profile is not None else None
    return float(settings.model.threshold if own is None else own)


# ------------------------------------------------------------------------------------------------------------- results


def _write(
    out: Path, report: Report, points: Sequence[Point], bins: Sequence[Bin], folder: Path
) -> dict[str, Path | list[Path]]:
    """The table, both plots, and the worst scans in three colours."""
    from watcherd.evaluation import plots
    from watcherd.evaluation.figures import worst

    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / "scores.csv", report.judged)
    plots.write_plot(out / "plot.png", report.judged, points, bins, report.threshold)
    plots.write_reliability(out / "reliability.png", bins)
    shutil.rmtree(out / "worst", ignore_errors=True)
    (out / "worst").mkdir()
    pictures = [
        _draw(out / "worst" / f"{number}-{Path(one.name).stem}.jpg", one, report.pairs[one.name], folder)
        for number, one in enumerate(worst(report.judged, WORST), start=1)
    ]
    return {
        "scores": out / "scores.csv",
        "plot": out / "plot.png",
        "reliability": out / "reliability.png",
        "worst": pictures,
    }


def _write_csv(path: Path, judged: Sequence[Judged]) -> None:
    from watcherd.evaluation.figures import FIGURES

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *FIGURES, "both", "invented", "missed"])
        for one in judged:
            score = one.score
            writer.writerow(
                [for_spreadsheets(one.name), *score.figures().values(), score.both, score.invented, score.missed]
            )


def _draw(path: Path, one: Judged, pair: tuple[Pair, Segmented], folder: Path) -> Path:
    """Of a run the frame in which most is wrong."""
    import numpy as np

    from watcherd.evaluation import judging
    from watcherd.evaluation.agreement import agreement
    from watcherd.formats.npy_frames import FrameFile
    from watcherd.imaging.decode import DecodeLimits, decode

    decode(pair[0].image, folder / "scan.npy", DecodeLimits())
    shown = list(judging.frames(*pair, folder))
    wrong = [int(np.count_nonzero(mask ^ truth)) for mask, truth, _ in shown]
    index = int(np.argmax(wrong))
    which = f", frame {index + 1} of {len(shown)}" if len(shown) > 1 else ""
    picture = agreement(
        FrameFile(folder / "scan.npy")[index], *shown[index], title=f"{one.name}{which}: Dice {one.score.dice:.3f}"
    )
    picture.save(path, quality=90, subsampling=0)
    return path


def _as_json(
    report: Report, points: Sequence[Point], bins: Sequence[Bin], files: Mapping[str, Path | list[Path]]
) -> dict[str, Any]:
    from watcherd.evaluation import figures

    return {
        "model": report.model,
        "threshold": report.threshold,
        "scans": [{"name": one.name, **one.score.figures(), **asdict(one.score)} for one in report.judged],
        "summary": figures.summary(report.judged),
        "worst": [one.name for one in figures.worst(report.judged, WORST)],
        "sweep": [asdict(point) for point in points],
        "best": asdict(figures.best(points)) if points else None,
        "reliability": [asdict(one) for one in bins],
        "calibration_error": figures.calibration_error(bins),
        "problems": report.problems,
        "files": {name: list(map(str, path)) if isinstance(path, list) else str(path) for name, path in files.items()},
    }


def _show(report: Report, points: Sequence[Point], bins: Sequence[Bin], files: Mapping[str, Path | list[Path]]) -> None:
    from watcherd.evaluation import figures
    from watcherd.evaluation.figures import FIGURES

    ordered = figures.worst(report.judged, len(report.judged))
    rows = [(one.name, *(f"{value:.4f}" for value in one.score.figures().values())) for one in ordered]
    summary = figures.summary(report.judged)
    rows += [(what, *(f"{summary[name][what]:.4f}" for name in FIGURES)) for what in ("mean", "median")]
    print_table(("scan", *FIGURES), rows, right=FIGURES)
    if points:
        best = figures.best(points)
        typer.echo("\nMeans of the probability maps alone, without the model's own clean-up")
        lines = [
            (
                f"{point.threshold:.2f}",
                *(f"{getattr(point, name):.4f}" for name in FIGURES),
                "best" if point is best else "",
            )
            for point in points
        ]
        print_table(("threshold", *FIGURES, ""), lines, right=("threshold", *FIGURES))
    typer.echo(f"\n{len(report.judged)} scans, {report.model}, masks at threshold {report.threshold:g}")
    typer.echo(
        f"Probabilities are off by {figures.calibration_error(bins):.3f} in the mean (see {files['reliability']})"
    )
    typer.echo(f"{files['scores']}, {files['plot']}, and the worst in {Path(str(files['scores'])).parent / 'worst'}")
