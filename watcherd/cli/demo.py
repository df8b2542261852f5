"""``watcherd demo``: a few bundled scans through a real inbox, queue, replica and outbox, with the real defaults."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from watcherd import config as configuration
from watcherd import logs
from watcherd.cli.common import JsonOption, print_json, print_table
from watcherd.errors import UnavailableError
from watcherd.status.units import duration
from watcherd.store import Filter, history, reader

PICTURES = (".png", ".jpg")
CONFIG = """\
# The demo's configuration: every other key has its default.
[inbox]
path = "inbox"
settle_seconds = 0.5
"""


def demo(
    folder: Annotated[Path, typer.Option(help="Where to put inbox, outbox and state.")] = Path("demo-run"),
    *,
    as_json: JsonOption = False,
) -> None:
    """Segment a few bundled scans and show where their masks are."""
    from watcherd.service.daemon import Daemon

    folder = folder.absolute()
    settings = _prepare(folder)
    logs.setup(settings.log.model_copy(update={"level": "warning"}), hidden_names=False)
    scans = _copy_scans(settings.inbox.path)
    typer.echo(f"Loading the model, then segmenting {scans} scans in {_from_here(folder)} ...", err=True)
    Daemon(settings, path=folder / "config.toml", once=True).run()
    with reader(settings.state.database) as connection:
        records = history.jobs(connection, Filter(limit=None, sort="oldest"))
    if as_json:
        print_json(records)
        return
    rows = [
        (
            record["id"],
            record["state"],
            record["source"],
            f"{record['width']} x {record['height']}",
            f"{record['mask_fraction'] or 0:.1%}",
            duration(record["inference_ms"]),
            _overlay(record, settings.outbox.path),
        )
        for record in records
    ]
    print_table(("job", "state", "scan", "size", "vessels", "inference", "overlay"), rows, right=("job", "vessels"))
    masks, database = _from_here(settings.outbox.path / "masks"), _from_here(settings.state.database)
    typer.echo(f"\nMasks are in {masks}. The history: sqlite3 -readonly {database}")
    typer.echo("Drop scans of your own into the inbox and run it again:")
    typer.echo(f"  {_program()} run --once --config {_from_here(folder / 'config.toml')}")


def _prepare(folder: Path) -> configuration.Config:
    """A fresh folder with the demo's configuration; what an earlier demo left there is removed."""
    if folder.exists():
        if not (folder / "config.toml").is_file() and any(folder.iterdir()):
            raise UnavailableError(f"{folder} holds something else.", hint="Give another folder with --folder.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG)
    return configuration.load(folder / "config.toml")


def _copy_scans(inbox: Path) -> int:
    inbox.mkdir()
    scans = [item for item in resources.files("watcherd.demo").iterdir() if item.name.endswith(PICTURES)]
    for scan in scans:
        (inbox / scan.name).write_bytes(scan.read_bytes())
    return len(scans)


def _overlay(record: dict[str, object], outbox: Path) -> str:
    outputs = record["outputs"]
    assert isinstance(outputs, list)
    found = [output["path"] for output in outputs if output["kind"] == "overlay"]
    return _from_here(outbox / found[0]) if found else ""


def _from_here(path: Path) -> str:
    """As it is best copied into the next command."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _program() -> str:
    """How this program is called: after ``make demo`` it is in no folder of PATH."""
    return "watcherd" if shutil.which("watcherd") else _from_here(Path(sys.argv[0]).absolute())
