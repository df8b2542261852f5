"""``watcherd status``: alive or not, what it does, what waits, what went wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import typer

from watcherd import live
from watcherd.cli.common import ConfigOption, JsonOption, duration, load_config, local, print_fields, print_json
from watcherd.job import State
from watcherd.store import history, reader

RATE_MINUTES = 10


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whether the daemon is alive and how it is doing."""
    settings = load_config(config)
    now = datetime.now(UTC)
    daemon = live.read(settings.state.path, settings.state.lock)
    with reader(settings.state.database) as connection:
        counts = history.counts(connection)
        rate = history.rate(connection, minutes=RATE_MINUTES, now=now)
        oldest = history.oldest_queued(connection)
        answer: dict[str, Any] = {
            "alive": daemon is not None,
            "daemon": daemon,
            "jobs": {state.value: count for state, count in counts.items()},
            "arrivals": history.fates(connection),
            "per_minute": round(rate.per_minute, 2),
            "oldest_queued": oldest,
            "active": history.active(connection),
            "last_run": next(iter(history.runs(connection, 1)), None),
            "failures": history.failures(connection, 3),
        }
    waiting = counts[State.QUEUED] + counts[State.RUNNING]
    answer["backlog_seconds"] = round(60 * waiting / rate.per_minute) if waiting and rate.per_minute else None
    if as_json:
        print_json(answer)
    else:
        _print(answer, now)


def _print(answer: dict[str, Any], now: datetime) -> None:
    daemon = answer["daemon"]
    if daemon is None:
        last = answer["last_run"]
        typer.echo("watcherd is not running." + (f" Its last run {_end(last)}." if last else ""))
    else:
        since = f" since {local(daemon['started_at'])}" if "started_at" in daemon else ""
        typer.echo(f"watcherd is {daemon['phase']}{since} (pid {daemon['pid']}).")
        _print_daemon(daemon)
    jobs = ", ".join(f"{count} {state}" for state, count in answer["jobs"].items() if count) or "none yet"
    oldest = answer["oldest_queued"]
    age = duration((now - datetime.fromisoformat(oldest)).total_seconds() * 1000) if oldest else ""
    backlog = answer["backlog_seconds"]
    fates = answer["arrivals"]
    others = ", ".join(f"{fates[fate]} {fate}" for fate in ("settling", "ignored", "duplicate") if fates[fate])
    print_fields(
        {
            "jobs": jobs,
            "arrivals": others,
            "rate": f"{answer['per_minute']:g} a minute over the last {RATE_MINUTES} minutes",
            "oldest": f"waits for {age}" if age else None,
            "backlog": f"about {duration(backlog * 1000)}" if backlog else None,
        }
    )
    for failure in answer["failures"]:
        typer.echo(f"failed  job {failure['id']} {failure['source']}: {failure['error']}")


def _end(run: dict[str, Any]) -> str:
    if run["ended_at"] is None:
        return f"(pid {run['pid']}) did not end in good order"
    return f"{run['end_reason']} at {local(run['ended_at'])}"


def _print_daemon(daemon: dict[str, Any]) -> None:
    for replica in daemon.get("replicas", []):
        line = f"replica {replica['number']} on {', '.join(replica['devices'])}: {replica['phase']}"
        if replica["stage"]:
            line += f", {replica['stage']}" + (f" {replica['fraction']:.0%}" if replica["fraction"] else "")
        if replica["restarts"]:
            line += f", started again {replica['restarts']} times"
        if replica["last_error"]:
            line += f" ({replica['last_error']})"
        typer.echo(line)
    inbox = daemon.get("inbox")
    if inbox:
        how = "online" if inbox["online"] else f"OFFLINE: {inbox['reason']}"
        typer.echo(f"inbox {how} ({inbox['filesystem']}, swept every {inbox['sweep_seconds']:g} s)")
    if daemon.get("held"):
        typer.echo("PAUSED by a person; go on with `watcherd resume`.")
    for part, reason in daemon.get("paused", {}).items():
        typer.echo(f"PAUSED {part}: {reason}")
