"""The threshold that ``watcherd evaluate`` finds best, and how it gets into the configuration."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from watcherd import config as configuration
from watcherd.errors import ConfigError, InputError
from watcherd.files import sync_folder

if TYPE_CHECKING:
    from watcherd.cli.evaluate_masks import Asked
    from watcherd.evaluation.judging import Options, Report
    from watcherd.evaluation.operating_point import Choice


def chosen(asked: Asked, report: Report, options: Options, in_use: float | None) -> Choice | None:
    """What the sweep found; None without one. Raises `InputError` when it is to be written and there is none."""
    from watcherd.evaluation.operating_point import choose

    report.threshold = asked.threshold if asked.threshold is not None else in_use
    if not options.thresholds or not report.swept or in_use is None:
        if asked.write:
            raise InputError("There is no sweep to write from: no scan has a probability map.")
        return None
    if not any(value is not None for row in report.swept for value in row):
        raise InputError(f"No scan has a {asked.by} at any threshold.", hint="Choose another figure with --by.")
    return choose(options.thresholds, report.swept, report.groups, asked.by, in_use)


def put_in_place(asked: Asked, choice: Choice) -> None:
    """Write the best threshold into the configuration, with a copy of what it was beside it."""
    from watcherd.evaluation.operating_point import lines_for, put

    path = configuration.find(asked.config).resolve()
    settings = configuration.load(path)
    if asked.profile is not None and asked.profile not in settings.profiles:
        raise ConfigError(f"{path} has no profile {asked.profile!r}.", hint=f"It has {', '.join(settings.profiles)}.")
    text = path.read_bytes().decode()
    changed = put(text, asked.profile, choice.best.threshold)
    backup = _free_name(path)
    try:
        _copy(path, backup)
        _replace(path, changed)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path} cannot be written: {error.strerror}.",
            hint=f"Write it by hand:\n{lines_for(asked.profile, choice.best.threshold)}",
        ) from error
    typer.echo(f"Written to {path}; what it was is in {backup}. `watcherd reload` applies it.", err=True)


def _copy(path: Path, copy: Path) -> None:
    """With its owner and mode: a configuration may hold what is not for everybody."""
    with path.open("rb") as source, copy.open("xb") as target:
        there = os.fstat(source.fileno())
        os.fchmod(target.fileno(), stat.S_IMODE(there.st_mode))
        if (there.st_uid, there.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(target.fileno(), there.st_uid, there.st_gid)
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())


def _replace(path: Path, text: str) -> None:
    """A reader sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _copy(path, temporary)
    try:
        with temporary.open("r+b") as file:
            file.truncate()
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _free_name(path: Path) -> Path:
    """A name for the copy that nobody has yet."""
    number = 1
    while (found := path.with_name(f"{path.name}.before-{number}")).exists():
        number += 1
    return found
