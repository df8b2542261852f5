"""Which threshold is best by a figure, how sure that is, and the line that sets it. Pure."""

from __future__ import annotations

import re
import statistics
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError
from watcherd.evaluation.frame_figures import LOWER_IS_BETTER
from watcherd.evaluation.intervals import Bootstrap, Difference, Interval, difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A threshold, with the mean of the figure over the scans; None where none has it."""

    threshold: float
    mean: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The best threshold by ``figure``.

    ``elsewhere``: what it is worth on scans that it was not chosen on: each group is judged at the threshold that is
    best on all others (leave-one-out: M. Stone, JRSS B 36, 1974). ``gain``: the best less the one in use.
    """

    figure: str
    points: tuple[Point, ...]
    best: Point
    in_use: float
    gain: Difference | None
    elsewhere: float | None


def choose(
    thresholds: Sequence[float], scans: Sequence[Row], groups: Sequence[str], figure: str, in_use: float
) -> Choice:
    """``scans``: of each the figure at each threshold. ``in_use``: one of the thresholds.

    Raises ValueError when no scan has the figure anywhere.
    """
    bootstrap = Bootstrap(groups)
    columns = [[scan[place] for scan in scans] for place in range(len(thresholds))]
    points = tuple(
        Point(threshold=threshold, mean=_mean(column), interval=bootstrap.of_mean(column))
        for threshold, column in zip(thresholds, columns, strict=True)
    )
    best = _best(columns, figure)
    return Choice(
        figure=figure,
        points=points,
        best=points[best],
        in_use=in_use,
        gain=difference(columns[best], columns[list(thresholds).index(in_use)], groups),
        elsewhere=_elsewhere(columns, groups, figure),
    )


def _mean(values: Row) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _best(columns: Sequence[Row], figure: str) -> int:
    """The place of the best mean, the lowest threshold of equal ones. A scan without the figure there is the worst one:
    thresholds of which masks are empty are not to win by it.
    """
    sign = -1 if figure in LOWER_IS_BETTER else 1
    ranked = []
    for place, column in enumerate(columns):
        missing = sum(value is None for value in column)
        mean = _mean(column)
        if mean is not None:
            ranked.append((missing, -sign * mean, place))
    if not ranked:
        raise ValueError(f"no scan has a {figure}")
    return min(ranked)[2]


def _elsewhere(columns: Sequence[Row], groups: Sequence[str], figure: str) -> float | None:
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        return None
    values: list[float | None] = []
    for name in names:
        others = [[value for value, group in zip(column, groups, strict=True) if group != name] for column in columns]
        if all(value is None for column in others for value in column):
            continue
        best = columns[_best(others, figure)]
        values += [value for value, group in zip(best, groups, strict=True) if group == name]
    return _mean(values)


# ---------------------------------------------------------------------------------------------------- the configuration


def lines_for(profile: str | None, threshold: float) -> str:
    """What to paste into the configuration."""
    return f"[{_table(profile)}]\nthreshold = {threshold:g}"


def _table(profile: str | None) -> str:
    if profile is None:
        return "model"
    return f"profiles.{profile if re.fullmatch(r'[A-Za-z0-9_-]+', profile) else _quoted(profile)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def put(text: str, profile: str | None, threshold: float) -> str:
    """A configuration's text with that one value changed, everything else as it was to the letter.

    Raises `ConfigError` when the text says it in a way that is not found; nothing else is ever changed.
    """
    wanted = _wanted(tomllib.loads(text), profile, threshold)
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if _heads(line, profile)), None)
    if start is None:
        end = "" if not text or text.endswith("\n") else "\n"
        changed = f"{text}{end}\n{lines_for(profile, threshold)}\n"
    else:
        changed = "".join(_in_table(lines, start, threshold))
    try:
        fits = tomllib.loads(changed) == wanted
    except tomllib.TOMLDecodeError:
        fits = False
    if not fits:
        raise ConfigError(
            f"The table [{_table(profile)}] is written in a way that is not changed by a program.",
            hint=f"Nothing was changed. Write it by hand:\n{lines_for(profile, threshold)}",
        )
    return changed


def _wanted(values: dict[str, Any], profile: str | None, threshold: float) -> dict[str, Any]:
    table = values.setdefault("model", {}) if profile is None else values["profiles"][profile]
    table["threshold"] = float(f"{threshold:g}")
    return values


def _heads(line: str, profile: str | None) -> bool:
    """Whether a line begins the table, in any of TOML's spellings of its name."""
    found = re.match(r"\s*\[([^\[\]]+)\]\s*(#.*)?$", line)
    if found is None:
        return False
    try:
        values = tomllib.loads(f"[{found[1]}]")
    except tomllib.TOMLDecodeError:
        return False
    return values == ({"model": {}} if profile is None else {"profiles": {profile: {}}})


def _in_table(lines: list[str], start: int, threshold: float) -> list[str]:
    """The value replaced where it stands, with what stands behind it; else put below the table's name."""
    for number in range(start + 1, len(lines)):
        if re.match(r"\s*\[", lines[number]):
            break
        if found := re.match(r"(\s*threshold\s*=\s*)[^\s#]+(.*)$", lines[number], re.DOTALL):
            return [*lines[:number], f"{found[1]}{threshold:g}{found[2]}", *lines[number + 1 :]]
    head = lines[start] if lines[start].endswith("\n") else lines[start] + "\n"
    return [*lines[:start], head, f"threshold = {threshold:g}\n", *lines[start + 1 :]]
