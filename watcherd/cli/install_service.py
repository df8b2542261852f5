"""`watcherd install-service` and `uninstall-service`: watcherd under systemd, put there and taken away."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from watcherd import config as configuration
from watcherd.errors import ConfigError, UsageError
from watcherd.install import machine, units
from watcherd.install.units import Names, Service

Instance = Annotated[str, typer.Option(help="The name of one of several services on this machine, for example left.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")]


def install_service(
    inbox: Annotated[Path | None, typer.Option(help="Where scans come in.")] = None,
    outbox: Annotated[Path | None, typer.Option(help="Where results go.")] = None,
    archive: Annotated[Path | None, typer.Option(help="Where scans go when they are done.")] = None,
    user: Annotated[str, typer.Option(help="Who it runs as; made where there is no such user.")] = "watcherd",
    instance: Instance = "",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    print_unit: Annotated[bool, typer.Option("--print-unit", help="Print the units, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run watcherd under systemd: write units and configuration, start the service, wait until it is ready.

    Run it again after an upgrade: it renews the units, leaves the configuration alone and restarts the service.
    """
    names = _names(instance)
    service = _plan(names, inbox=inbox, outbox=outbox, archive=archive, user=user)
    files = units.render(service, machine.resource("systemd"))
    if print_unit:
        _print_units(service, files)
        return
    machine.check_interpreter(service.program)
    if not names.config.exists():
        files[names.config] = units.configuration(service, machine.resource("config.toml").read_text(encoding="utf-8"))
    if not dry_run:
        machine.check_systemd_and_root()
        machine.verify(names, files)
        written = machine.write(files)
        typer.echo(f"Starting {names.unit}: this takes as long as the model takes to load.", err=True)
        machine.bring_up(service, files)
        files = {path: files[path] for path in written}
    _report_installed(service, list(files), dry_run=dry_run, as_json=as_json)


def uninstall_service(
    instance: Instance = "",
    *,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete configuration, history, caches and logs; asks twice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the service and take away what install-service put there.

    Inbox, outbox, archive, history, configuration and the user stay.
    """
    names = _names(instance)
    if names.unit not in (found := machine.installed()):
        raise UsageError(
            f"install-service did not put {names.unit} on this machine.",
            hint=f"What it put here: {', '.join(found) or 'nothing'}.",
        )
    machine.check_systemd_and_root()
    folders = _configured_folders(names)
    if purge:
        _ask_twice(names)
    removed, kept = machine.take_down(names)
    if purge:
        removed += _purge(names, folders)
    _report_uninstalled(names, folders, removed, kept, as_json=as_json)


def _names(instance: str) -> Names:
    if instance and not units.INSTANCE.fullmatch(instance):
        raise UsageError(
            f"--instance {instance!r} cannot be the name of a service.",
            hint='Take small letters, digits, - and _, at most 31, beginning with a letter or digit; not "config".',
        )
    return Names(instance=instance)


def _plan(names: Names, *, inbox: Path | None, outbox: Path | None, archive: Path | None, user: str) -> Service:
    """The service that is asked for; folders that nobody named are those of the configuration, else under /srv."""
    if names.config.exists():
        inbox, outbox, archive = _agreed(names.config, inbox=inbox, outbox=outbox, archive=archive)
    inbox = inbox or Path("/srv", names.stem, "inbox")
    outbox = outbox or Path("/srv", names.stem, "outbox")
    archive = archive or inbox.with_name("archive" if inbox.name == "inbox" else f"{inbox.name}-archive")
    for option, folder in (("--inbox", inbox), ("--outbox", outbox), ("--archive", archive)):
        if why := units.unfit(folder):
            raise UsageError(f"{option} {folder} {why}.")
    return Service(
        names=names,
        program=Path(sys.prefix, "bin", "watcherd"),
        user=user,
        group=machine.group_of(user),
        makes_user=user == "watcherd" or not machine.exists(user),
        inbox=inbox,
        outbox=outbox,
        archive=archive,
        made_folders=tuple(f for f in (inbox, archive, outbox) if not f.exists() or machine.made_before(names, f)),
        systemd=machine.systemd_version(),
        modprobe=machine.nvidia_modprobe(),
    )


def _agreed(path: Path, *, inbox: Path | None, outbox: Path | None, archive: Path | None) -> tuple[Path, Path, Path]:
    """The folders in the configuration at ``path``: it is never written over, so the options must agree with it."""
    config = configuration.load(path)
    for option, given, key, value in (
        ("--inbox", inbox, "inbox.path", config.inbox.path),
        ("--outbox", outbox, "outbox.path", config.outbox.path),
        ("--archive", archive, "inbox.archive_path", config.inbox.archive_path),
    ):
        if given is not None and given != value:
            raise UsageError(
                f"{option} is {given}, but {path} says {key} = {str(value)!r}.",
                hint=f"That file is never written over: change {key} there, and leave {option} out.",
            )
    return config.inbox.path, config.outbox.path, config.inbox.archive_path


def _configured_folders(names: Names) -> tuple[Path, ...]:
    """Inbox, archive and outbox, as far as the configuration can still be read."""
    try:
        config = configuration.load(names.config)
    except ConfigError:
        return ()
    return config.inbox.path, config.inbox.archive_path, config.outbox.path


# ------------------------------------------------------------------------------------------------------------- purge


def _ask_twice(names: Names) -> None:
    doomed = [str(path) for path in (names.config, *names.disposable) if path.exists()]
    typer.echo("This deletes, for ever, the configuration and the history of every job:\n  " + "\n  ".join(doomed))
    typer.confirm("Go on?", abort=True)
    if typer.prompt(f"Type {names.stem} to delete them") != names.stem:
        raise UsageError("That was another name.", hint="Nothing was changed.")


def _purge(names: Names, folders: tuple[Path, ...]) -> list[Path]:
    """Delete configuration, history, caches and logs, and those of the shared folders that are empty."""
    removed = []
    for path in (names.config, *names.disposable):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        removed.append(path)
    for path in (*folders, *(folder.parent for folder in folders if folder.parent.name == names.stem)):
        if path.is_dir() and not path.is_mount() and not any(path.iterdir()):
            path.rmdir()
            removed.append(path)
    if units.CONFIGURATION.is_dir() and not any(units.CONFIGURATION.iterdir()):
        units.CONFIGURATION.rmdir()
    return removed


# ----------------------------------------------------------------------------------------------------------- reports


def _print_units(service: Service, files: dict[Path, str]) -> None:
    for path in (service.names.units[0], service.names.drop_ins[0]):
        typer.echo(f"# {path}\n{files[path]}")


def _report_installed(service: Service, written: list[Path], *, dry_run: bool, as_json: bool) -> None:
    names = service.names
    notes = [] if dry_run else _notes(service)
    if as_json:
        facts = {
            "unit": names.unit,
            "timer": names.timer,
            "config": str(names.config),
            "written": [str(path) for path in written],
            "made_folders": [str(path) for path in service.made_folders],
            "dry_run": dry_run,
            "notes": notes,
        }
        typer.echo(json.dumps(facts))
        return
    for path in written:
        typer.echo(f"{'would write' if dry_run else 'wrote'} {path}")
    if dry_run:
        for folder in service.made_folders:
            typer.echo(f"would make {folder}")
        typer.echo(f"would enable and start {names.unit} and {names.timer}")
        return
    typer.echo(_next_steps(service))
    for note in notes:
        typer.echo(note)


def _next_steps(service: Service) -> str:
    names = service.names
    return f"""
{names.unit} is ready, and starts with the machine.
  inbox    {service.inbox}
  outbox   {service.outbox}
  archive  {service.archive}

What to do next:
  usermod -aG {service.group} NAME                    lets NAME drop scans and read results (after the next login)
  watcherd status --config {names.config}
  journalctl -u {names.unit} -f
  systemctl reload {names.unit}              after a change in {names.config}"""


def _notes(service: Service) -> list[str]:
    """What a person still has to do about folders that were there before."""
    return [
        f"{service.user} may not write to {folder}: chgrp {service.group} {folder} && chmod g+rwxs {folder}"
        for folder in service.folders
        if machine.cannot_write(service.user, folder)
    ]


def _report_uninstalled(
    names: Names, folders: tuple[Path, ...], removed: list[Path], kept: list[Path], *, as_json: bool
) -> None:
    stays = [path for path in (names.config, names.state, *folders) if path.exists()]
    if as_json:
        facts = {"unit": names.unit, "removed": removed, "saved": kept, "stays": stays}
        typer.echo(json.dumps(facts, default=str))
        return
    for path in removed:
        typer.echo(f"removed {path}")
    for path in kept:
        typer.echo(f"kept {path}, which was edited by hand")
    for path in stays:
        typer.echo(f"left {path}")
