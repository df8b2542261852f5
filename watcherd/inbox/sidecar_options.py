"""What a sidecar says: the options that its content asks for, checked as strictly as the configuration. Pure."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from watcherd.config import Profile
from watcherd.file_names import storable
from watcherd.job import Options

KEYS = tuple(each.name for each in fields(Options) if each.name in Profile.model_fields)
"""What a sidecar may override: what a profile may."""

DEEPEST = 4
"""Levels of tables and lists in one another; what can be asked for has two."""
TOO_DEEP = "is nested too deeply: nothing that can be asked for has tables in tables"

LONGEST = 300
"""Characters of a parser's own words that are shown."""

_SHOWN = 80
"""Characters of a wrong value that are shown."""


class WrongError(ValueError):
    """Why a sidecar cannot be followed, as the rest of a sentence."""


def is_foreign(content: bytes, suffix: bytes) -> bool:
    """Whether another program has written it: a JSON with keys of which none is ours, as photo programs export them.

    ``model`` among others is none of ours: so do they call the camera's.
    """
    if suffix != b".json":
        return False
    try:
        given = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    if not isinstance(given, dict) or not given or given.keys() == {"model"}:
        return False
    return given.keys().isdisjoint(set(KEYS) - {"model"})  # cameras have models too


def overrides(content: bytes, suffix: bytes) -> dict[str, Any]:
    """The options that a sidecar's content asks for; ``suffix``: one of `SUFFIXES`.

    Raises `WrongError` that names the key, the value and what is allowed.
    """
    kind = "JSON" if suffix == b".json" else "TOML"
    try:
        text = content.decode("utf-8-sig")
        given = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except ValueError as error:
        raise WrongError(f"is not {kind}: {storable(str(error))[:LONGEST]}") from error
    except RecursionError as error:
        raise WrongError(f"is not {kind}: it {TOO_DEEP}") from error
    _check(given)  # before any of it is put into words
    if not isinstance(given, dict):
        raise WrongError('is not of the form {"threshold": 0.3}')
    for key, value in given.items():
        if key not in KEYS:
            raise WrongError(
                f"says {_cut(key)} = {_shown(value)}: there is no such key; the keys are {', '.join(KEYS)}"
            )
    try:
        profile = Profile(folder="any", **given)
    except ValidationError as error:
        raise WrongError("says " + "; ".join(_mistakes(error, given))) from error
    values = profile.model_dump(include=set(KEYS), exclude_none=True)
    if "outputs" in values:
        values["outputs"] = tuple(sorted(set(values["outputs"])))
    return values


def _mistakes(error: ValidationError, given: dict[str, Any]) -> list[str]:
    allowed: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        what = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        allowed.setdefault(str(item["loc"][0]), []).append(what)
    return [f"{key} = {_shown(given.get(key))}: allowed: {' or '.join(what)}" for key, what in allowed.items()]


def _check(given: object) -> None:
    """Refuse what is nested deeper than anything that can be asked for, and text that cannot be stored."""
    level: list[object] = [given]
    for _ in range(DEEPEST + 1):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and storable(value) != value:
                raise WrongError(f"says {_shown(value)}: half a surrogate pair, or a NUL, is no text")
        level = inner
    if level:
        raise WrongError(TOO_DEEP)


def _shown(value: object) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
