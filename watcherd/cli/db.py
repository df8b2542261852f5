"""``watcherd db``: look after the history."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.errors import StoreError
from watcherd.service.backups import back_up
from watcherd.state import lock
from watcherd.store import CorruptDatabaseError, Database, backup

db_app = typer.Typer(help="The database.", no_args_is_help=True)


@db_app.command("upgrade")
def upgrade(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the database up to this program's version; the old one is kept beside it."""
    state = load_config(config).state
    with lock.sole_owner(state.lock), Database.open(state.database):
        pass
    if as_json:
        print_json({"database": str(state.database), "upgraded": True})
    else:
        typer.echo(f"{state.database} is of this version.")


@db_app.command("check")
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look through the whole database for damage; exit code 70 when there is any."""
    path = load_config(config).state.database
    try:
        findings = backup.check(path)
    except CorruptDatabaseError as error:
        findings = [error.message]
    if as_json:
        print_json({"database": str(path), "findings": findings})
        raise typer.Exit(StoreError.exit_code if findings else 0)
    if findings:
        raise StoreError(
            f"{path} is damaged:\n  " + "\n  ".join(findings), hint="Restore a backup: watcherd db restore."
        )
    typer.echo(f"{path}: nothing is wrong.")


@db_app.command("backup")
def make_backup(
    to: Annotated[Path | None, typer.Argument(help="The new file; else one named by the time, in backups/.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the database while it is in use."""
    settings = load_config(config)
    target = to or back_up(settings)
    if to is not None:
        backup.backup(settings.state.database, to)
    if as_json:
        print_json({"backup": str(target)})
    else:
        typer.echo(f"Copied to {target}.")


@db_app.command("restore")
def restore(
    copy: Annotated[Path, typer.Argument(help="The backup.")], config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Put a backup into the place of the database, while no daemon runs; the old one is set aside."""
    state = load_config(config).state
    with lock.sole_owner(state.lock):
        aside = backup.restore(copy, state.database, now=datetime.now(UTC))
    if as_json:
        print_json({"database": str(state.database), "set_aside": str(aside) if aside else None})
    else:
        typer.echo(f"{state.database} is the backup now." + (f" The old one is {aside}." if aside else ""))
