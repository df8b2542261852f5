"""What a DICOM header says about how its pictures are to be shown and measured. Pure: a dataset in, plain values out.

Sources: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.16.2 (functional groups),
C.7.6.5 (cine), 10.7 (spacing).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from watcherd.imaging.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from pydicom import Dataset

    from watcherd.imaging.scan import Pixels


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


def in_units(values: Pixels, header: Dataset, index: int) -> Pixels:
    """Stored values of a frame as what they stand for (modality LUT, or slope and intercept)."""
    if header.get("ModalityLUTSequence"):
        return apply_modality_lut(values, header)
    place = group(header, index, "PixelValueTransformationSequence") or header
    slope, intercept = number(place.get("RescaleSlope")), number(place.get("RescaleIntercept"))
    slope, intercept = (1.0 if slope in (None, 0.0) else slope), intercept or 0.0
    if slope == 1 and intercept == 0:
        return values
    wide = values.dtype.itemsize > 2
    scaled: Pixels = values.astype(np.float64 if wide else np.float32)
    scaled *= slope
    scaled += intercept
    return scaled


def without_padding(values: Pixels, header: Dataset) -> Pixels:
    """Values that only fill the frame become the darkest of the others: they would spoil the window."""
    first = number(header.get("PixelPaddingValue"))
    if first is None:
        return values
    last = number(header.get("PixelPaddingRangeLimit"))
    ends = (first, first if last is None else last)
    padding = (values >= min(ends)) & (values <= max(ends))
    if not padding.any() or padding.all():
        return values
    rest = values[~padding]
    dark = rest.max() if header.PhotometricInterpretation == "MONOCHROME1" else rest.min()
    return np.where(padding, dark, values).astype(values.dtype)


# ------------------------------------------------------------------------------------------------------- window


def window_of(header: Dataset, frames: int) -> Window | None:
    """The window that the file wants its frames shown with, the widest where they differ; None without a usable one."""
    places = [group(header, index, "FrameVOILUTSequence") or header for index in range(frames)]
    windows = [window for place in _different(places) if (window := _linear(place)) is not None]
    if not windows:
        return None
    return Window(low=min(window.low for window in windows), high=max(window.high for window in windows))


def _different(places: Sequence[Dataset]) -> Iterable[Dataset]:
    return {id(place): place for place in places}.values()


def _linear(place: Dataset) -> Window | None:
    """PS3.3 C.11.2.1.2.1: with LINEAR the window's ends are half a value further in than with LINEAR_EXACT."""
    centre, width = number(place.get("WindowCenter")), number(place.get("WindowWidth"))
    if centre is None or width is None or place.get("VOILUTFunction", "LINEAR") == "SIGMOID":
        return None
    exact = place.get("VOILUTFunction") == "LINEAR_EXACT"
    half = width / 2 if exact else (width - 1) / 2
    middle = centre if exact else centre - 0.5
    return Window(low=middle - half, high=middle + half) if half > 0 else None


def has_curve(header: Dataset) -> bool:
    """Whether the file wants its values shown through a curve: a sigmoid, or a table of its own."""
    if header.get("VOILUTSequence"):
        return number(header.get("WindowCenter")) is None
    width = number(header.get("WindowWidth"))
    return header.get("VOILUTFunction") == "SIGMOID" and number(header.get("WindowCenter")) is not None and bool(width)


def through_curve(values: Pixels, header: Dataset) -> NDArray[np.uint8]:
    """Values of a file that `has_curve` as 0 to 255."""
    if header.get("VOILUTSequence"):
        whole = np.rint(values).astype(np.int32) if values.dtype.kind == "f" else values
        table = header.VOILUTSequence[0]
        bits = int(table.LUTDescriptor[2])
        full = float((1 << bits) - 1) if 0 < bits <= 16 else float(np.max(table.LUTData))
        share = apply_voi(whole, header) / max(1.0, full)
    else:
        centre, width = float(number(header.WindowCenter) or 0), float(number(header.WindowWidth) or 1)
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(-4 * (values - centre) / width))
    return np.asarray(np.clip(share, 0, 1) * 255 + 0.5, np.uint8)


# ------------------------------------------------------------------------------------------------ space and time


def spacing_of(header: Dataset) -> tuple[float, float] | None:
    """(height, width) of a pixel in mm; at the patient where the file can tell, else at the detector.

    Of a projection only ImagerPixelSpacing is known as a rule: it is divided by the magnification where that is given
    (EstimatedRadiographicMagnificationFactor).
    """
    measures = group(header, 0, "PixelMeasuresSequence")
    for place, name in ((measures, "PixelSpacing"), (header, "PixelSpacing"), (header, "ImagerPixelSpacing"),
                        (header, "NominalScannedPixelSpacing")):  # fmt: skip
        found = _pair(place.get(name)) if place is not None else None
        if found and name == "ImagerPixelSpacing":
            factor = number(header.get("EstimatedRadiographicMagnificationFactor"))
            factor = factor if factor is not None and factor > 0 else 1.0
            return found[0] / factor, found[1] / factor
        if found:
            return found
    return None


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
