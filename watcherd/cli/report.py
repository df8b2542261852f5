"""``watcherd report``: what happened within a period, as one page that needs nothing but a browser."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from watcherd import files
from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.cli.jobs import parse_time
from watcherd.errors import UnavailableError, UsageError
from watcherd.report.figures import figures, full_hour, gather
from watcherd.report.page import page
from watcherd.status.units import size
from watcherd.store import reader, summary
from watcherd.store.summary import Period

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def report(
    since: Annotated[str, typer.Option(help="From when on: a date, or an age as 12h, 7d.")] = "7d",
    out: Annotated[Path, typer.Option(help="The page's file; one that is there is replaced.")] = Path("report.html"),
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write a page about a period: throughput, durations, memory, failures, restarts."""
    now = datetime.now(UTC)
    begun = full_hour(parse_time("--since", since, now))
    if begun >= now:
        raise UsageError(f"--since {since} lies in the future.", hint="Write 12h, 7d, or the date of a past day.")
    settings = load_config(config)
    if not as_json:
        _refuse_unfit(out)
    with reader(settings.state.database) as connection:
        first = summary.begun_at(connection) or EPOCH  # there is nothing to show of the time before
        found = gather(connection, Period(since=max(begun, first), until=now))
    answer = figures(found, hide_names=settings.privacy.names == "hidden")
    if as_json:
        print_json(answer)
        return
    content = page(answer, inbox=settings.inbox.path, made_at=now.astimezone()).encode()
    try:
        files.write_durably(out, content)
    except OSError as error:
        raise UnavailableError(
            f"The report cannot be written to {out}: {error.strerror}.",
            hint="Check the folder's permissions and the disk, or give another file: --out.",
        ) from error
    typer.echo(f"{out}: {answer['jobs']} jobs, {size(len(content))}. Open it in a browser.")


def _refuse_unfit(out: Path) -> None:
    """Before a long history is read. Raises `UsageError`."""
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise UsageError(f"--out {out} is no file.", hint="Give the name of the page to write, as report.html.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}.", hint="Make it first, or give another file.")
