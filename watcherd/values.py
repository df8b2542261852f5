"""What siblings tell one another: plain values below all of them, so that nobody copies fields by hand.

A replica measures a `DeviceUse`, an imaging worker a `FrameMeasure`; the store keeps both as they are. A worker writes
a `ResultFile`, the outbox gives it a name (`Intent`), and the store writes that down before the file is renamed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Unit = Literal["px", "mm"]
"""Of lengths and widths."""

C = TypeVar("C", bound=type)

_setters: dict[type, tuple[Callable[[Any, Any], None], ...]] = {}


def quickly_pickled(cls: C) -> C:
    """For frozen dataclasses with slots that cross between processes with every scan.

    dataclasses looks their fields up in Python for each object, on both sides: four times as much as this costs.
    """
    names = tuple(field.name for field in fields(cls))
    values_of = attrgetter(*names)
    assert len(names) > 1, "attrgetter gives no tuple of a single one"
    _setters[cls] = tuple(getattr(cls, name).__set__ for name in names)
    setattr(cls, "__reduce__", lambda self: (_made, (cls, values_of(self))))  # noqa: B010 - mypy infers no lambda here
    return cls


def _made(cls: type, values: tuple[Any, ...]) -> Any:
    made: Any = object.__new__(cls)
    for put, value in zip(_setters[cls], values, strict=True):
        put(made, value)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a file is recognised by: equal signatures at one path mean that it is still the same file.

    ``size`` in bytes; ``device`` and ``inode`` as the file system numbers them. A remount may number the device anew.
    `watcherd.store.PathSignature` is the same with path and ctime, as a row of the history has it.
    """

    size: int
    mtime_ns: int
    device: int
    inode: int


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceUse:
    """The memory of one device while a batch was computed, in MiB; None where unknown, never 0 instead.

    The fields are also the columns of the history's table ``attempt_device``.
    """

    device: str
    name: str | None = None
    vram_before_mib: float | None = None
    vram_peak_allocated_mib: float | None = None
    vram_peak_reserved_mib: float | None = None
    nvml_used_mib: float | None = None
    nvml_process_mib: float | None = None

    def columns(self) -> dict[str, Any]:
        """Names and values, as they are stored and shown."""
        return {name: getattr(self, name) for name in DEVICE_COLUMNS}


DEVICE_COLUMNS = tuple(field.name for field in fields(DeviceUse))
"""Names of what is measured of a device."""


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMeasure:
    """One frame of a result in numbers (docs/measures.md). ``frame``: from 1. ``unit``: of lengths and widths.

    ``components``, ``length`` and the widths are None where they were not measured. An empty mask has 0 components,
    length 0 and no width.
    """

    frame: int
    unit: Unit
    area_fraction: float
    components: int | None = None
    length: float | None = None
    mean_width: float | None = None
    max_width: float | None = None

    def columns(self) -> dict[str, Any]:
        """Names and values, as they are stored and shown."""
        return {name: getattr(self, name) for name in self.__slots__}


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class ResultFile:
    """A file of a result that lies in staging and has no final name yet, with its SHA-256 in hex and size in bytes.

    ``path``: its suffix (``.nii.gz`` counts as one) becomes that of the final name.
    """

    kind: str
    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Intent:
    """A staged file and the name that it will have; ``final`` is below the outbox."""

    kind: str
    staged: Path
    final: bytes
    sha256: str
    bytes: int
