"""The labels of a data set of nnU-Net: which value of a mask is called what. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LARGEST = 255
"""Label value of a mask of 8 bits, at most. nnU-Net itself writes larger values of regions wrapped around."""

UNNAMED = "unnamed"
"""Of values below the largest that no region has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """``names``: of the values 1, 2, ...; ``has_regions``: whether they may overlap before they are written over one
    another; ``heads``: outputs of the network."""

    names: tuple[str, ...]
    has_regions: bool
    heads: int


def read(dataset: Mapping[str, Any], path: Path) -> Labels:
    """What ``dataset.json`` says, whatever the order of its names. Without regions nnU-Net writes the place of a label
    among the sorted ones, so that only 0, 1, 2, ... mean what they say.

    Raises `ConfigError` for other labels.
    """
    given = dataset.get("labels")
    if not isinstance(given, dict) or given.get("background") != 0:
        raise _refused(path, 'its labels have no "background" of 0')
    labels = {str(name): value for name, value in given.items() if name != "ignore"}
    if not all(_is_label(value) for value in labels.values()):
        raise _refused(path, "its labels are no whole numbers")
    if any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        return _regions(dataset, labels, path)
    by_value = {value[0] if isinstance(value, list) else value: name for name, value in labels.items()}
    if len(by_value) < len(labels) or sorted(by_value) != list(range(len(by_value))):
        listed = ", ".join(map(str, sorted(by_value)))
        raise _refused(path, f"its labels are {listed}, not 0, 1, 2 and so on: nnU-Net would write others")
    if len(by_value) > LARGEST + 1:
        raise _refused(path, f"it has {len(by_value)} labels, and a mask holds values up to {LARGEST}")
    _check_ignored(given.get("ignore"), max(by_value), path)
    names = tuple(by_value[value] for value in range(1, len(by_value)))
    return Labels(names=names, has_regions=False, heads=len(by_value))


def _regions(dataset: Mapping[str, Any], labels: Mapping[str, Any], path: Path) -> Labels:
    """The value of each region stands in ``regions_class_order``, in the order of the names."""
    order = dataset.get("regions_class_order")
    names = [name for name, value in labels.items() if value not in (0, [0])]
    if not isinstance(order, list) or len(order) != len(names) or not all(_is_whole(value) for value in order):
        raise _refused(path, f"it has {len(names)} regions, and its regions_class_order has not as many values")
    if not all(1 <= value <= LARGEST for value in order):
        listed = ", ".join(map(str, order))
        raise _refused(path, f"its regions have the values {listed}, and a mask holds 1 to {LARGEST}")
    members = [each for value in labels.values() for each in (value if isinstance(value, list) else [value])]
    _check_ignored(dataset["labels"].get("ignore"), max(members), path)
    by_value = dict(zip(order, names, strict=True))
    found = tuple(by_value.get(value, UNNAMED) for value in range(1, max(order) + 1))
    return Labels(names=found, has_regions=True, heads=len(names))


def _check_ignored(value: object, largest: int, path: Path) -> None:
    """The ignore label is the value behind the last; it is never predicted."""
    if value is not None and value != largest + 1:
        raise _refused(path, f"its ignore label is {value}, and must be {largest + 1}")


def _is_label(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_whole(each) for each in value)
    return _is_whole(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be followed: {why}.",
        hint="Train with consecutive labels from 0, as nnU-Net's documentation asks.",
    )
