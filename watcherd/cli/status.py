"""``watcherd status``: alive or not, what it does, what waits, what went wrong."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.config import Config
from watcherd.errors import UnavailableError, UsageError, WatcherdError
from watcherd.status.document import gather
from watcherd.status.screen import plain_lines, status_screen
from watcherd.status.words import is_up


def status(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 69 unless it runs and its model is loaded: for health checks.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks of --watch.")] = 2.0,
) -> None:
    """Say whether the daemon is alive and how it is doing."""
    settings = load_config(config)
    if watch and check:
        raise UsageError("--check answers once; --watch goes on until Ctrl-C.", hint="Take one of them.")
    if watch:
        _watch(settings, every, as_json=as_json)
        return
    answer, now = gather(settings), datetime.now(UTC)
    if as_json:
        print_json(answer)
    elif sys.stdout.isatty():
        Console(highlight=False).print(status_screen(answer, now))
    else:
        typer.echo("\n".join(plain_lines(answer, now)))
    if check and not is_up(answer):
        raise typer.Exit(UnavailableError.exit_code)


def _watch(settings: Config, seconds: float, *, as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        raise UsageError("--watch is for a terminal.", hint="Without one call it again and again: watcherd status.")
    console = Console(highlight=False)
    with Live(_picture(settings, seconds, console), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(seconds)
            live.update(_picture(settings, seconds, console), refresh=True)


def _picture(settings: Config, seconds: float, console: Console) -> RenderableType:
    """The screen of this moment; what cannot be read is said in its place, and looked for again.

    The last line stays at the bottom, and says so when the terminal is too low for all of it.
    """
    now = datetime.now(UTC)
    try:
        body = status_screen(gather(settings, now=now), now)
    except WatcherdError as error:
        body = Text(str(error), "bold red")
    foot = f"{now.astimezone():%H:%M:%S}, every {seconds:g} s; Ctrl-C ends"
    room = console.height - 1
    lines = console.render_lines(body, pad=False)
    if len(lines) > room:
        foot += f"; {len(lines) - room} more lines need a taller window"
    picture = Layout()
    picture.split_column(Layout(body, size=min(room, len(lines) + 1)), Layout(Text(foot, "dim")))
    return picture
