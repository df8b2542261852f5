"""What a DICOM header says about how its pictures are to be shown and measured. Pure: a dataset in, plain values out.

Sources: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.16.2 (functional groups),
C.7.6.5 (cine), 10.7 (spacing).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from pydicom.pixels.processing import apply_color_lut

from watcherd.errors import InputError
from watcherd.imaging.readers.curves import (
    MOST_ENTRIES,
    EachItsOwn,
    Palette,
    Sigmoid,
    Table,
    TableCurve,
    table_of,
    words_of,
)
from watcherd.imaging.readers.dicom_file import DAMAGED
from watcherd.imaging.readers.window import Window, widest

if TYPE_CHECKING:
    from pydicom import Dataset

    from watcherd.imaging.readers.curves import Shown
    from watcherd.imaging.readers.scan import Pixels

Way: TypeAlias = Window | TableCurve | Sigmoid

X_RAY_CLASSES: Final = frozenset(f"1.2.840.10008.5.1.4.1.1.12.{kind}" for kind in (1, 2, 3))
"""SOP classes of X-ray angiography, radiofluoroscopy and biplane angiography (retired): PS3.4 B.5, PS3.6 A."""

X_RAY_MODALITIES: Final = ("XA", "RF", "XF")
"""Of files that do not say what class they are of."""


def group(header: Dataset, index: int, name: str) -> Dataset | None:
    """The functional group ``name`` (the keyword of its sequence) of a frame: its own, or that which all share."""
    for whole, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        frames = header.get(whole) or ()
        found = frames[place].get(name) if place < len(frames) else None
        if found:
            first: Dataset = found[0]
            return first
    return None


def number(value: Any) -> float | None:
    """A finite number from an element's value, the first of several; None where there is none."""
    try:
        value = float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str | bytes) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------- values


def class_of(header: Dataset) -> str:
    """The UID of what the file is; empty where it does not say."""
    meta = getattr(header, "file_meta", None)
    return str(header.get("SOPClassUID") or (meta.get("MediaStorageSOPClassUID") if meta else "") or "")


def is_scaled_for_display(header: Dataset) -> bool:
    """Whether what the modality LUT gives is shown. Of angiograms and fluoroscopy it is not: that leads back to the
    intensity of the X-rays, and their windows are in stored values (PS3.3 A.14.3, A.16.3).
    """
    found = class_of(header)
    return found not in X_RAY_CLASSES and bool(found or header.get("Modality") not in X_RAY_MODALITIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """What stored values stand for, in one type for all frames. ``lines``: slope and intercept of each frame, or one of
    all; empty: they stand for themselves. ``scaled``: the file says so itself, with a slope of 1.
    """

    table: Table | None = None
    lines: tuple[tuple[float, float], ...] = ()
    scaled: bool = False

    def of(self, values: Pixels, index: int) -> Pixels:
        """Stored values of a frame in the file's units."""
        if self.table is not None:
            return self.table.look_up(values)
        if not self.lines:
            return values
        slope, intercept = self.lines[index if len(self.lines) > 1 else 0]
        wide = values.dtype.itemsize > 2
        scaled: Pixels = values.astype(np.float64 if wide else np.float32)
        scaled *= slope
        scaled += intercept
        return scaled

    def signed(self, header: Dataset) -> bool:
        """Whether values in the file's units may be below zero."""
        stored = header.get("PixelRepresentation") == 1
        return self.table is None and (stored or any(slope < 0 or intercept < 0 for slope, intercept in self.lines))


def units_of(header: Dataset, frames: int) -> Units:
    """The modality LUT, or slope and intercept, as far as they are for display.

    Raises `InputError` for a modality LUT that cannot be read.
    """
    if not is_scaled_for_display(header):
        return Units()
    if item := header.get("ModalityLUTSequence"):
        table = _table(item[0], signed=header.get("PixelRepresentation") == 1, header=header)
        if table is None:
            raise InputError("The DICOM file's modality LUT cannot be read.", hint=DAMAGED)
        return Units(table=table)
    places = [group(header, index, "PixelValueTransformationSequence") or header for index in range(frames)]
    different = {id(place): place for place in places}
    found = {key: _line(place) for key, place in different.items()}
    lines = tuple(found[id(place)] for place in places)
    scaled = any(number(place.get("RescaleSlope")) is not None for place in different.values())
    if all(line == (1.0, 0.0) for line in lines):
        return Units(scaled=scaled)
    return Units(lines=lines[:1] if len(set(lines)) == 1 else lines, scaled=scaled)


def _line(place: Dataset) -> tuple[float, float]:
    return number(place.get("RescaleSlope")) or 1.0, number(place.get("RescaleIntercept")) or 0.0


def _table(item: Dataset, *, signed: bool, header: Dataset) -> Table | None:
    little = is_little(header)
    return table_of(item.get("LUTDescriptor"), item.get("LUTData"), signed=signed, little=little)


def palette_of(header: Dataset) -> Palette:
    """The tables of a file with a palette. Raises `InputError` where there are none, and what pydicom raises."""
    signed, little = header.get("PixelRepresentation") == 1, is_little(header)
    tables = []
    for place, colour in enumerate(("Red", "Green", "Blue")):
        name = f"{colour}PaletteColorLookupTable"
        descriptor, data = header.get(f"{name}Descriptor"), header.get(f"{name}Data")
        table = table_of(descriptor, data, signed=signed, little=little)
        if data is None and table_of(descriptor, b"\0\0", signed=signed, little=little):
            table = _expanded(header, words_of(descriptor, little=little), place, signed=signed)
        if table is None:
            raise InputError("The DICOM file's palette cannot be read.", hint=DAMAGED)
        tables.append(table)
    return Palette(tables=(tables[0], tables[1], tables[2]))


def _expanded(header: Dataset, said: list[int], place: int, *, signed: bool) -> Table:
    """A table of a palette that is stored in segments."""
    first = said[1] - (1 << 16) if signed and said[1] >= 1 << 15 else said[1]
    ramp = np.arange(first, first + (said[0] or MOST_ENTRIES), dtype=np.int32)
    return Table(first=first, data=apply_color_lut(ramp, header)[..., place].astype(np.uint16).tobytes())


def is_little(header: Dataset) -> bool:
    """Whether the file's words have their low byte first."""
    return getattr(header, "original_encoding", (None, True))[1] is not False


def without_padding(values: Pixels, header: Dataset) -> Pixels:
    """Values that only fill the frame become the darkest of the others: they would spoil the window."""
    first = _stored(header, "PixelPaddingValue")
    if first is None:
        return values
    last = _stored(header, "PixelPaddingRangeLimit")
    ends = (first, first if last is None else last)
    padding = (values >= min(ends)) & (values <= max(ends))
    if not padding.any() or padding.all():
        return values
    rest = values[~padding]
    dark = rest.max() if header.PhotometricInterpretation == "MONOCHROME1" else rest.min()
    return np.where(padding, dark, values).astype(values.dtype)


def _stored(header: Dataset, name: str) -> float | None:
    """A stored value that the header names, by the pixels' own sign: writers take the wrong type (US for SS)."""
    value = header.get(name)
    if isinstance(value, bytes):
        words = words_of(value, little=is_little(header))
        value = words[0] if words else None
    found = number(value)
    if found is None or not found.is_integer() or header.get("PixelRepresentation") not in (0, 1):
        return found
    allocated, stored = (int(header.get(key) or 16) for key in ("BitsAllocated", "BitsStored"))
    if header.PixelRepresentation == 0:
        return found if found >= 0 else found + (1 << allocated)
    half = 1 << (stored - 1)
    return found if -half <= found < half else float((int(found) + half) % (2 * half) - half)


# ------------------------------------------------------------------------------------------------------- window


def shown_as(header: Dataset, frames: int, *, signed: bool) -> tuple[Shown, ...]:
    """The ways in which the file wants its frames shown, the best first: its windows, then its VOI LUTs.

    Linear windows of frames that differ become the widest of them; with other curves each frame has its own.
    ``signed``: whether values in the file's units may be below zero.
    """
    places = [group(header, index, "FrameVOILUTSequence") or header for index in range(frames)]
    different = {id(place): place for place in places}
    found = {key: _ways(place, header, signed=signed) for key, place in different.items()}
    ways = [found[id(place)] for place in places]
    some = [way for way in ways if way]
    together = (_together([way[rank] for way in some], frames) for rank in range(min(map(len, some), default=0)))
    return tuple(way for way in together if way is not None)


def _together(ways: list[Way], frames: int) -> Shown | None:
    if all(way == ways[0] for way in ways):
        return ways[0]
    windows = [way for way in ways if isinstance(way, Window)]
    if len(windows) == len(ways):
        return widest(windows)
    return EachItsOwn(of_frames=tuple(ways)) if len(ways) == frames else None


def _ways(place: Dataset, header: Dataset, *, signed: bool) -> list[Way]:
    centres, widths = _numbers(place.get("WindowCenter")), _numbers(place.get("WindowWidth"))
    function = str(place.get("VOILUTFunction") or "LINEAR").strip().upper()
    windows = (_windowed(centre, width, function) for centre, width in zip(centres, widths, strict=False))
    tables = (_table(item, signed=signed, header=header) for item in place.get("VOILUTSequence") or ())
    return [window for window in windows if window] + [TableCurve(table=table) for table in tables if table]


def _numbers(value: Any) -> list[float | None]:
    several = isinstance(value, list | tuple) or type(value).__name__ == "MultiValue"
    return [number(one) for one in value] if several else [number(value)]


def _windowed(centre: float | None, width: float | None, function: str) -> Window | Sigmoid | None:
    """PS3.3 C.11.2.1.2.1: with LINEAR the window's ends are half a value further in than with LINEAR_EXACT.

    Of width 1 it is a threshold. Below that LINEAR has no meaning, and is taken as exact.
    """
    if centre is None or width is None or width <= 0:
        return None
    if function == "SIGMOID":
        return Sigmoid(centre=centre, width=width)
    if function == "LINEAR_EXACT" or width < 1:
        return Window(low=centre - width / 2, high=centre + width / 2)
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return Window(low=low, high=high if high > low else math.nextafter(low, math.inf))


# ------------------------------------------------------------------------------------------------ space and time


@dataclass(frozen=True, kw_only=True, slots=True)
class Spacing:
    """(height, width) of a pixel in mm. ``at_detector``: there, and not at the patient, where things are smaller."""

    mm: tuple[float, float]
    at_detector: bool = False


def spacing_of(header: Dataset) -> Spacing | None:
    """The size of a pixel at the patient where the file can tell, else at the detector; None where it says nothing.

    PS3.3 10.7.1, C.8.19.6: PixelSpacing of a projection that equals ImagerPixelSpacing, and is not said to be
    calibrated, is that of the detector. It is divided by the magnification, where that is known (`_magnification`).
    """
    for sequence, name in (
        ("PixelMeasuresSequence", "PixelSpacing"),
        ("ProjectionPixelCalibrationSequence", "ObjectPixelSpacingInCenterOfBeam"),
    ):
        place = group(header, 0, sequence) or _first(header, sequence)
        if place is not None and (found := _pair(place.get(name))):
            return Spacing(mm=found)
    frame = group(header, 0, "FramePixelDataPropertiesSequence")
    imager = (_pair(frame.get("ImagerPixelSpacing")) if frame else None) or _pair(header.get("ImagerPixelSpacing"))
    found = _pair(header.get("PixelSpacing"))
    if found and (found != imager or header.get("PixelSpacingCalibrationType")):
        return Spacing(mm=found)
    if imager:
        factor = _magnification(header)
        return Spacing(mm=(imager[0] / (factor or 1), imager[1] / (factor or 1)), at_detector=factor is None)
    found = _pair(header.get("NominalScannedPixelSpacing"))
    return Spacing(mm=found) if found else None


def _first(header: Dataset, sequence: str) -> Dataset | None:
    items = header.get(sequence)
    return items[0] if items else None


def _magnification(header: Dataset) -> float | None:
    """How many times larger things are on the detector than in the middle of the field: as it is said, else the way
    from the source to the detector by that to the patient (PS3.3 C.8.7.5), or to the isocentre; None: not known.
    """
    said = number(header.get("EstimatedRadiographicMagnificationFactor"))
    if said is not None and said > 0:
        return said
    place = group(header, 0, "XRayGeometrySequence") or header
    whole = number(place.get("DistanceSourceToDetector"))
    part = number(place.get("DistanceSourceToPatient")) or number(place.get("DistanceSourceToIsocenter"))
    return whole / part if whole and part and 0 < part < whole else None


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        height, width = (float(item) for item in value)
    except (TypeError, ValueError):
        return None
    return (height, width) if 0 < height < math.inf and 0 < width < math.inf else None


def frame_ms_of(header: Dataset) -> float | None:
    """Milliseconds from one frame to the next: as recorded, else as it is recommended to be played."""
    if (time := number(header.get("FrameTime"))) is not None and time > 0:
        return time
    vector = [number(item) or 0.0 for item in header.get("FrameTimeVector") or ()] if _many(header) else []
    if len(vector) > 1 and sum(vector[1:]) > 0:  # the first frame has no time before it
        return sum(vector[1:]) / (len(vector) - 1)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        if (rate := number(header.get(name))) is not None and rate > 0:
            return 1000 / rate
    return None


def _many(header: Dataset) -> bool:
    return getattr(header.get("FrameTimeVector"), "__len__", int)() > 1
