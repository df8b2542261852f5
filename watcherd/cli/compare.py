"""``watcherd compare``: how much two models agree on the same scans, where nobody has drawn the truth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, open_history, print_json, print_table
from watcherd.cli.evaluate import watched
from watcherd.cli.jobs import parse_time
from watcherd.errors import InputError, JobError, UsageError, WatcherdError

if TYPE_CHECKING:
    from watcherd.config import Config
    from watcherd.evaluation.between_models import Agreement
    from watcherd.evaluation.judging import Report
    from watcherd.store import Connection
    from watcherd.store.side_by_side import SideBySide, Wanted

PICTURED = 10
"""Scans of the largest differences that are drawn."""

LONGEST_NAME = 16
"""Letters of a model's name that the legend of a picture has room for."""

SHOWN = 20
"""Scans in the table; all of them are in the JSON."""

MOST_SAID = 20
"""Lines on standard error about scans that could not be compared; all of them are in the JSON."""

COLUMNS = ("scan", "dice", "cldice", "area", "other area", "ratio", "jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What came of it. ``apart``: the largest differences first; ``records``: of the jobs, by number.

    ``problems``: why scans that both have done could not be compared. ``left_out``: older ones, beyond the limit.
    """

    names: tuple[str, str]
    found: SideBySide
    records: Mapping[int, Mapping[str, Any]]
    report: Report
    apart: Sequence[Agreement]
    problems: Sequence[str]
    left_out: int


def _models() -> list[str]:
    """The models that the shell offers: those of the configuration in use, if there is one that can be read."""
    try:
        return list(load_config(None).model_tables)
    except WatcherdError:
        return []


def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model, as the configuration calls it.", autocompletion=_models),
    ],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another one.", autocompletion=_models)],
    since: Annotated[str | None, typer.Option(help="Scans with a job since: a date, or an age as 2h, 7d.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only scans with a job of this profile.")] = None,
    folder: Annotated[
        str | None, typer.Option(metavar="SUB", help="Only scans below this folder of the inbox.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many scans, the newest; 0: all.")] = 1000,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw the largest differences into this folder.")
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say how much two models agree on scans that both have done: Dice, clDice, areas; no drawn masks are needed."""
    from watcherd.store.side_by_side import Wanted

    settings = load_config(config)
    if first == second:
        raise UsageError(f"{first} and {second} are one model.", hint="Name two of them.")
    wanted = Wanted(
        since=parse_time("--since", since, datetime.now(UTC)) if since else None,
        profile=profile,
        folder=folder.strip("/") if folder else None,
    )
    with open_history(config) as connection, tempfile.TemporaryDirectory(prefix="watcherd-compare-") as name:
        _check(connection, settings, (first, second))
        compared = _compare(connection, settings, (first, second), wanted, limit, Path(name))
        if not compared.apart:
            raise InputError("Not one scan could be compared.", hint="\n".join(compared.problems[:MOST_SAID]))
        drawn = _draw(connection, settings, compared, pictures, Path(name)) if pictures else []
    document = _as_json(compared, drawn)
    if as_json:
        print_json(document)
    else:
        _show(compared, document)
    _say(compared.problems)


def _check(connection: Connection, settings: Config, names: tuple[str, str]) -> None:
    from watcherd.store import side_by_side

    for name in names:
        if name not in settings.model_tables and not side_by_side.has_jobs(connection, name):
            raise UsageError(
                f"There is no model {name!r}, neither in the configuration nor in the history.",
                hint=f"The configuration has {', '.join(settings.model_tables)}.",
            )


# ----------------------------------------------------------------------------------------------------------- comparing


def _compare(
    connection: Connection, settings: Config, names: tuple[str, str], wanted: Wanted, limit: int, folder: Path
) -> Compared:
    """Judge the first model's masks as if the second one's were drawn. Raises `InputError` for nothing in common."""
    from watcherd.evaluation import between_models, judging
    from watcherd.evaluation.frame_figures import Tolerance
    from watcherd.evaluation.pairing import Made, Pair, Pairs
    from watcherd.evaluation.past import mask_of
    from watcherd.store import history, side_by_side

    found = side_by_side.find(connection, *names, wanted)
    if not found.pairs:
        raise _nothing_in_common(found, names)
    chosen = found.pairs[:limit] if limit else found.pairs
    records = history.records(connection, [job for pair in chosen for job in pair])
    made: dict[str, Made] = {}
    scans: dict[str, Pair] = {}
    problems: list[str] = []
    for jobs in chosen:
        masks = [mask_of(records[job], settings.outbox.path) for job in jobs]
        lacking = [mask for mask in masks if isinstance(mask, str)]
        if lacking:
            problems.append(f"{_name(records, jobs)}: {' '.join(lacking)}")
            continue
        own, other = (mask for mask in masks if isinstance(mask, Made))
        assert other.mask is not None
        key = str(jobs[0])
        made[key], scans[key] = own, Pair(name=_name(records, jobs), mask=other.mask)
    options = judging.Options(tolerance=Tolerance(), inverted=False, figures=("cldice",))
    report = judging.judge(Pairs(scans=scans), made, folder, options, watched)
    of_first = dict(chosen)
    each = [between_models.of(one, (int(key), of_first[int(key)])) for key, one in report.judged.items()]
    return Compared(
        names=names,
        found=found,
        records=records,
        report=report,
        apart=between_models.apart_first(each),
        problems=[*problems, *report.problems],
        left_out=len(found.pairs) - len(chosen),
    )


def _name(records: Mapping[int, Mapping[str, Any]], jobs: tuple[int, int]) -> str:
    """What the scan is called, by either model's job where they came under different names."""
    own, other = (str(records[job]["source"]) for job in jobs)
    return own if own == other else f"{own} (as {other})"


def _nothing_in_common(found: SideBySide, names: tuple[str, str]) -> InputError:
    said = [
        f"{_scans(found.only[name])} {'has' if found.only[name] == 1 else 'have'} a job of {name} alone."
        for name in names
    ]
    said += [f"{name} gave no mask for {_scans(count)}." for name, count in found.failed.items() if count]
    said += [f"{_scans(found.unfinished)} are not done yet."] if found.unfinished else []
    said += found.otherwise[:MOST_SAID]
    said.append(
        "Have both compute the same scans: models = [...] in a profile, or drop them into the folders of both with the "
        "same threshold and prompt."
    )
    return InputError(f"{names[0]} and {names[1]} have done no scan in common.", hint="\n".join(said))


# ------------------------------------------------------------------------------------------------------------ pictures


def _draw(connection: Connection, settings: Config, compared: Compared, folder: Path, temporary: Path) -> list[Path]:
    """The scans of the largest differences, numbered in order; those of an earlier comparison go.

    On the scan itself where its bytes are still in the archive, the inbox or the spool; else on black.
    """
    from watcherd.cli.evaluate_results import draw

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*-*.jpg"):
        old.unlink()
    own, other = (name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…" for name in compared.names)
    legend = {"agreed": "both", "invented": f"only {own}", "missed": f"only {other}"}
    drawn = []
    for number, one in enumerate((each for each in compared.apart[:PICTURED] if each.dice < 1), start=1):
        key = str(one.jobs[0])
        pair, made = compared.report.pairs[key]
        shown = replace(pair, image=_scan_of(connection, settings, one.jobs[0]))
        path = folder / f"{number}-{Path(str(compared.records[one.jobs[0]]['source'])).stem}.jpg"
        try:
            drawn.append(draw(path, compared.report.judged[key], (shown, made), temporary, legend))
        except JobError:  # what the service could read is beyond the limits here: the masks are shown on black
            drawn.append(draw(path, compared.report.judged[key], (pair, made), temporary, legend))
    return drawn


def _scan_of(connection: Connection, settings: Config, job: int) -> Path | None:
    """A file that has the scan's very bytes, wherever one is left."""
    from watcherd.outbox.deliver import hash_file
    from watcherd.store import leftovers

    scan = leftovers.scan_bytes(connection, job)
    places = [
        *(settings.inbox.archive_path / os.fsdecode(path) for path in scan.archived),
        *(settings.inbox.path / os.fsdecode(path) for path in scan.dropped),
        *([settings.state.spool / scan.spool_name[:2] / scan.spool_name] if scan.spool_name else []),
    ]
    for path in places:
        try:
            if path.is_file() and hash_file(os.fsencode(path)) == scan.sha256:
                return path
        except OSError:  # who compares need not be allowed to read the spool
            continue
    return None


# ------------------------------------------------------------------------------------------------------------- answers


def _as_json(compared: Compared, drawn: Sequence[Path]) -> dict[str, Any]:
    from watcherd.evaluation import between_models

    found, records = compared.found, compared.records
    return {
        "models": [
            {"name": name, "identities": _identities(compared, place)} for place, name in enumerate(compared.names)
        ],
        "compared": len(compared.apart),
        "not_compared": len(compared.problems),
        "left_out": compared.left_out,
        "only": found.only,
        "failed": found.failed,
        "unfinished": found.unfinished,
        "asked_otherwise": found.otherwise,
        "summary": between_models.summary(compared.apart),
        "scans": [
            one.as_json((records[one.jobs[0]]["mask_fraction"], records[one.jobs[1]]["mask_fraction"]))
            for one in compared.apart
        ],
        "problems": list(compared.problems),
        "pictures": [str(path) for path in drawn],
    }


def _identities(compared: Compared, place: int) -> list[str]:
    """What computed the masks: segmenter, model and revision; several where the model changed meanwhile."""
    words = ("segmenter", "model", "model_revision")
    jobs = (compared.records[one.jobs[place]] for one in compared.apart)
    return list(dict.fromkeys(" ".join(filter(None, (str(job[word] or "") for word in words))) for job in jobs))


def _show(compared: Compared, document: Mapping[str, Any]) -> None:
    rows = [
        (
            one.name,
            _number(one.dice),
            _number(one.cldice),
            one.areas[0],
            one.areas[1],
            _number(one.ratio),
            f"{one.jobs[0]} {one.jobs[1]}",
        )
        for one in compared.apart[:SHOWN]
    ]
    print_table(COLUMNS, rows, right=COLUMNS[1:-1], spare=("cldice", "jobs"))
    if len(compared.apart) > SHOWN:
        typer.echo(f"These are the {SHOWN} largest differences of {len(compared.apart)}; --json has all.")
    from watcherd.evaluation.between_models import QUANTILES

    typer.echo("\nOver the scans (ratio: the first one's area in terms of the second one's)")
    columns = ("figure", "mean", *QUANTILES, "scans")
    figures = [
        (name, *(_number(values[column]) for column in columns[1:-1]), values["scans"])
        for name, values in document["summary"].items()
    ]
    print_table(columns, figures, right=columns[1:], spare=("p5", "p95"))
    typer.echo("\n" + "\n".join(_counts(compared, document)))


def _counts(compared: Compared, document: Mapping[str, Any]) -> Iterator[str]:
    found = compared.found
    first, second = (f"{model['name']} ({', '.join(model['identities'])})" for model in document["models"])
    yield f"{_scans(len(compared.apart))} compared: {first} and {second}"
    yield from (f"{_scans(count)} with a job of {name} alone" for name, count in found.only.items() if count)
    yield from (f"{_scans(count)} for which {name} gave no mask" for name, count in found.failed.items() if count)
    if found.unfinished:
        yield f"{_scans(found.unfinished)} not done yet"
    if found.otherwise:
        yield f"{_scans(len(found.otherwise))} that both have done, asked for otherwise: {found.otherwise[0]}"
    if compared.problems:
        yield f"{_scans(len(compared.problems))} that could not be compared"
    if compared.left_out:
        yield f"{_scans(compared.left_out)} older than these: --limit 0 takes all"
    if document["pictures"]:
        yield f"The largest differences are in {Path(document['pictures'][0]).parent}"


def _say(problems: Sequence[str]) -> None:
    for problem in problems[:MOST_SAID]:
        typer.echo(f"watcherd: {problem}", err=True)
    if len(problems) > MOST_SAID:
        typer.echo(f"watcherd: {len(problems) - MOST_SAID} more such lines are in --json.", err=True)


def _scans(count: int) -> str:
    return "1 scan" if count == 1 else f"{count} scans"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
