"""``watcherd jobs`` and ``watcherd show``: what happened to the scans."""

from __future__ import annotations

import csv
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, duration, local, open_history, print_json, print_table, size
from watcherd.errors import UsageError
from watcherd.job import ErrorClass, Fate, State
from watcherd.store import Filter, history

ORDERS = ("newest", "oldest", "queue_ms", "decode_ms", "inference_ms", "render_ms", "size_bytes")
COLUMNS = ("id", "state", "source", "size", "mask", "queued", "inference", "finished", "error")


def jobs(
    state: Annotated[list[State] | None, typer.Option(help="Only these states.")] = None,
    since: Annotated[str | None, typer.Option(help="Created since: a date, or an age as 2h, 7d.")] = None,
    name: Annotated[str | None, typer.Option(help="Part of a dropped name.")] = None,
    profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Only failures of this class.")] = None,
    sort: Annotated[str, typer.Option(help=f"One of {', '.join(ORDERS)}.")] = "newest",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 50,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """List jobs, the newest first."""
    if sort not in ORDERS:
        raise UsageError(f"--sort {sort} is not an order.", hint="See watcherd jobs --help.")
    wanted = Filter(
        states=tuple(state or ()),
        error_class=error_class,
        profile=profile,
        name=name,
        since=parse_since(since, datetime.now(UTC)) if since else None,
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
    else:
        print_table(
            COLUMNS,
            map(_row, records),
            right=("id", "size", "mask", "queued", "inference"),
            folded=("source", "error"),
            spare=("size", "queued", "inference"),
        )


def parse_since(text: str, now: datetime) -> datetime:
    """A moment from a date, a date and time, or an age such as ``90min``, ``2h``, ``7d``. Raises `UsageError`."""
    units = {"min": 60, "h": 3600, "d": 86400, "w": 604800}
    if match := re.fullmatch(r"(\d+)\s*(min|h|d|w)", text):
        return now - timedelta(seconds=int(match[1]) * units[match[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise UsageError(f"--since {text} is no time.", hint="Write 2h, 7d, or 2026-01-31.") from error


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
    writer.writerows(records)


def show(
    job: Annotated[int, typer.Argument(help="The job's number.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything about a job: its names, transitions, attempts, memory, results, and why it failed."""
    with open_history(config) as connection:
        record = history.job(connection, job)
        if record is None:
            raise UsageError(f"There is no job {job}.", hint="See `watcherd jobs`.")
        events = history.events(connection, job)
        attempts = history.attempts(connection, job)
        names = history.arrivals(connection, job)
    if as_json:
        print_json({**record, "events": events, "tries": attempts, "arrivals": names})
        return
    _show_job(record)
    _show_parts(events, attempts, names)


_FILES = {
    None: "in the inbox",
    "pending": "in the inbox",
    "kept": "left in the inbox",
    "archived": "in the archive",
    "deleted": "deleted",
    "changed": "changed meanwhile, so left alone",
    "gone": "gone",
    "failed": "in the inbox, and cannot be taken out",
}
"""What became of a dropped file, by its disposal."""


def _show_job(record: dict[str, Any]) -> None:
    typer.echo(f"Job {record['id']}: {record['source']} {record['state']}")
    if record["error"]:
        typer.echo(f"  why:   {record['error']}")
    if record["advice"]:
        typer.echo(f"  to do: {record['advice']}")
    shown = (
        ("size", f"{record['width']} x {record['height']}" if record["width"] else None),
        ("frames", record["frames"] if (record["frames"] or 1) > 1 else None),
        ("model", f"{record['segmenter']} {record['model'] or ''} ({record['dtype']})"),
        ("profile", record["profile"]),
        ("threshold", record["threshold"]),
        ("answer", record["answer"]),
        ("mask", f"{record['mask_fraction']:.2%} of the pixels" if record["mask_fraction"] is not None else None),
        ("note", record["note"]),
        ("sha256", record["sha256"]),
    )
    for name, value in shown:
        if value not in (None, ""):
            typer.echo(f"  {name + ':':<10} {value}")


def _show_parts(events: list[dict[str, Any]], attempts: list[dict[str, Any]], names: list[dict[str, Any]]) -> None:
    typer.echo("\nWhat happened")
    for event in events:
        reason = event["detail"].get("reason") or ""
        typer.echo(f"  {local(event['at'])}  {event['kind']:<12} {event['to_state'] or '':<11} {reason}".rstrip())
    typer.echo("\nAttempts")
    for attempt in attempts:
        times = ", ".join(
            f"{stage} {duration(attempt[f'{stage}_ms'])}"
            for stage in ("decode", "inference", "render")
            if attempt[f"{stage}_ms"] is not None
        )
        typer.echo(f"  {attempt['number']}: {attempt['outcome'] or 'running'}  {times}".rstrip())
        for device in attempt["devices"]:
            peak = device["vram_peak_allocated_mib"]
            memory = "memory unknown" if peak is None else f"{peak:.0f} MiB allocated at the peak"
            host = attempt["host_peak_rss_mib"]
            memory += "" if host is None else f", process {host:.0f} MiB"
            typer.echo(f"     {device['device']} ({device['name']}): {memory}, batch of {attempt['batch_size']}")
    typer.echo("\nNames and results")
    for name in names:
        again = "the same scan again, " if name["fate"] == Fate.DUPLICATE else ""
        typer.echo(f"  {name['source']}: {again}file {_FILES[name['disposal']]}")
        for output in name["outputs"]:
            typer.echo(f"     {output['kind']:<12} {output['path']}  {size(output['bytes'])}")
