"""``watcherd review`` and ``watcherd reviews``: what people say of masks that they have looked at."""

from __future__ import annotations

import csv
import getpass
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, open_history, print_json, print_table
from watcherd.cli.steer import steered
from watcherd.config import Config
from watcherd.errors import UsageError
from watcherd.state.mailbox import REVIEWED
from watcherd.status.units import for_spreadsheets, local
from watcherd.store import Connection, history
from watcherd.store import reviews as told

COLUMNS = ("job", "verdict", "source", "note", "reviewer", "at")


def review(
    jobs: Annotated[list[int], typer.Argument(help="Numbers of jobs that succeeded.")],
    note: Annotated[str, typer.Option(help="What there is to say.")] = "",
    config: ConfigOption = None,
    *,
    accept: Annotated[bool, typer.Option("--accept", help="The mask is right.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="The mask is wrong.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Take back what was said.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say of masks that they are right or wrong; the history keeps it."""
    if accept + reject + forget != 1:
        raise UsageError("Are they right or wrong?", hint="Give one of --accept, --reject and --forget.")
    verdict = "accepted" if accept else "rejected" if reject else None
    said = {"jobs": jobs, "verdict": verdict, "note": note, "reviewer": _who()}
    outcome = steered(load_config(config), REVIEWED, said)
    if as_json:
        print_json({"outcome": outcome})
    else:
        typer.echo(outcome)


def reviews(
    config: ConfigOption = None,
    *,
    accepted: Annotated[bool, typer.Option("--accepted", help="Only masks that were accepted.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only masks that were rejected.")] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Copy the accepted masks into this folder, called as their scans.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List what people said of masks, for people, scripts and spreadsheets."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other.", hint="Give one of them.")
    if accepted and rejected:
        raise UsageError("--accepted and --rejected exclude each other.", hint="Leave both out for all.")
    verdict = "accepted" if accepted else "rejected" if rejected else None
    with open_history(config) as connection:
        found = told.every(connection, verdict=verdict)
        problems = list(copy_masks(connection, load_config(config), masks)) if masks is not None else []
    if as_json:
        print_json(found)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, told.FIELDS)
        writer.writeheader()
        writer.writerows({name: for_spreadsheets(value) for name, value in row.items()} for row in found)
    else:
        print_table(COLUMNS, map(_row, found), right=("job",), folded=("source", "note"))
    for problem in problems:
        typer.echo(f"watcherd: {problem}", err=True)


def copy_masks(connection: Connection, settings: Config, folder: Path) -> Iterator[str]:
    """Copy every accepted mask into ``folder`` under its scan's path; says which could not be.

    A mask that was made anew since somebody accepted it is nobody's truth.
    """
    from watcherd.evaluation.past import mask_of

    for row in told.every(connection, verdict="accepted"):
        record = history.job(connection, row["job_id"])
        if row["outdated"] or record is None:
            yield f"Job {row['job_id']}, {row['source']}, was done again since it was accepted: left out."
            continue
        made = mask_of(record, settings.outbox.path)
        if isinstance(made, str) or made.mask is None:
            yield f"Job {row['job_id']}, {row['source']}: {made if isinstance(made, str) else 'no mask'}"
            continue
        target = folder / _called(row["source"], made.mask)
        if target.exists():
            yield f"Job {row['job_id']}, {row['source']}: there is a mask of that name already: left out."
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.mask, target)


def _called(source: str, mask: Path) -> str:
    """The scan's path below the inbox with the mask's ending."""
    from watcherd.evaluation.pairing import stem_of

    ending = ".nii.gz" if mask.name.endswith(".nii.gz") else mask.suffix
    return f"{stem_of(source)}{ending}"


def _row(row: Mapping[str, Any]) -> Sequence[object]:
    verdict = f"{row['verdict']}, of an older mask" if row["outdated"] else row["verdict"]
    return row["job_id"], verdict, row["source"], row["note"], row["reviewer"], local(row["at"])


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"user {os.getuid()}"
