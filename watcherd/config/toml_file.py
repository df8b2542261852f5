"""Read the configuration: one TOML file, read once and checked whole.

An unknown key, a wrong type or an impossible value is a `ConfigError` that names the key, the value and what is
allowed. Relative paths are relative to the file they stand in.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from watcherd.config.tables import Config, Model, Profile
from watcherd.errors import ConfigError
from watcherd.file_names import storable
from watcherd.outputs import CLUSTER, EXTRA_BY_OUTPUT

SEARCHED = (Path("config.toml"), Path("/etc/watcherd/config.toml"))
"""Where a configuration is looked for after ``--config`` and ``WATCHERD_CONFIG``."""


def find(path: Path | None) -> Path:
    """The configuration file: the given one, ``WATCHERD_CONFIG``, ``./config.toml`` or ``/etc/watcherd/config.toml``.

    Raises `ConfigError` when there is none.
    """
    named = path or (Path(value) if (value := os.environ.get("WATCHERD_CONFIG")) else None)
    if named:
        if not named.is_file():
            raise ConfigError(f"There is no configuration file at {named}.", hint="Give another one with --config.")
        return named.absolute()
    for candidate in SEARCHED:
        if candidate.is_file():
            return candidate.absolute()
    raise ConfigError(
        "There is no configuration file.",
        hint=f"Looked for {' and '.join(map(str, SEARCHED))}. `watcherd config init` writes one here that works as "
        "it is; or give yours with --config or WATCHERD_CONFIG.",
    )


def load(path: Path) -> Config:
    """Read and check the file at ``path``, with overrides from the environment (``WATCHERD_<SECTION>__<KEY>``).

    Raises `ConfigError` with every mistake in it, each with its key, its value and what is allowed.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not TOML: {error}.", hint='TOML needs quotes around text: key = "value".'
        ) from error
    return build(values, base=path.parent, name=str(path))


def build(values: dict[str, Any], *, base: Path, name: str = "the configuration") -> Config:
    """Check ``values`` (the file's tables) and make their paths absolute under ``base``."""
    try:
        config = _absolute(Config(**values), base.absolute())
    except ValidationError as error:
        raise ConfigError(f"{name} is wrong:\n" + "\n".join(_explain(error))) from error
    _refuse_unreadable(config, name)
    _refuse_overlaps(config, name)
    _refuse_outputs_without_their_library(config, name)
    _refuse_cluster_without_its_library(config, name)
    return config


def _refuse_unreadable(config: Config, name: str) -> None:
    """Text that cannot be stored: the environment may hold bytes that are no UTF-8. Paths may be of any bytes."""
    level: list[tuple[str, object]] = [("", config.model_dump())]
    while level:
        key, value = level.pop()
        if isinstance(value, dict):
            level += [(f"{key}.{inner}".lstrip("."), each) for inner, each in value.items()]
        elif isinstance(value, tuple | list):
            level += [(key, each) for each in value]
        if isinstance(value, str) and storable(value) != value:
            raise ConfigError(
                f"{name} is wrong:\n  {storable(key)} = {value!r}: half a surrogate pair or a NUL is no text"
            )


def _refuse_outputs_without_their_library(config: Config, name: str) -> None:
    """No scan would ever have them: what they need is an extra of ours."""
    wanted = [("outbox", config.outbox.outputs)] + [
        (f"profiles.{profile}", values.outputs or ()) for profile, values in config.profiles.items()
    ]
    for table, outputs in wanted:
        for output in outputs:
            extra = EXTRA_BY_OUTPUT.get(output)
            if extra is not None and find_spec(extra.module) is None:
                raise ConfigError(
                    f"{name} is wrong:\n  {table}.outputs = {list(outputs)!r}: "
                    f"{output} needs {extra.library}, which is not installed",
                    hint=f"Install it ({extra.command}), or take {output} out.",
                )


def _refuse_cluster_without_its_library(config: Config, name: str) -> None:
    """Its machines would never be there."""
    if config.cluster.engine and find_spec(CLUSTER.module) is None:
        raise ConfigError(
            f"{name} is wrong:\n  cluster.engine = {config.cluster.engine!r} needs {CLUSTER.library}, which is not "
            "installed",
            hint=f'Install it ({CLUSTER.command}), or set cluster.engine = "" to use this machine alone.',
        )


def _absolute(config: Config, base: Path) -> Config:
    def under_base(path: Path) -> Path:
        return Path(os.path.normpath(base / path))

    def of_model(model: Model) -> Model:
        sa2va = model.sa2va
        files = {
            "checkpoint": sa2va.checkpoint and under_base(sa2va.checkpoint),
            "sam2": sa2va.sam2 and under_base(sa2va.sam2),
        }
        path = model.path and under_base(model.path)
        return model.model_copy(update={"path": path, "sa2va": sa2va.model_copy(update=files)})

    inbox, outbox, state = config.inbox, config.outbox, config.state
    metrics, hooks, cluster = config.metrics, config.hooks, config.cluster
    token_file = cluster.token_file and under_base(cluster.token_file)
    return config.model_copy(
        update={
            "inbox": inbox.model_copy(
                update={"path": under_base(inbox.path), "archive_path": under_base(inbox.archive_path)}
            ),
            "outbox": outbox.model_copy(update={"path": under_base(outbox.path)}),
            "state": state.model_copy(update={"path": under_base(state.path)}),
            "model": of_model(config.model),
            "models": {name: of_model(model) for name, model in config.models.items()},
            "metrics": metrics.model_copy(update={"file": under_base(metrics.file)}) if metrics.file else metrics,
            "cluster": cluster.model_copy(update={"token_file": token_file}),
            "hooks": hooks.model_copy(update={"command": _program_under(base, hooks.command)}),
        }
    )


def _program_under(base: Path, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with a path to its program made absolute; a bare name is left to PATH."""
    if not command or "/" not in command[0]:
        return command
    return (os.path.normpath(base / command[0]), *command[1:])


def _refuse_overlaps(config: Config, name: str) -> None:
    """Results in the inbox would be taken for scans, scans in the state folder be swept away."""
    folders = {
        "inbox.path": config.inbox.path,
        "outbox.path": config.outbox.path,
        "state.path": config.state.path,
        "inbox.archive_path": config.inbox.archive_path,
    }
    resolved = {key: Path(os.path.realpath(path)) for key, path in folders.items()}
    for key, path in resolved.items():
        for other, other_path in resolved.items():
            if key != other and path.is_relative_to(other_path):
                raise ConfigError(
                    f"{name} is wrong:\n  {key} = {str(folders[key])!r} lies inside {other} = {str(folders[other])!r}",
                    hint="The inbox, the outbox, the archive and the state folder must be apart.",
                )
    file = config.metrics.file
    for key in ("inbox.path", "inbox.archive_path", "outbox.path") if file else ():
        if Path(os.path.realpath(file or "")).is_relative_to(resolved[key]):
            raise ConfigError(
                f"{name} is wrong:\n  metrics.file = {str(file)!r} lies inside {key} = {str(folders[key])!r}",
                hint="Give the folder that node_exporter reads: its --collector.textfile.directory.",
            )


def _explain(error: ValidationError) -> list[str]:
    lines: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"] if not _is_variant(part))
        what = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if item["type"] == "extra_forbidden":
            known = ", ".join(sorted(_known_keys(item["loc"][:-1])))
            lines[f"  {where} = {item['input']!r}: there is no such key"] = [f"the keys here are {known}"]
        elif not where:
            lines[f"  {what}"] = []
        else:
            lines.setdefault(f"  {where} = {item['input']!r}", []).append(what)
    return [f"{head}; allowed: {' or '.join(allowed)}" if allowed else head for head, allowed in lines.items()]


def _is_variant(part: int | str) -> bool:
    """Whether a part of an error's location is pydantic's name for one arm of a union, not a key."""
    return (
        isinstance(part, str) and re.search(r"[\[\]()]|^(float|int|str|bool|constrained-\w+|tuple)$", part) is not None
    )


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    if location[:1] == ("models",):
        model, location = Model, location[2:]
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        else:
            model = Profile
    return list(model.model_fields)
