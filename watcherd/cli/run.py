"""``watcherd run``: the service itself."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Annotated

import typer

from watcherd import config as configuration
from watcherd import logs
from watcherd.cli.common import ConfigOption
from watcherd.errors import WatcherdError

M_ARENA_MAX = -8
"""glibc's mallopt(3)."""
ARENAS = 2


def run(
    config: ConfigOption = None,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Work until the inbox and the queue are empty, then exit.")
    ] = False,
) -> None:
    """Watch the inbox and segment what comes, until stopped."""
    from watcherd.service.daemon import Daemon

    _share_memory_among_threads()
    path = configuration.find(config)
    settings = configuration.load(path)
    logs.setup(settings.log, hidden_names=settings.privacy.names == "hidden")
    try:
        code = Daemon(settings, path=path, once=once).run()
    except WatcherdError as error:
        logs.get_logger().error("daemon_failed", error=error.message, hint=error.hint)
        raise
    raise typer.Exit(code)


def _share_memory_among_threads() -> None:
    """A dozen threads with a heap of their own each would let the process grow for hours with what each once needed."""
    with suppress(AttributeError):  # another C library than glibc, which has no such setting
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
