"""What every command shares: its options, and how tables and documents are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from watcherd import config as configuration
from watcherd.config import Config
from watcherd.errors import ConfigError
from watcherd.status.units import STATE_COLOURS
from watcherd.store import reader

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="The configuration file.", envvar="WATCHERD_CONFIG", show_envvar=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

WIDE = 110
"""Columns of a terminal that has room for every column of a table."""
NARROW = 70
"""Columns of a terminal below which a table keeps only what a person cannot do without."""


def load_config(path: Path | None) -> Config:
    """The configuration that a command works with."""
    try:
        return configuration.load(configuration.find(path))
    except PermissionError as error:
        raise ConfigError(
            f"You may not look for a configuration at {error.filename}.", hint="Give one that you may read: --config."
        ) from error


@contextmanager
def open_history(path: Path | None) -> Iterator[Any]:
    """A read-only connection to the history of the configured state folder."""
    with reader(load_config(path).state.database) as connection:
        yield connection


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    folded: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table on a terminal; tab-separated lines otherwise, for other programs.

    ``right``: columns of numbers. ``folded``: columns whose text may take several lines; the others stay whole.
    ``spare``: columns that a narrow terminal is spared.
    """
    if not sys.stdout.isatty():
        typer.echo("\t".join(columns))
        for row in rows:
            typer.echo("\t".join(_plain(cell) for cell in row))
        return
    console = Console()
    console.print(make_table(columns, rows, width=console.width, right=right, folded=folded, spare=spare))


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    width: int,
    right: Sequence[str] = (),
    folded: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> Table:
    """The table of `print_table` for a terminal of ``width`` columns."""
    shown = [column for column in columns if width >= WIDE or column not in spare]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=bool(folded) and column not in folded)
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        table.add_row(*(_styled(cells[column]) for column in shown))
    return table


def _plain(cell: object) -> str:
    return "" if cell is None else " ".join(str(cell).split())


def _styled(cell: object) -> Text:
    text = _plain(cell)
    return Text(text, style=STATE_COLOURS.get(text, ""))


def print_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value is not None and value != "":
            typer.echo(f"{name:<{width}}  {value}")
