"""What is said of the keys of ``[model]``, said of another model's: most of the code knows of one model only."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from watcherd.config.tables import Model
from watcherd.errors import WatcherdError
from watcherd.job import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY = re.compile(rf"(?<![\w./-])model\.(?=(?:{'|'.join(Model.model_fields)})\b)")
_TABLE = re.compile(r"\[model(?=[\].])")


def as_named(text: str, name: str) -> str:
    """A message about the table ``[model]`` and its keys, for the model of this name."""
    if name == DEFAULT_MODEL:
        return text
    return _TABLE.sub(f"[models.{name}", _KEY.sub(f"models.{name}.", text))


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Errors that are raised here are about the model of this name."""
    try:
        yield
    except WatcherdError as error:
        if name == DEFAULT_MODEL:
            raise
        raise type(error)(as_named(error.message, name), hint=as_named(error.hint, name)) from error
