"""What TIFF files say of the size of a pixel and of the time between frames. Pure.

A size is believed only where somebody has measured: ImageJ's and OME's calibration, and resolution tags whose density
is none that printers and screens use (72, 96, 300 dots per inch ...), for these are what programs write when they know
nothing. Sources: TIFF 6.0; ImageJ's TIFF decoder; the OME model (2016-06).
"""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any

from watcherd.formats.volumes import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping

Spacing = tuple[float, float]
"""(height, width) of one pixel in mm."""

MILLIMETRES = {
    "nm": 1e-6, "µm": 1e-3, "\u03bcm": 1e-3, "um": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0,
    "inch": 25.4, "in": 25.4,
}  # fmt: skip
"""Names of units in ImageJ's and OME's files."""

MILLISECONDS = {"": 1000.0, "s": 1000.0, "sec": 1000.0, "seconds": 1000.0, "ms": 1.0, "msec": 1.0, "min": 60_000.0}

TAG_UNITS = {2: 25.4, 3: 10.0}
"""Millimetres in the units of the tag ResolutionUnit; 1 is none."""

USUAL_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 250, 300, 350, 360, 400, 600, 720, 1200, 2400, 4800)
NEAR = 0.005

_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^>]*)>")
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")


def from_tags(across: float | None, down: float | None, unit: int | None) -> Spacing | None:
    """From XResolution and YResolution, in pixels per ``unit`` (the tag ResolutionUnit)."""
    length = TAG_UNITS.get(unit or 0)
    if length is None or not across or not down or across <= 0 or down <= 0:
        return None
    if any(_is_usual(density * 25.4 / length) for density in (across, down)):
        return None
    return length / down, length / across


def _is_usual(dpi: float) -> bool:
    return any(abs(dpi - usual) <= NEAR * usual for usual in USUAL_DPI)


def told_by_tags(
    description: str, across: float | None, down: float | None, unit: int | None
) -> tuple[Spacing | None, float | None]:
    """Pixel size and milliseconds between frames from a page's tags: ImageDescription, XResolution, YResolution and
    ResolutionUnit. Whatever decodes the pixels, these are the same."""
    if description.startswith("ImageJ="):
        return from_imagej(imagej_said(description), across, down)
    if is_ome(description):
        return from_ome(description)
    return from_tags(across, down, unit), None


def imagej_said(description: str) -> dict[str, str]:
    """What ImageJ's description says: a key and a value on each line."""
    lines = (line.partition("=") for line in description.splitlines())
    return {key.strip(): value.strip() for key, found, value in lines if found}


def from_imagej(
    said: Mapping[str, Any], across: float | None, down: float | None
) -> tuple[Spacing | None, float | None]:
    """Pixel size and milliseconds between frames from ImageJ's description and the file's pixels per unit."""
    length = MILLIMETRES.get(str(said.get("unit", "")).strip().lower())
    spacing = (length / down, length / across) if length and across and down and across > 0 and down > 0 else None
    interval = _number(said.get("finterval"))
    if interval:
        return spacing, interval * MILLISECONDS.get(str(said.get("tunit", "")).strip().lower(), 1000.0)
    rate = _number(said.get("fps"))
    return spacing, 1000 / rate if rate else None


def is_ome(description: str) -> bool:
    """Whether a TIFF's description is OME's XML."""
    return description.lstrip().startswith("<") and "<OME" in description[:2000]


def from_ome(description: str) -> tuple[Spacing | None, float | None]:
    """Pixel size and milliseconds between frames from OME's description, of its first image."""
    found = _PIXELS.search(description)
    said = {name: unescape(value) for name, value in _ATTRIBUTE.findall(found[1])} if found else {}
    across, down = (_length(said, f"PhysicalSize{axis}") for axis in "XY")
    interval = _number(said.get("TimeIncrement"))
    unit = MILLISECONDS.get(said.get("TimeIncrementUnit", "s"))
    return (down, across) if across and down else None, interval * unit if interval and unit else None


def between_slices(description: str) -> float | None:
    """Millimetres from one page to the next, where ImageJ's or OME's description says that pages are slices."""
    if description.startswith("ImageJ="):
        said = imagej_said(description)
        length, step = MILLIMETRES.get(said.get("unit", "").strip().lower()), _number(said.get("spacing"))
        return length * step if length and step and said.get("slices", "1") != "1" else None
    if not is_ome(description):
        return None
    found = _PIXELS.search(description)
    sizes = {name: unescape(value) for name, value in _ATTRIBUTE.findall(found[1])} if found else {}
    return _length(sizes, "PhysicalSizeZ") if sizes.get("SizeZ", "1") != "1" else None


def grid_of_pages(description: str, spacing: Spacing | None, frames: int) -> Grid | None:
    """The grid of a TIFF's pages; None where the size of a pixel is not known."""
    if spacing is None:
        return None
    return Grid(spacing_mm=(between_slices(description) if frames > 1 else None, *spacing))


def _length(said: Mapping[str, str], name: str) -> float | None:
    value, unit = _number(said.get(name)), MILLIMETRES.get(said.get(f"{name}Unit", "µm"))
    return value * unit if value and unit else None


def _number(value: Any) -> float | None:
    """A number above zero, however it is written; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
