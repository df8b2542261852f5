"""``watcherd top``: the service at work, on a screen that moves; see `top_app` for the screen itself."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from watcherd.cli.common import ConfigOption, load_config
from watcherd.errors import UsageError
from watcherd.status.document import gather


def top(
    config: ConfigOption = None,
    *,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Watch jobs move through, and steer: pause, retry, cancel, look at one."""
    settings = load_config(config)
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise UsageError("top is for a terminal.", hint="Elsewhere: watcherd status, or watcherd jobs --json.")
    gather(settings)  # what keeps it from being read is said on the shell, not on a screen that closes at once
    from watcherd.cli.top_app import Top  # textual takes a third of a second that no other command has to pay

    Top(settings, every=every).run()
