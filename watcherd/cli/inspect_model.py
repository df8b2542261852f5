"""``watcherd inspect-model``: what a model folder or a file of weights is, and what watcherd would do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from watcherd.cli.common import JsonOption, print_fields, print_json, size
from watcherd.cli.plan import guess_segmenter
from watcherd.errors import UsageError

if TYPE_CHECKING:
    from watcherd.inference.inspection import Inspection


def inspect_model(
    path: Annotated[Path, typer.Argument(help="A model folder, a training's iter_*.pth, or SAM2's file.")],
    base: Annotated[Path | None, typer.Option(help="For a checkpoint: the model that its training began with.")] = None,
    sam2: Annotated[Path | None, typer.Option(help="SAM2's file, where that base is an InternVL.")] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="What runs a folder; else guessed from its config.json.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Say what a model folder or a checkpoint is, what it holds and lacks, and what watcherd would do with it."""
    from watcherd.inference import inspection

    found = inspection.inspect(path, base, sam2, segmenter or _guessed(path))
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)


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
