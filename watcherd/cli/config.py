"""``watcherd config``: check the configuration, see what it comes to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from watcherd import config as configuration
from watcherd.cli.common import ConfigOption, JsonOption, print_fields, print_json
from watcherd.imaging.limits import BYTES_PER_PIXEL
from watcherd.inference.segmenters import BUILT_IN, FOLLOW_RUNS, refuse_unknown
from watcherd.notify import exporter, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.config import Config

config_app = typer.Typer(help="The configuration.", no_args_is_help=True)


@config_app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration; exit code 78 and every mistake in it when it is wrong."""
    path = configuration.find(config)
    settings = configuration.load(path)
    exporter.refuse_unusable(settings)
    hooks.refuse_unusable(settings)
    refuse_unknown(settings.model)
    if as_json:
        print_json({"path": str(path), "config": json.loads(settings.model_dump_json())})
        return
    typer.echo(f"{path} is right.")
    for warning in (*_without_effect(settings), *_that_disagree(settings)):
        typer.echo(f"warning: {warning}", err=True)
    print_fields(
        {
            "inbox": settings.inbox.path,
            "outbox": settings.outbox.path,
            "archive": settings.inbox.archive_path,
            "database": settings.state.database,
            "segmenter": settings.model.segmenter,
            "model": settings.model.path,
            "checkpoint": settings.model.sa2va.checkpoint if settings.model.segmenter == "sa2va" else None,
            "profiles": ", ".join(settings.profiles),
        }
    )


def _that_disagree(settings: Config) -> Iterator[str]:
    """Limits of which one lets through what the other refuses."""
    limits = settings.limits
    needed = -(-limits.max_pixels * BYTES_PER_PIXEL // 2**20)
    if needed > limits.worker_memory_mib:
        yield (
            f"limits.max_pixels = {limits.max_pixels:,} lets scans through for which limits.worker_memory_mib = "
            f"{limits.worker_memory_mib:,} does not suffice: colour pictures of that size need {needed:,} MiB. "
            f"Raise it, or set max_pixels to {limits.worker_memory_mib * 2**20 // BYTES_PER_PIXEL:,}."
        )


def _without_effect(settings: Config) -> Iterator[str]:
    """What is set and does nothing, as far as can be known without loading the model."""
    segmenter = settings.model.segmenter
    if segmenter in BUILT_IN and segmenter not in FOLLOW_RUNS:
        for name, profile in settings.profiles.items():
            if profile.group_frames:
                yield f"profiles.{name}.group_frames has no effect: the segmenter {segmenter!r} follows no runs."
