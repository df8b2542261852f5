"""``watcherd inspect-model``: what a model folder or a file of weights is, and what watcherd would do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_fields, print_json
from watcherd.cli.plan import guess_segmenter
from watcherd.errors import UsageError
from watcherd.status.units import size

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.inspection import Inspection


def inspect_model(
    path: Annotated[
        Path | None,
        typer.Argument(help="A folder, a training's iter_*.pth, or SAM2's file; else the configured model."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="For a checkpoint: the model that its training began with.")] = None,
    sam2: Annotated[Path | None, typer.Option(help="SAM2's file, where that base is no Sa2VA.")] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="What runs a folder; else guessed from its config.json.")
    ] = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what a model folder or a checkpoint is, what it holds and lacks, and what watcherd would do with it."""
    from watcherd.inference import inspection

    if path is None:
        path, base, sam2, segmenter = _configured(load_config(config).model)
    elif path.is_dir() and (base or sam2):
        raise UsageError(f"{path} is a folder; --base and --sam2 are for a checkpoint, iter_*.pth.")
    found = inspection.inspect(path, base, sam2, segmenter or _guessed(path))
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)


def _configured(model: Model) -> tuple[Path, Path | None, Path | None, str]:
    """Path, base, SAM2's file and segmenter of the model that a start would load."""
    if model.path is None:
        raise UsageError(
            f"The segmenter {model.segmenter} is configured without a model folder.", hint="Name a folder or a file."
        )
    if model.segmenter == "sa2va" and model.sa2va.checkpoint is not None:
        return model.sa2va.checkpoint, model.path, model.sa2va.sam2, ""
    return model.path, None, None, model.segmenter


def _guessed(path: Path) -> str:
    """The segmenter for a folder, empty where none is known to run it."""
    try:
        return guess_segmenter(path) if path.is_dir() else ""
    except UsageError:
        return ""


def _show(found: Inspection) -> None:
    loaded = ", ".join(f"{size(count)} in {dtype}" for dtype, count in found.loaded_bytes.items())
    fields = {"path": found.path, "what": found.what}
    fields |= {name.replace("_", " "): _in_words(name, value) for name, value in found.holds.items()}
    fields |= {
        "missing": "; ".join(found.missing),
        "parameters": f"{found.parameters:,}" if found.parameters else "",
        "loaded": loaded,
        "model": found.model,
        "revision": found.revision,
    }
    print_fields(fields)
    for words in (found.refused, found.does):
        if words:
            typer.echo(words)
    if found.warning:
        typer.echo(f"warning: {found.warning}", err=True)


def _in_words(name: str, value: Any) -> str:
    if name == "bytes":
        return size(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
