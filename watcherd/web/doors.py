"""What the page has others do: the very functions of the command line, handed over by `watcherd.cli.web`.

So there is one way to write for everybody, and no line of this package writes to history, inbox or outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from watcherd.store import Connection


class LogLine(Protocol):
    """One thing that happened. ``at``: as stored, UTC."""

    @property
    def at(self) -> str: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Doors:
    """``steer``: a command with its arguments, carried out; what was done, in words. ``place``: the folder of the inbox
    for a profile, or for none. ``check``: files that may be dropped. ``drop``: one of them into a folder of the inbox;
    its path there. ``tell``: all that the history knows of a job. ``log``: where lines about a job come from, in words,
    and the lines. ``sidecar``: what a sidecar of this content asks for; raises ValueError with words.

    All raise `WatcherdError` with words for people.
    """

    steer: Callable[[str, Mapping[str, Any]], str]
    place: Callable[[Path, str | None], Path]
    check: Callable[[Sequence[Path]], None]
    drop: Callable[[Path, Path], bytes]
    tell: Callable[[Connection, int], dict[str, Any]]
    log: Callable[[int], tuple[str, Sequence[LogLine]]]
    sidecar: Callable[[bytes, bytes], Mapping[str, Any]]
