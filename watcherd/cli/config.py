"""``watcherd config``: write a first configuration, check one, see what it comes to."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watcherd import config as configuration
from watcherd.cli.common import ConfigOption, JsonOption, print_fields, print_json
from watcherd.errors import UnavailableError, UsageError
from watcherd.imaging.limits import BYTES_PER_PIXEL
from watcherd.inference.segmenters import BUILT_IN, FOLLOW_RUNS, refuse_unknown
from watcherd.install import machine
from watcherd.notify import exporter, hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.config import Config, Model

config_app = typer.Typer(help="The configuration.", no_args_is_help=True)


@config_app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("config.toml"),
    *,
    as_json: JsonOption = False,
) -> None:
    """Write a first configuration, every key with its meaning and its default, and make its inbox. Nothing is
    overwritten."""
    sample = machine.resource("config.toml").read_bytes()
    _write_new(file, sample)
    settings = configuration.load(file.absolute())
    _make_inbox(settings.inbox.path)
    if as_json:
        print_json({"path": str(file.absolute()), "inbox": str(settings.inbox.path)})
        return
    given = "" if file == Path("config.toml") else f" --config {shlex.quote(str(file))}"
    typer.echo(f"Wrote {file}: every key with its default. It can be used as it is. Next:")
    typer.echo(f"  watcherd run{given}")
    typer.echo(f"Then copy scans into {settings.inbox.path}")
    typer.echo(f"and find masks and overlays in {settings.outbox.path}")


def _make_inbox(path: Path) -> None:
    """So that scans can be copied before the service has been started."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"The inbox {path} cannot be made: {error.strerror}.", hint="Name another one in the configuration."
        ) from error


def _write_new(file: Path, content: bytes) -> None:
    try:
        with file.open("xb") as written:
            try:
                written.write(content)
                written.flush()
            except OSError:
                file.unlink()  # half a configuration would be taken for a whole one
                raise
    except FileExistsError as error:
        raise UsageError(
            f"{file} is there already, and is left as it is.",
            hint="Give another file: watcherd config init OTHER.toml. `watcherd config check` checks the one there.",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{file} cannot be written: {error.strerror}.", hint="Give a file in a folder that is there and yours."
        ) from error


@config_app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration; exit code 78 and every mistake in it when it is wrong."""
    path = configuration.find(config)
    settings = configuration.load(path)
    exporter.refuse_unusable(settings)
    hooks.refuse_unusable(settings)
    for name, table in settings.model_tables.items():
        with configuration.speaking_of(name):
            refuse_unknown(table)
    if as_json:
        print_json({"path": str(path), "config": json.loads(settings.model_dump_json())})
        return
    typer.echo(f"{path} is right.")
    for warning in (*_without_effect(settings), *_that_disagree(settings), *_that_nobody_uses(settings)):
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
            **{f"model {name}": _of_model(table) for name, table in settings.models.items()},
            "profiles": ", ".join(settings.profiles),
        }
    )


def _of_model(table: Model) -> str:
    return " ".join(filter(None, (table.segmenter, str(table.path or ""))))


def _that_nobody_uses(settings: Config) -> Iterator[str]:
    """Models that take their room, and that no scan comes to by itself."""
    used = {name for each in settings.profiles.values() for name in (*each.computed_by, *each.sidecar_models)}
    for name in settings.models.keys() - used:
        yield (
            f"models.{name} is used by no profile: it is loaded, and does only what `watcherd retry --model {name}` "
            "gives it."
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
    for name, profile in settings.profiles.items():
        segmenters = {settings.model_called(model).segmenter for model in profile.computed_by}
        if not segmenters <= set(BUILT_IN):  # nothing is known of others
            continue
        named = " and ".join(map(repr, sorted(segmenters)))
        if segmenters.isdisjoint(FOLLOW_RUNS) and profile.group_frames:
            yield f"profiles.{name}.group_frames has no effect: the segmenter {named} follows no runs."
        if "sam3" not in segmenters and profile.instances:
            yield f"profiles.{name}.instances has no effect: the segmenter {named} tells none apart."
