"""``watcherd stop``: end a service that runs in a terminal or in the background, in good order."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.errors import UnavailableError, UsageError
from watcherd.state import lock

PROC = Path("/proc")
LOOK_SECONDS = 0.1
"""Seconds between two looks whether it has ended."""


def stop(
    config: ConfigOption = None,
    *,
    wait: Annotated[float, typer.Option(help="Seconds to wait for its end.", min=0)] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """End the service in good order, as Ctrl-C does: what is computed comes to its end, what waits is kept."""
    settings = load_config(config)
    pid = lock.owner(settings.state.lock)
    if pid is None:
        _say("it is not running", as_json=as_json)
        return
    unit = _unit_of(pid)
    if unit:
        raise UsageError(f"systemd runs it, as {unit}.", hint=f"systemctl stop {unit}")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise UnavailableError(f"You may not stop process {pid}.", hint="Do it as its user, or as root.") from error
    except ProcessLookupError:
        pass  # it ends at this very moment
    deadline = time.monotonic() + wait
    while lock.owner(settings.state.lock) == pid:
        if time.monotonic() >= deadline:
            raise UnavailableError(
                f"Process {pid} was told to end, and has not within {wait:g} s.",
                hint="It finishes what it computes. See watcherd status; watcherd stop again hurries it.",
            )
        time.sleep(LOOK_SECONDS)
    _say("stopped", as_json=as_json)


def _say(outcome: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"outcome": outcome})
    else:
        typer.echo(outcome)


def _unit_of(pid: int) -> str:
    """The systemd service that a process belongs to; empty for none. A service of a user's session is one, too."""
    try:
        group = (PROC / str(pid) / "cgroup").read_text().strip().rpartition("::")[2]
    except OSError:
        return ""
    last = group.rpartition("/")[2]
    return last if last.endswith(".service") and last.startswith("watcherd") else ""
