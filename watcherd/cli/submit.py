"""``watcherd submit``: copy scans into the inbox, and if asked to wait until each has its result."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.cli.dropping import check_inbox, check_sources, drop, place_in_inbox
from watcherd.config import Config
from watcherd.errors import BusyError, InputError, StoreError, UnavailableError
from watcherd.file_names import show, unshow
from watcherd.job import FINISHED, Fate, State
from watcherd.state import live
from watcherd.status.units import duration
from watcherd.store import Connection, overview, reader

POLL_SECONDS = 0.25
PATIENCE_SECONDS = 10.0
"""Seconds to wait for a history that cannot be read; after that it will not be readable soon."""
ENDED = frozenset({*FINISHED, Fate.IGNORED, "gone"})
"""States of a scan for whose result nobody need wait any longer."""
NOT_RUNNING = "watcherd is not running: the scans wait in the inbox until it does."

Scan = dict[str, Any]
"""One submitted scan: ``file``, ``source`` (its path below the inbox, as shown), ``state``, ``job``, ``error``,
``advice``, ``outputs`` (with ``path`` absolute)."""


def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scans; they are copied, never moved.")],
    folder: Annotated[Path | None, typer.Option(metavar="SUB", help="Into this folder of the inbox.")] = None,
    profile: Annotated[str | None, typer.Option(help="Into the folder of this profile.")] = None,
    config: ConfigOption = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results and say where they are.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that --wait waits at most; 0: for ever.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Copy scans into the inbox.

    With --wait the exit code is 0 when all have succeeded, 65 when one has not, and 75 when the time was up.
    """
    settings = load_config(config)
    below = place_in_inbox(settings, folder, profile)
    check_sources(files, settings)
    daemon = _daemon(settings)
    check_inbox(settings.inbox.path, live.inbox_away(daemon))
    after = _last_arrival(settings)
    scans = [_dropped(file, drop(file, settings.inbox.path, below)) for file in files]
    if daemon is None:
        typer.echo(NOT_RUNNING, err=True)
    if not wait:
        _tell_dropped(scans, as_json=as_json)
        return
    left = _wait(settings, scans, after, timeout, quiet=as_json)
    if as_json:
        print_json(scans)
    if left:
        raise BusyError(
            f"{left} of {len(scans)} scans had not ended within {duration(timeout * 1000)}.",
            hint="They go on; see watcherd status.",
        )
    if any(scan["state"] != State.SUCCEEDED for scan in scans):
        raise typer.Exit(InputError.exit_code)


def _daemon(settings: Config) -> dict[str, Any] | None:
    """What the daemon says of itself; somebody who may drop scans need not be allowed to know."""
    try:
        return live.read(settings.state.path, settings.state.lock)
    except UnavailableError:
        return {}


def _last_arrival(settings: Config) -> int:
    try:
        with reader(settings.state.database) as connection:
            return overview.last_arrival_id(connection)
    except StoreError:  # none yet, or none that we may read
        return 0


def _dropped(file: Path, path: bytes) -> Scan:
    return {
        "file": show(os.fsencode(file)),
        "source": show(path),
        "state": "dropped",
        "job": None,
        "error": None,
        "advice": None,
        "outputs": [],
    }


def _tell_dropped(scans: Sequence[Scan], *, as_json: bool) -> None:
    if as_json:
        print_json(scans)
        return
    for scan in scans:
        typer.echo(f"dropped {scan['source']}")
    typer.echo("See what becomes of them: watcherd jobs, or watcherd show NAME.", err=True)


# ----------------------------------------------------------------------------------------------------------- waiting


def _wait(settings: Config, scans: Sequence[Scan], after: int, timeout: float, *, quiet: bool) -> int:
    """Wait until every scan has its result, for ``timeout`` seconds at most (0: for ever); how many have none then."""
    deadline = time.monotonic() + timeout if timeout else float("inf")
    waiting, patience = list(scans), _Patience(settings)
    with _progress(len(scans)) as tell:
        while True:
            with patience:
                look(settings, waiting, after)
            ended = [scan for scan in waiting if scan["state"] in ENDED]
            for scan in ended:
                waiting.remove(scan)
                if not quiet:
                    # Told which, echo writes to what rich has put in place of stdout, which makes way for the bar.
                    typer.echo("\n".join(in_words(scan)), file=sys.stdout)
            tell(len(scans) - len(waiting), _activity(settings, waiting))
            if not waiting or time.monotonic() >= deadline:
                return len(waiting)
            time.sleep(POLL_SECONDS)


class _Patience:
    """Lets the history be unreadable for a while, as it is while the daemon makes or upgrades it."""

    def __init__(self, settings: Config) -> None:
        self._database = settings.state.database
        self._since: float | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, StoreError):
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return not self._database.exists() or time.monotonic() - self._since < PATIENCE_SECONDS


def look(settings: Config, waiting: Sequence[Scan], after: int) -> None:
    """Bring the scans up to date. Raises `StoreError` when the history cannot be read."""
    # The files first: one that is not there any more was either written down before, or never will be.
    gone = [scan for scan in waiting if not _lies_in(settings.inbox.path, scan["source"])]
    with reader(settings.state.database) as connection:
        found = overview.waited_for(connection, [scan["source"] for scan in waiting], after=after)
        for scan in waiting:
            _update(connection, scan, found.get(scan["source"], ()), settings.outbox.path)
    for scan in gone:
        if scan["state"] == "dropped":
            scan |= {"state": "gone", "error": "It was taken out of the inbox before watcherd took it."}


def _lies_in(inbox: Path, source: str) -> bool:
    return os.path.lexists(inbox / os.fsdecode(unshow(source)))


def _update(connection: Connection, scan: Scan, rows: Sequence[Mapping[str, Any]], outbox: Path) -> None:
    """``rows``: one for each model that computes it; the first one's job is the scan's."""
    if not rows:
        return
    scan["job"] = rows[0]["job_id"]
    if scan["job"] is None:
        scan |= {"state": rows[0]["fate"], "error": rows[0]["reason"]}
        return
    states = [_shown_state(row) for row in rows]
    # What is still to come decides, then what went wrong: succeeded is what has succeeded with every model.
    decides = min(range(len(rows)), key=lambda i: (states[i] in FINISHED, states[i] is State.SUCCEEDED))
    of_model = f"model {rows[decides]['model_name']}: " if len(rows) > 1 else ""
    error = rows[decides]["error"]
    scan |= {
        "state": states[decides].value,
        "error": error and of_model + error,
        "advice": rows[decides]["advice"],
    }
    if states[decides] in FINISHED:
        outputs = [
            output
            for row, state in zip(rows, states, strict=True)
            if state is State.SUCCEEDED
            for output in overview.results_of(connection, row["id"])
        ]
        scan["outputs"] = [output | {"path": _absolute(outbox, output["path"])} for output in outputs]


def _shown_state(row: Mapping[str, Any]) -> State:
    state = State(row["state"])
    if state in FINISHED and row["delivery"] not in ("delivered", "none"):
        return State.DELIVERING  # under this name the result, or the note, is not there yet
    return state


def _absolute(outbox: Path, path: str) -> str:
    return show(bytes(outbox / os.fsdecode(unshow(path))))


def _activity(settings: Config, waiting: Sequence[Scan]) -> str:
    daemon = _daemon(settings)
    if daemon is None:
        return "watcherd is not running"
    if daemon.get("held") or daemon.get("paused"):
        return "watcherd is paused"
    states = [scan["state"] for scan in waiting]
    order = (State.DELIVERING, State.RUNNING, State.QUEUED, Fate.SETTLING, "dropped")
    return next((str(state) for state in order if state in states), "done")


def in_words(scan: Scan) -> Iterator[str]:
    """What came of a scan, for people."""
    job = f" (job {scan['job']})" if scan["job"] else ""
    yield f"{scan['source']}: {scan['state']}{job}"
    if scan["state"] != State.SUCCEEDED:
        yield from (f"  {line}" for line in (scan["error"], scan["advice"]) if line)
    yield from (f"  {output['kind']:<11} {output['path']}" for output in scan["outputs"])


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere; call it with how many have ended and what goes on."""
    columns = [BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")]
    progress = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        task = progress.add_task("", total=total)
        yield lambda done, words: progress.update(task, completed=done, description=words)
