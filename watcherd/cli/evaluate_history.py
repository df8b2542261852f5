"""An evaluation's way into the history: by the service, or while none runs by ourselves."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from watcherd.cli.evaluate_masks import configuration_in_use
from watcherd.cli.steer import steered
from watcherd.errors import WatcherdError
from watcherd.state.mailbox import EVALUATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.cli.evaluate_masks import Asked

OF_NO_FIGURE = ("name", "unit", "group", "classes")


def keep(asked: Asked, found: Mapping[str, Any], failed: int) -> int | None:
    """Write down what `evaluation.json` holds; the row's number. None where there is no history, or it failed, said."""
    settings = configuration_in_use(asked.config)
    if settings is None or not settings.state.database.exists():
        return None
    document = {
        "version": version("watcherd"),
        "source": asked.source,
        "model": ", ".join(found["models"]),
        "threshold": found["threshold"],
        "profile": asked.profile,
        "truth": str(Path(found["truth"]).resolve()),
        "judged": asked.judged if asked.source == "jobs" else str(Path(asked.judged).resolve()),
        "against": None if found["against"] is None else str(Path(found["against"]["masks"]).resolve()),
        "failed": failed,
        "figures": found["summary"],
        "scans": [
            {
                "name": scan["name"],
                "group_name": scan["group"],
                "unit": scan["unit"],
                "figures": {name: value for name, value in scan.items() if name not in OF_NO_FIGURE},
            }
            for scan in found["scans"]
        ],
    }
    try:
        return int(steered(settings, EVALUATED, document).rpartition(" ")[2])
    except WatcherdError as error:
        typer.echo(f"watcherd: this is not in the history, only in its files: {error.message} {error.hint}", err=True)
        return None
