"""``watcherd web``: a page to look and to try, in a process of its own; see `watcherd.web`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watcherd import logs
from watcherd.cli.common import ConfigOption, load_config
from watcherd.cli.dropping import check_inbox, check_sources, drop, place_in_inbox
from watcherd.cli.logs import lines_about
from watcherd.cli.show import tell
from watcherd.cli.steer import steered
from watcherd.config import Config
from watcherd.inbox.sidecar_options import overrides
from watcherd.state import live

if TYPE_CHECKING:
    from watcherd.web.doors import Doors


def web(
    config: ConfigOption = None,
    *,
    say_address: Annotated[
        bool, typer.Option("--address", help="Say where the page is, with the token that opens it, and end.")
    ] = False,
) -> None:
    """Show a page in browsers: what goes on, every scan with its mask, and a place to try scans and prompts."""
    from watcherd.web import server

    settings = load_config(config)
    where = f"http://{_host(settings.web.address)}:{settings.web.port}/"
    secret = server.secret_of(settings)
    to_open = where if settings.web.password.get_secret_value() else f"{where}login#{secret}"
    if say_address:
        typer.echo(to_open)
        return
    listening = server.listen(settings)
    logs.setup(settings.log, hidden_names=settings.privacy.names == "hidden")
    if sys.stdout.isatty():
        typer.echo(f"The page is at {to_open}\nIt ends with Ctrl-C.")
    else:  # the journal is read by more people than the page
        logs.get_logger().info("web_listening", address=where, reason="watcherd web --address says how to open it")
    server.serve(settings, doors_of(settings), listening=listening)


def doors_of(settings: Config) -> Doors:
    """What the page has others do: what the command line does."""
    from watcherd.web.doors import Doors

    return Doors(
        steer=lambda verb, arguments: steered(settings, verb, arguments),
        place=lambda folder, profile: place_in_inbox(settings, folder, profile),
        check=lambda files: check_sources(files, settings),
        drop=lambda source, below: _drop(settings, source, below),
        tell=tell,
        log=lambda job_id: lines_about(settings, job_id),
        sidecar=overrides,
    )


def _drop(settings: Config, source: Path, below: Path) -> bytes:
    check_inbox(settings.inbox.path, live.inbox_away(live.read(settings.state.path, settings.state.lock)))
    return drop(source, settings.inbox.path, below)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
