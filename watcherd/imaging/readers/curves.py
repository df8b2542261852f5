"""Ways to show values that are no window: a sigmoid, or a table that the file brings along. Pure.

Like a `window.Window` each has ``apply``, values in any shape to 0 to 255 in the same shape. Source: DICOM PS3.3,
C.11.1 and C.11.2 (tables, functions), C.11.2.1.1 and CP-522 (how entries are packed).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from watcherd.imaging.readers.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from watcherd.imaging.readers.scan import Pixels

MOST_ENTRIES: Final = 1 << 16
"""Entries of a table, at most; a descriptor says 0 for them."""

DEPTHS: Final = (8, 10, 12, 14, 16)
"""Bits that the entries of most tables have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A look-up table. ``data``: its entries, 16 bits each in the machine's order. ``first``: the first one's value.
    ``bits``: of an entry, as its descriptor says, which is often wrong."""

    first: int
    data: bytes
    bits: int = 0

    @property
    def entries(self) -> NDArray[np.uint16]:
        return np.frombuffer(self.data, np.uint16)

    @property
    def full(self) -> int:
        """The largest number of as many bits as the descriptor says, where the largest entry has as many; else of the
        fewest of the `DEPTHS` that hold every entry."""
        largest = int(self.entries.max())
        if self.bits == largest.bit_length() > DEPTHS[0]:
            return (1 << self.bits) - 1
        return next(top for bits in DEPTHS if (top := (1 << bits) - 1) >= largest)

    def look_up(self, values: Pixels) -> NDArray[np.uint16]:
        """The entry of each value; below and above the table that at its end."""
        last = self.first + len(self.data) // 2 - 1
        whole = np.rint(np.nan_to_num(values, nan=self.first)) if values.dtype.kind == "f" else values
        if whole.dtype.itemsize < 4:
            whole = whole.astype(np.int32)
        places = np.clip(whole, self.first, last).astype(np.int64) - self.first
        return np.take(self.entries, places)


@dataclass(frozen=True, kw_only=True, slots=True)
class Palette:
    """Tables of red, green and blue."""

    tables: tuple[Table, Table, Table]

    def look_up(self, values: Pixels) -> NDArray[np.uint8]:
        """The colours of values, (height, width, 3). Entries have 16 bits; some writers fill only the lower 8."""
        low = all(int(table.entries.max()) < 256 for table in self.tables)
        colours = np.stack([table.look_up(values) for table in self.tables], axis=-1)
        return (colours if low else colours >> 8).astype(np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableCurve:
    """Values through a `Table`. ``inverted``: high is dark."""

    table: Table
    inverted: bool = False

    def apply(self, values: Pixels) -> NDArray[np.uint8]:
        shown = np.asarray(self.table.look_up(values) * (255 / self.table.full) + 0.5, np.uint8)
        return 255 - shown if self.inverted else shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Sigmoid:
    """PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (value - ``centre``) / ``width``)) of white."""

    centre: float
    width: float
    inverted: bool = False

    def apply(self, values: Pixels) -> NDArray[np.uint8]:
        with np.errstate(over="ignore", invalid="ignore"):
            share = 1 / (1 + np.exp(-4 * (np.asarray(values, np.float64) - self.centre) / self.width))
        shown = np.asarray(np.nan_to_num(share, nan=0.0) * 255 + 0.5, np.uint8)
        return 255 - shown if self.inverted else shown


@dataclass(frozen=True, kw_only=True, slots=True)
class EachItsOwn:
    """Frames that are shown in different ways, which no window holds together. ``of_frames``: one for each."""

    of_frames: tuple[Window | TableCurve | Sigmoid, ...]

    def apply(self, values: Pixels) -> NDArray[np.uint8]:
        """As the first frame is shown: see `of_frame`."""
        return self.of_frames[0].apply(values)


Shown: TypeAlias = Window | TableCurve | Sigmoid | EachItsOwn


def of_frame(shown: Shown, index: int) -> Window | TableCurve | Sigmoid:
    """How a frame is shown, by its number from 0 on."""
    return shown.of_frames[index] if isinstance(shown, EachItsOwn) else shown


def inverted(shown: Shown) -> Shown:
    """The same with high dark."""
    if isinstance(shown, EachItsOwn):
        return EachItsOwn(of_frames=tuple(_inverted(one) for one in shown.of_frames))
    return _inverted(shown)


def _inverted(shown: Window | TableCurve | Sigmoid) -> Window | TableCurve | Sigmoid:
    return Window(low=shown.high, high=shown.low) if isinstance(shown, Window) else replace(shown, inverted=True)


# ------------------------------------------------------------------------------------------------ as files have them


def table_of(descriptor: Any, data: Any, *, signed: bool, little: bool) -> Table | None:
    """A table by its descriptor and its data, as pydicom gives them; None where they are no table.

    ``signed``: whether the values that it is for may be below zero. What the writer called its numbers (US, SS, OW,
    nothing at all) does not matter: they are words of 16 bits. ``little``: their byte order, where they are bytes.
    """
    said = words_of(descriptor, little=little)
    if len(said) < 3 or data is None:
        return None
    entries = _entries(data, said[0] or MOST_ENTRIES, little=little)
    if not entries.size:
        return None
    first = said[1] - (1 << 16) if signed and said[1] >= 1 << 15 else said[1]
    return Table(first=first, data=entries.astype(np.uint16).tobytes(), bits=said[2])


def words_of(value: Any, *, little: bool) -> list[int]:
    """Words of 16 bits without a sign, from what pydicom makes of an element of any type."""
    if value is None or isinstance(value, str):
        return []
    if isinstance(value, bytes | bytearray):
        words = np.frombuffer(value + b"\0" * (len(value) % 2), "<u2" if little else ">u2")
        return [int(word) for word in words]
    try:
        several: Sequence[Any] = value if hasattr(value, "__len__") else [value]
        return [int(one) & 0xFFFF for one in several]
    except (TypeError, ValueError):
        return []


def _entries(data: Any, count: int, *, little: bool) -> NDArray[np.uint16]:
    """Entries of 16 bits, or of 8 bits in pairs, the first in the lower half of its word: their number tells which."""
    words = np.array(words_of(data, little=little), np.uint16)
    if words.size < count and words.size == (count + 1) // 2:
        return words.astype("<u2").view(np.uint8)[:count].astype(np.uint16)
    return words[:count]
