"""``watcherd jobs``: what happened to the scans, filtered, sorted, for people, scripts and spreadsheets."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from watcherd.cli.common import (
    NARROW,
    WIDE,
    ConfigOption,
    JsonOption,
    open_history,
    print_json,
    print_table,
)
from watcherd.errors import UsageError
from watcherd.job import DEFAULT_MODEL, ErrorClass, State
from watcherd.status.screen import state_text
from watcherd.status.units import AMBER, duration, for_spreadsheets, local, size, took, when
from watcherd.store import Filter, history

ORDERS = (
    "newest", "oldest", "finished", "name",
    "queue_ms", "decode_ms", "inference_ms", "render_ms", "size_bytes", "attempts",
)  # fmt: skip
COLUMNS = ("id", "state", "source", "size", "mask", "queued", "inference", "finished", "error")


def jobs(
    state: Annotated[list[State] | None, typer.Option(help="Only these states.")] = None,
    since: Annotated[str | None, typer.Option(help="Created since: a date, or an age as 2h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Created before: a date, or an age.")] = None,
    name: Annotated[str | None, typer.Option(help="Part of a dropped name, or a pattern: 'coronary/*.png'.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
    model: Annotated[str | None, typer.Option(help="Only jobs of this model, as the configuration calls it.")] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only failures of this class.")] = None,
    sort: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(ORDERS)}.", autocompletion=lambda: list(ORDERS)),
    ] = "newest",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List jobs, the newest first."""
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other.", hint="Give one of them.")
    if sort not in ORDERS:
        raise UsageError(f"--sort {sort} is not an order.", hint="See watcherd jobs --help.")
    now = datetime.now(UTC)
    wanted = Filter(
        states=tuple(state or ()),
        error_class=error_class,
        profile=profile,
        model=model,
        name=name,
        since=parse_time("--since", since, now) if since else None,
        until=parse_time("--until", until, now) if until else None,
        sort=sort,  # type: ignore[arg-type]  # checked above
        limit=limit or None,
    )
    with open_history(config) as connection:
        records = history.jobs(connection, wanted)
        fields = history.fields_of_a_job(connection)
    if as_json:
        print_json(records)
    elif as_csv:
        _print_csv(fields, records)
    elif not sys.stdout.isatty():
        print_table(COLUMNS, map(_row, records))
    else:
        console = Console(highlight=False)
        console.print(job_table(records, now, width=console.width))
        if limit and len(records) == limit:
            console.print(f"These are {limit}; there may be more: --limit 0 shows all.", style="dim")


def job_table(records: Sequence[dict[str, Any]], now: datetime, *, width: int) -> RenderableType:
    """The jobs for a terminal of ``width`` columns: one line each, an error below."""
    if not records:
        return Text("No job matches.", "dim")
    wide, narrow = width >= WIDE, width < NARROW
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    numbers = ("id", *(("size", "queued") if wide else ()), *(() if narrow else ("took", "mask")))
    for column in ("id", "state", "when", *numbers[1:], "scan"):
        right = column in numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "scan", overflow="fold")
    for record in records:
        table.add_row(*_cells(record, now, numbers))
    return table


def _cells(record: dict[str, Any], now: datetime, numbers: Sequence[str]) -> list[Text | str]:
    fraction = record["mask_fraction"]
    scan = Text(record["source"])
    if record["model_name"] != DEFAULT_MODEL:
        scan.append(f" ({record['model_name']})", "dim")
    if record["error"]:
        scan.append("\n" + " ".join(record["error"].split()), "red" if record["finished_at"] else AMBER)
    figures = {
        "size": size(record["size_bytes"]),
        "queued": duration(record["queue_ms"]),
        "took": duration(took(record)),
        "mask": "" if fraction is None else f"{fraction:.1%}",
    }
    return [
        str(record["id"]),
        state_text(record["state"]),
        when(record["finished_at"] or record["started_at"] or record["created_at"], now),
        *(figures[number] for number in numbers[1:]),
        scan,
    ]


def parse_time(option: str, text: str, now: datetime) -> datetime:
    """A moment from a date, a date and time, or an age such as ``90min``, ``2h``, ``7d``. Raises `UsageError`."""
    units = {"min": 60, "h": 3600, "d": 86400, "w": 604800}
    try:
        if match := re.fullmatch(r"(\d+)\s*(min|h|d|w)", text):
            return now - timedelta(seconds=int(match[1]) * units[match[2]])
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text} is no time.", hint="Write 2h, 7d, or 2026-01-31.") from error


def _row(record: dict[str, Any]) -> tuple[object, ...]:
    fraction = record["mask_fraction"]
    return (
        record["id"],
        record["state"],
        record["source"],
        size(record["size_bytes"]),
        None if fraction is None else f"{fraction:.1%}",
        duration(record["queue_ms"]),
        duration(record["inference_ms"]),
        local(record["finished_at"]),
        record["error"],
    )


def _print_csv(fields: list[str], records: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(
        sys.stdout, [field for field in fields if field not in ("devices", "outputs")], extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows({name: for_spreadsheets(value) for name, value in record.items()} for record in records)
