"""``watcherd config``: check the configuration, see what it comes to."""

from __future__ import annotations

import json

import typer

from watcherd import config as configuration
from watcherd import exporter, hooks
from watcherd.cli.common import ConfigOption, JsonOption, print_fields, print_json

config_app = typer.Typer(help="The configuration.", no_args_is_help=True)


@config_app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration; exit code 78 and every mistake in it when it is wrong."""
    path = configuration.find(config)
    settings = configuration.load(path)
    exporter.refuse_unusable(settings)
    hooks.refuse_unusable(settings)
    if as_json:
        print_json({"path": str(path), "config": json.loads(settings.model_dump_json())})
        return
    typer.echo(f"{path} is right.")
    print_fields(
        {
            "inbox": settings.inbox.path,
            "outbox": settings.outbox.path,
            "archive": settings.inbox.archive_path,
            "database": settings.state.database,
            "segmenter": settings.model.segmenter,
            "model": settings.model.path,
            "profiles": ", ".join(settings.profiles),
        }
    )
