"""``watcherd run``: the service itself."""

from __future__ import annotations

from typing import Annotated

import typer

from watcherd import config as configuration
from watcherd import logs
from watcherd.cli.common import ConfigOption
from watcherd.errors import WatcherdError


def run(
    config: ConfigOption = None,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Work until the inbox and the queue are empty, then exit.")
    ] = False,
) -> None:
    """Watch the inbox and segment what comes, until stopped."""
    from watcherd.daemon import Daemon

    path = configuration.find(config)
    settings = configuration.load(path)
    logs.setup(settings.log, hidden_names=settings.privacy.names == "hidden")
    try:
        code = Daemon(settings, path=path, once=once).run()
    except WatcherdError as error:
        logs.get_logger().error("daemon_failed", error=error.message, hint=error.hint)
        raise
    raise typer.Exit(code)
