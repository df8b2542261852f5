"""``watcherd evaluate``: how good masks are where somebody has drawn the truth, the model's or any that exist."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watcherd.cli import evaluate_history
from watcherd.cli import evaluate_masks as sources
from watcherd.cli import evaluate_results as results
from watcherd.cli import evaluate_threshold as operating
from watcherd.cli.common import ConfigOption, JsonOption
from watcherd.errors import InputError, UnavailableError, UsageError
from watcherd.outputs import PLOTS

if TYPE_CHECKING:
    from watcherd.evaluation.frame_figures import Tolerance
    from watcherd.evaluation.judging import Options, Report
    from watcherd.evaluation.pairing import Pairs, Wanted


ACCEPTED = "accepted"
"""Folder below ``--out`` of the masks that were accepted."""


def evaluate(
    masks: Annotated[Path | None, typer.Option(help="Folder of drawn masks, called as their scans.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of scans.")] = None,
    fov: Annotated[Path | None, typer.Option(help="Folder of fields of view: what lies outside is not judged.")] = None,
    suffix: Annotated[
        str | None, typer.Option(help="What stands behind a scan's name in its mask's, as _1stHO; else it is guessed.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Judge the masks in this folder; no model is run.")] = None,
    probabilities: Annotated[Path | None, typer.Option(help="The probability maps of --predictions.")] = None,
    jobs: Annotated[
        str | None, typer.Option(help="Judge the masks of past jobs in the outbox: 'since 7d', 'profile retina'.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Folder of other masks of the same scans, to compare.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Scans that belong together: folder, or a regular expression in their names.")
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="sweep: the configured one, and what others would give; or a number from 0 to 1.")
    ] = "sweep",
    by: Annotated[str, typer.Option(help="The figure by which the sweep looks for the best threshold.")] = "dice",
    write: Annotated[bool, typer.Option("--write", help="Put that threshold into the configuration.")] = False,
    tolerance: Annotated[str, typer.Option(help="How far outlines may be apart for NSD: 2px, 0.5mm.")] = "2px",
    accepted: Annotated[
        bool, typer.Option("--accepted", help="In place of --masks: the masks that people have accepted.")
    ] = False,
    inverted: Annotated[bool, typer.Option("--inverted", help="In the drawn masks black is the vessel.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the masks that are made, in --out.")] = False,
    profile: Annotated[str | None, typer.Option(help="The profile whose settings count.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, the tables and the pictures.")] = Path("evaluation"),
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare masks with drawn ones: Dice, clDice, HD95 and more, with intervals, and a sweep of thresholds."""
    from watcherd.evaluation import judging, summaries

    if find_spec(PLOTS.module) is None:  # said before the masks are computed, not after
        raise UnavailableError(
            f"The plots need {PLOTS.library}, which is not installed.", hint=f"Install it: {PLOTS.command}"
        )
    if by not in summaries.SWEPT:
        raise UsageError(f"--by {by} is no figure of a threshold.", hint=f"There are {', '.join(summaries.SWEPT)}.")
    if (masks is None) != accepted:
        raise UsageError("Which masks are the truth?", hint="Give --masks, a folder, or --accepted.")
    asked = sources.Asked(
        images=images,
        predictions=predictions,
        probabilities=probabilities,
        jobs=jobs,
        profile=profile,
        threshold=None if threshold == "sweep" else _number(threshold),
        by=by,
        write=write,
        tolerance=_tolerance(tolerance),
        inverted=True if inverted else None,
        config=config,
        wanted=_wanted(masks or out / ACCEPTED, fov, suffix, group, either_way=predictions is not None),
    )
    asked.check()
    if accepted:
        _gather_accepted(config, out / ACCEPTED)
    if keep and (taken := [path for kind in sources.KEPT.values() if (path := out / kind).exists()]):
        raise UsageError(
            f"{taken[0]} exists already: --keep overwrites nothing.", hint="Give another folder with --out."
        )
    with tempfile.TemporaryDirectory(prefix="watcherd-evaluate-") as name:
        folder = Path(name)
        pairs, made = sources.masks_of(asked, folder)
        in_use = sources.threshold_of(asked, made)
        options = asked.options(in_use)
        report = judging.judge(pairs, made, folder, options, watched)
        if not report.judged:
            raise InputError("Not one scan could be judged.", hint="\n".join(report.problems))
        other = _other(against, pairs, folder, options) if against else None
        choice = operating.chosen(asked, report, options, in_use)
        files = results.write(out, report, choice, other, folder)
        if keep:
            sources.keep_in(out, made)
    said = results.Said(report=report, choice=choice, other=other, files=files, asked=asked, against=against)
    found = results.compute(said)
    found.document["evaluation"] = evaluate_history.keep(asked, found.document, report.failed)
    results.write_page(said, found, datetime.now().astimezone())
    results.print_all(said, found, as_json=as_json)
    if write and choice is not None:
        operating.put_in_place(asked, choice)
    if report.failed:
        raise typer.Exit(InputError.exit_code)


def _gather_accepted(config: Path | None, folder: Path) -> None:
    """Copy the masks that people have accepted into ``folder``. Raises `UsageError` where there is something already,
    and `InputError` when there are none."""
    from watcherd.cli.common import load_config, open_history
    from watcherd.cli.review import copy_masks

    if folder.exists():
        raise UsageError(f"{folder} exists already: it is not written over.", hint="Give another folder with --out.")
    with open_history(config) as connection:
        problems = list(copy_masks(connection, load_config(config), folder))
    for problem in problems:
        typer.echo(f"watcherd: {problem}", err=True)
    if not folder.exists():
        raise InputError("Nobody has accepted a mask that is still there.", hint="watcherd review ID --accept")


def _wanted(masks: Path, fov: Path | None, suffix: str | None, group: str | None, *, either_way: bool) -> Wanted:
    from watcherd.evaluation.pairing import Wanted

    return Wanted(masks=masks, fov=fov, suffix=suffix, group=group, either_way=either_way)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--threshold {text} is neither sweep nor a number from 0 to 1.")
    return value


def _tolerance(text: str) -> Tolerance:
    from watcherd.evaluation.frame_figures import Tolerance

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(px|mm)", text)
    if found is None:
        raise UsageError(f"--tolerance {text} is no distance.", hint="Write 2px or 0.5mm.")
    return Tolerance(amount=float(found[1]), unit="mm" if found[2] == "mm" else "px")


def watched(keys: Iterable[str]) -> Iterable[str]:
    """A bar for a person who looks on."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(list(keys), "Judging", console=console, disable=not console.is_terminal, transient=True)


def _other(against: Path, pairs: Pairs, folder: Path, options: Options) -> Report:
    """The same scans judged by other masks. Raises `InputError` when none has one."""
    from watcherd.evaluation import judging
    from watcherd.evaluation.pairing import Made, Pairs, belonging, files_of

    files = files_of(against)
    of = belonging(list(pairs.scans), list(files))
    problems = [f"{pairs.scans[key].name} has no mask in {against}: it is not compared." for key in of.images]
    problems += [
        f"{pairs.scans[key].name} has several masks in {against} ({', '.join(several)}): it is not compared."
        for key, several in of.ambiguous.items()
    ]
    if not of.pairs:
        raise InputError(f"No scan has a mask in {against}.", hint="\n".join(problems[:10]))
    made = {key: Made(mask=files[name], model=str(against)) for key, name in of.pairs.items()}
    others = Pairs(scans={key: pairs.scans[key] for key in made}, problems=problems)
    return judging.judge(others, made, folder, replace(options, thresholds=()), watched)
