"""What a look of ``watcherd doctor`` ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo``: what a person can do; ``repair``: what doctor can do, safely."""

    check: str
    level: Level
    text: str
    todo: str = ""
    repair: Callable[[], str] | None = None
