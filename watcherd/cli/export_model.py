"""``watcherd export-model``: a training's checkpoint and its base as one Hugging Face folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from watcherd.cli.common import JsonOption, print_json
from watcherd.status.units import size


def export_model(
    checkpoint: Annotated[Path, typer.Argument(help="A training's iter_*.pth.")],
    base: Annotated[
        Path,
        typer.Option(help="The model that its training began with: an InternVL's, a Qwen-VL's or a Sa2VA's folder."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not be there.")],
    sam2: Annotated[Path | None, typer.Option(help="sam2_hiera_large.pt, where the base is no Sa2VA.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make one Hugging Face folder of a training's checkpoint and its base, with LoRA merged."""
    from watcherd.inference.segmenters.sa2va.export import export
    from watcherd.inference.segmenters.sa2va.trained import Trained

    trained = Trained(base.absolute(), checkpoint.absolute(), sam2.absolute() if sam2 else None)
    if trained.warning:
        typer.echo(f"warning: {trained.warning}", err=True)
    with _bar() as mark:
        made = export(trained, out.absolute(), mark)
    if as_json:
        print_json({"path": str(made.folder), "tensors": made.tensors, "bytes": made.bytes})
        return
    typer.echo(f"{made.folder}: {made.tensors} tensors, {size(made.bytes)}.")
    typer.echo(f'Set path = "{made.folder}" in [model].')


@contextmanager
def _bar() -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task("", total=1.0)
        yield lambda words, done: progress.update(task, description=words, completed=done or 0.0)
