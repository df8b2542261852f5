"""``retry``, ``cancel``, ``prioritise``, ``pause``, ``resume``, ``reload``, ``prune``: tell the daemon what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from watcherd import config as configuration
from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.config import Config
from watcherd.errors import ConfigError, StoreError, UnavailableError, UsageError, WatcherdError
from watcherd.inbox.spool import Spool
from watcherd.job import ErrorClass, State
from watcherd.service.backups import back_up
from watcherd.service.job_commands import JobCommands
from watcherd.state import lock, mailbox
from watcherd.state.mailbox import Command
from watcherd.state.run import Settings
from watcherd.status.starting import how_to_start
from watcherd.store import Database, Filter, backup, history, overview, reader, runs

PATIENCE_SECONDS = 30.0

JobsArgument = Annotated[list[int] | None, typer.Argument(help="Numbers of jobs.")]


def retry(
    jobs: JobsArgument = None,
    state: Annotated[State | None, typer.Option(help="All jobs in this state, for example failed.")] = None,
    error_class: Annotated[ErrorClass | None, typer.Option(help="Of these only failures of this class.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Have this model do them, ended jobs and waiting ones alike.")
    ] = None,
    from_model: Annotated[
        str | None, typer.Option(help="With --model: every job that waits for this model, which may be gone.")
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Have ended jobs done again."""
    settings = load_config(config)
    if model is None and from_model is None:
        _steer(settings, "retry", {"jobs": _chosen(settings, jobs, state, error_class)}, as_json=as_json)
        return
    if model is None:
        raise UsageError("--from-model needs --model: which one is to do them?", hint="For example --model default.")
    if model not in settings.model_tables:
        raise UsageError(
            f"There is no model {model!r}.", hint=f"The configuration has {', '.join(settings.model_tables)}."
        )
    if from_model is None:
        chosen = _chosen(settings, jobs, state, error_class)
    elif jobs or state or error_class:
        raise UsageError("--from-model names all jobs that wait for a model.", hint="Leave out numbers and --state.")
    else:
        chosen = _waiting_for(settings, from_model)
    _steer(settings, "retry", {"jobs": chosen, "model": model}, as_json=as_json)


def cancel(
    jobs: JobsArgument = None,
    state: Annotated[State | None, typer.Option(help="All jobs in this state: queued.")] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Take waiting jobs back. What is running finishes."""
    settings = load_config(config)
    _steer(settings, "cancel", {"jobs": _chosen(settings, jobs, state, None)}, as_json=as_json)


def prioritise(
    jobs: Annotated[list[int], typer.Argument(help="Numbers of waiting jobs.")],
    priority: Annotated[int, typer.Option(help="Higher is sooner; 0 is the ordinary one.")] = 10,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Do waiting jobs sooner, or with a negative priority later."""
    _steer(load_config(config), "prioritise", {"jobs": jobs, "priority": priority}, as_json=as_json)


def pause(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Begin nothing new until `resume`, also after a restart; scans are taken in and wait."""
    _steer(load_config(config), "pause", {}, as_json=as_json)


def resume(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Go on after `pause`."""
    _steer(load_config(config), "resume", {}, as_json=as_json)


def reload(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have the daemon read its configuration again, and wait until it has; exit code 78 when it is wrong."""
    path = configuration.find(config)
    try:
        settings = configuration.load(path)
    except ConfigError:
        # The daemon has to say so in its own log; where its state folder is must be known for that.
        _reload_rejected(path, as_json=as_json)
        raise
    _steer(settings, "reload", {}, as_json=as_json, needs_daemon=True)


def prune(
    config: ConfigOption = None,
    *,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="The machine's clock is right, though it was set far ahead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take away what is older or larger than the retention that is configured, and copy the history; for every night.

    Never unfinished work, never a scan whose result is not delivered; nothing for its age by a clock that was set far
    ahead, until it has gone on for three days.
    """
    settings = load_config(config)
    outcome = steered(settings, "prune", {"trust_clock": trust_clock} if trust_clock else {})
    copy = back_up(settings)
    findings = backup.check(copy)
    if as_json:
        print_json({"outcome": outcome, "backup": str(copy), "findings": findings})
    else:
        typer.echo(f"{outcome}\nhistory copied to {copy}")
    if findings:
        raise StoreError(f"The history is damaged: {findings[0]}", hint="Run watcherd db check.")


def _reload_rejected(path: Path, *, as_json: bool) -> None:
    import tomllib

    try:
        state = tomllib.loads(path.read_text()).get("state", {})
        settings = configuration.build({"state": state}, base=path.parent)
    except (ValueError, OSError, ConfigError):
        return
    if lock.owner(settings.state.lock) is not None:
        _steer(settings, "reload", {}, as_json=as_json, needs_daemon=True)


def _chosen(
    settings: Config, jobs: Sequence[int] | None, state: State | None, error_class: ErrorClass | None
) -> list[int]:
    if state is None and error_class is None:
        if not jobs:
            raise UsageError("Which jobs?", hint="Give their numbers, or --state.")
        return list(jobs)
    if jobs:
        raise UsageError("Numbers of jobs and --state or --error-class exclude each other.", hint="Give one of them.")
    wanted = Filter(states=(state,) if state else (), error_class=error_class, limit=None, sort="oldest")
    with reader(settings.state.database) as connection:
        return [record["id"] for record in history.jobs(connection, wanted)]


def _waiting_for(settings: Config, model: str) -> list[int]:
    with reader(settings.state.database) as connection:
        return overview.queued_for(connection, model)


def _steer(
    settings: Config, verb: str, arguments: Mapping[str, Any], *, as_json: bool, needs_daemon: bool = False
) -> None:
    """Have it done and say how it went."""
    outcome = steered(settings, verb, arguments, needs_daemon=needs_daemon)
    if as_json:
        print_json({"outcome": outcome})
    else:
        typer.echo(outcome)


def steered(settings: Config, verb: str, arguments: Mapping[str, Any], *, needs_daemon: bool = False) -> str:
    """Have it done: by the daemon, or while none runs by ourselves under its lock."""
    if lock.owner(settings.state.lock) is not None:
        return _by_daemon(settings, verb, arguments)
    if needs_daemon:
        raise UnavailableError("watcherd is not running.", hint=f"Start it: {how_to_start()}")
    return _by_ourselves(settings, Command(id="", verb=verb, arguments=arguments))


def _by_ourselves(settings: Config, command: Command) -> str:
    with lock.sole_owner(settings.state.lock), Database.open(settings.state.database) as database:
        spool = Spool(settings.state.spool)
        spool.prepare()
        return JobCommands(Settings(settings), database, spool).carry_out(command)


def _by_daemon(settings: Config, verb: str, arguments: Mapping[str, Any]) -> str:
    """Leave the command and wait for what the daemon records of it."""
    command_id = mailbox.send(settings.state.commands, verb, arguments)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with reader(settings.state.database) as connection:
            found = runs.command(connection, command_id)
        if found and found["finished_at"]:
            if found["error"]:
                raise _refused(*json.loads(found["error"]))
            return str(found["outcome"])
        time.sleep(0.05)
    raise UnavailableError(
        f"The daemon has not answered within {PATIENCE_SECONDS:g} s; it will do it when it can.",
        hint="See watcherd status.",
    )


def _refused(exit_code: int, message: str, hint: str) -> WatcherdError:
    kinds = {kind.exit_code: kind for kind in (UsageError, ConfigError, UnavailableError)}
    return kinds.get(exit_code, WatcherdError)(message, hint=hint)
