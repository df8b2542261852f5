"""``watcherd logs``: what happened to one job, from the journal where it can be read, else from the history."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config
from watcherd.cli.show import event_words, find
from watcherd.config import Config
from watcherd.job import FINISHED, State
from watcherd.status.units import local
from watcherd.store import history, overview, reader

FOLLOW_SECONDS = 1.0
JOURNAL_SECONDS = 30.0
"""Seconds that a search of the journal may take; after that it is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that happened. ``at``: as stored, UTC."""

    at: str
    text: str


def logs(
    job: Annotated[str, typer.Argument(metavar="ID|NAME", help="The job's number, or the scan's name or part of it.")],
    config: ConfigOption = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the log's lines about a job; where the journal has none, what the history knows. It says which."""
    settings = load_config(config)
    with reader(settings.state.database) as connection:
        job_id = find(connection, job)
    source = _choose(settings, job_id)
    if not as_json:
        typer.echo(source.what, err=True)
    shown = 0
    while True:
        ended = _has_ended(settings, job_id)  # before the lines are read: none can come after them then
        lines = source.lines()
        for line in lines[shown:]:
            _print(line, source.name, as_json=as_json)
        shown = max(shown, len(lines))
        if not follow or ended:
            return
        time.sleep(FOLLOW_SECONDS)


def _print(line: Line, source: str, *, as_json: bool) -> None:
    if as_json:  # one document on each line, so that --follow can be read as it comes
        typer.echo(json.dumps({"at": line.at, "text": line.text, "source": source}, ensure_ascii=False))
    else:
        typer.echo(f"{local(line.at)}  {line.text}")


def _has_ended(settings: Config, job_id: int) -> bool:
    with reader(settings.state.database) as connection:
        record = history.job(connection, job_id)
    return record is None or State(record["state"]) in FINISHED


# ----------------------------------------------------------------------------------------------------------- sources


class FromJournal:
    """The journal's entries with this JOB_ID, from the processes of the runs that had the job."""

    name = "journal"

    def __init__(self, settings: Config, job_id: int) -> None:
        self._settings = settings
        self._job_id = job_id

    @property
    def what(self) -> str:
        return f"The journal about job {self._job_id}:"

    def lines(self) -> list[Line]:
        with reader(self._settings.state.database) as connection:
            runs = overview.runs_of_job(connection, self._job_id)
        matches = journal_matches(self._job_id, runs)
        return ask_journal(matches) if matches else []


class FromHistory:
    """The events of the history."""

    name = "history"

    def __init__(self, settings: Config, job_id: int, why: str) -> None:
        self._settings = settings
        self._job_id = job_id
        self.what = f"{why}; this is what the history knows of job {job_id}:"

    def lines(self) -> list[Line]:
        with reader(self._settings.state.database) as connection:
            return [Line(at=event["at"], text=event_words(event)) for event in history.events(connection, self._job_id)]


def _choose(settings: Config, job_id: int) -> FromJournal | FromHistory:
    if shutil.which("journalctl") is None:
        return FromHistory(settings, job_id, "There is no journal on this machine")
    journal = FromJournal(settings, job_id)
    if journal.lines():
        return journal
    why = "The journal has nothing about it (the service logs elsewhere, or you may not read it: group systemd-journal)"
    return FromHistory(settings, job_id, why)


def lines_about(settings: Config, job_id: int) -> tuple[str, Sequence[Line]]:
    """Where lines about a job come from, in words, and the lines."""
    source = _choose(settings, job_id)
    return source.what, source.lines()


def journal_matches(job_id: int, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What journalctl is to look for: numbers of jobs are every service's own, so the processes say whose it is.

    Different fields must all match, values of one field any (journalctl(1)). Without a known process nothing is looked
    for, rather than another service's job.
    """
    pids = sorted({pid for run in runs for pid in (run["pid"], *run["pids"])})
    boots = sorted({run["boot_id"].replace("-", "") for run in runs if run["boot_id"]})
    if not pids:
        return []
    return [f"JOB_ID={job_id}", *(f"_PID={pid}" for pid in pids), *(f"_BOOT_ID={boot}" for boot in boots)]


def ask_journal(matches: Sequence[str]) -> list[Line]:
    """The entries, the oldest first; none when the journal cannot be asked."""
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE", *matches]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=JOURNAL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for text in answer.stdout.splitlines() if (line := _entry(text)) is not None]


def _entry(text: bytes) -> Line | None:
    """An entry in systemd's JSON: the time in microseconds; a message that is not UTF-8 is a list of its bytes."""
    try:
        entry = json.loads(text)
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    except (ValueError, KeyError, TypeError):
        return None
    message = entry.get("MESSAGE") or ""
    if isinstance(message, list):
        message = bytes(message).decode("utf-8", "backslashreplace")
    return Line(at=at.isoformat(timespec="milliseconds"), text=str(message))
