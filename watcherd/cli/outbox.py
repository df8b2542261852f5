"""``watcherd outbox``: whose the outbox is."""

from __future__ import annotations

from dataclasses import asdict

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.errors import UnavailableError
from watcherd.outbox.owner import Owner, Ownership, owner_of
from watcherd.state import lock

outbox_app = typer.Typer(help="The outbox, which belongs to one service.", no_args_is_help=True)


@outbox_app.command("owner")
def owner(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say whose the outbox is: the machine and the state folder of the one service that delivers into it."""
    root = load_config(config).outbox.path
    try:
        found = owner_of(root)
    except OSError as error:
        raise UnavailableError(f"The outbox {root} cannot be read: {error.strerror}.") from error
    if as_json:
        print_json({"outbox": str(root), "owner": asdict(found) if found else None})
    else:
        typer.echo(f"{root} belongs to {found or 'nobody: the first service that starts with it owns it'}.")


@outbox_app.command("take-over")
def take_over(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Own an outbox whose owner is gone for good; results in it stay. Only while neither service runs."""
    settings = load_config(config)
    root = settings.outbox.path
    with lock.sole_owner(settings.state.lock):
        ours = Owner.here(settings.state.path)
        try:
            with Ownership(root, ours) as ownership:
                before, removed = ownership.take_over()
        except OSError as error:
            raise UnavailableError(f"The outbox {root} cannot be written: {error.strerror}.") from error
    if as_json:
        print_json({"outbox": str(root), "before": asdict(before) if before else None, "removed": removed})
        return
    if before is not None and before.is_same(ours):
        typer.echo(f"{root} belongs to {ours} already; nothing was changed.")
        return
    typer.echo(f"{root} belonged to {before or 'nobody'}, and belongs to {ours} now.")
    typer.echo(
        f"Its results stay. Removed from its staging folder: {removed} half-finished results of the former owner."
    )
