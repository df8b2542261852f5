"""How times, sizes and states are shown to people. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

AMBER = "dark_goldenrod"
"""Colour of what waits or needs a look: the terminal's own yellow is hardly seen on white."""
STAGES = ("decode", "inference", "render")
"""Stages in which a scan is worked on."""
STATE_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "quarantined": "bold red",
    "running": "cyan",
    "delivering": "cyan",
    "queued": AMBER,
    "cancelled": "dim",
}
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of text that spreadsheets take for a formula, the full-width forms too."""


def for_spreadsheets(value: object) -> object:
    """A cell of a CSV: text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def local(stamp: str | None) -> str:
    """A stored time as the person's clock showed it."""
    return datetime.fromisoformat(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp else ""


def when(stamp: str, now: datetime) -> str:
    """A stored time as a person says it: the clock alone on the same day, else with the date."""
    then, here = datetime.fromisoformat(stamp).astimezone(), now.astimezone()
    if then.date() == here.date():
        return then.strftime("%H:%M:%S")
    return then.strftime("%d %b %H:%M" if then.year == here.year else "%Y-%m-%d %H:%M").lstrip("0")


def took(record: Mapping[str, Any]) -> int | None:
    """Milliseconds that a job's stages took together; None while none has ended."""
    known = [ms for stage in STAGES if (ms := record.get(f"{stage}_ms")) is not None]
    return sum(known) if known else None


def duration(ms: float | None) -> str:
    """Milliseconds as a person reads them: ``85 ms``, ``3.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def size(count: float | None) -> str:
    """Bytes as a person reads them."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def gib(mib: float) -> str:
    """Device memory, given in MiB, as a person reads it."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"
