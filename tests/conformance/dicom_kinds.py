"""The table of kinds of DICOM files whose pixels are compared with those of other people's readers.

Each is a small file of one made-up scene. `KINDS` gives its bytes by its name; `MEANT` the differences that are meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from tests.unit.imaging.dicoms import compressed, content, dataset, deflated, dicom

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CT, ULTRASOUND = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.6.1"
XA, XRF = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2"

WINDOW: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}


def scene(height: int = 48, width: int = 64, high: int = 4095) -> NDArray[np.uint16]:
    """A field that brightens to the right, with a darker winding line in it."""
    rows, columns = np.mgrid[:height, :width]
    values = (0.2 + 0.7 * columns / width) * high
    line = np.abs(rows - height / 2 - 8 * np.sin(columns / 9)) < 2
    return np.where(line, values * 0.45, values).astype(np.uint16)


SCENE = scene()
GREY = (SCENE >> 4).astype(np.uint8)
RUN = np.stack([np.roll(SCENE, step, axis=1) for step in (0, 5, 9)])
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def _table(keyword: str, values: NDArray[Any], bits: int) -> dict[str, Any]:
    item = Dataset()
    item.LUTDescriptor = [len(values) % 65536, 0, bits]
    item.LUTData = values.astype("<u2").tobytes()
    item["LUTData"].VR = "OW"
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {keyword: [item]}


def _log(sop_class: str, **more: Any) -> bytes:
    exponential = 65535 * np.expm1(np.arange(4096) / 819) / np.expm1(5)
    table = _table("ModalityLUTSequence", exponential, 16)
    return dicom(SCENE, SOPClassUID=sop_class, PixelIntensityRelationship="LOG", **(WINDOW | table | more))


def _bits_above(syntax: str) -> bytes:
    return compressed(np.where(np.arange(48)[:, None] < 10, SCENE | 0x8000, SCENE), syntax, **WINDOW)


def _wrong_offsets() -> bytes:
    """A run whose table of offsets is one too large for each picture but the first."""
    data = bytearray(compressed(RUN, uid.JPEGLSLossless, **WINDOW))
    first = data.index(b"\xfe\xff\x00\xe0") + 8
    for place in (first + 4, first + 8):
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "little") + 1).to_bytes(4, "little")
    return bytes(data)


def _one_bit() -> bytes:
    """Eight frames that end within a byte; all of them together fill whole ones: others GDCM 3 leaves unread."""
    marks = (np.stack([np.roll(SCENE, step, axis=1) for step in range(8)])[:, :45, :61] > 2000).astype(np.uint8)
    whole = dataset(marks, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(marks.ravel(), bitorder="little").tobytes()
    whole.PixelData = packed + b"\0" * (len(packed) % 2)
    return content(whole)


def _palette() -> bytes:
    given: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, power in (("Red", 1.0), ("Green", 2.0), ("Blue", 0.5)):
        entries = (65535 * (np.arange(256) / 255) ** power).astype(np.uint16)
        given[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        given[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    return dicom(GREY, **given)


SYNTAXES = {
    "jpeg-extended": uid.JPEGExtended12Bit, "jpeg-lossless": uid.JPEGLosslessSV1, "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-ls-lossy": uid.JPEGLSNearLossless, "jpeg-2000": uid.JPEG2000Lossless, "jpeg-2000-lossy": uid.JPEG2000,
    "rle": uid.RLELossless,
}  # fmt: skip

KINDS: dict[str, Callable[[], bytes]] = {
    "plain": lambda: dicom(SCENE, **WINDOW),
    "8-bits": lambda: dicom(GREY),
    "big-endian": lambda: dicom(SCENE, syntax=uid.ExplicitVRBigEndian, **WINDOW),
    "implicit": lambda: content(dataset(SCENE, syntax=uid.ImplicitVRLittleEndian, **WINDOW)),
    "deflated": lambda: deflated(SCENE, **WINDOW),
    "signed": lambda: dicom(SCENE.astype(np.int16) - 2048, **(WINDOW | {"WindowCenter": 0})),
    "monochrome1": lambda: dicom(SCENE, PhotometricInterpretation="MONOCHROME1", **WINDOW),
    "run": lambda: dicom(RUN, **WINDOW),
    "high-bit": lambda: dicom(SCENE << 4, **(WINDOW | {"HighBit": 15})),
    "ct-rescaled": lambda: dicom(SCENE, SOPClassUID=CT, RescaleSlope=2, RescaleIntercept=-1000,
                                 **(WINDOW | {"WindowCenter": 3000, "WindowWidth": 8000})),
    "ultrasound-table": lambda: dicom(SCENE, SOPClassUID=ULTRASOUND, **(WINDOW | {"WindowWidth": 3000}),
                                      **_table("ModalityLUTSequence", np.arange(4096)[::-1], 12)),
    "xa-log": lambda: _log(XA),
    "xrf-log": lambda: _log(XRF),
    "xa-lin": lambda: dicom(SCENE, SOPClassUID=XA, RescaleSlope=10, RescaleIntercept=-100, RescaleType="US", **WINDOW),
    "sigmoid": lambda: dicom(SCENE, VOILUTFunction="SIGMOID", **(WINDOW | {"WindowWidth": 1000})),
    "voi-table": lambda: dicom(SCENE, BitsStored=12, HighBit=11,
                               **_table("VOILUTSequence", 4095 - np.arange(4096), 12)),
    "voi-table-11": lambda: dicom(SCENE, BitsStored=12, HighBit=11,
                                  **_table("VOILUTSequence", 2047 - np.arange(4096) // 2, 11)),
    "narrow-window": lambda: dicom(SCENE, **(WINDOW | {"WindowWidth": 500})),
    "threshold": lambda: dicom(SCENE, **(WINDOW | {"WindowWidth": 1})),
    "window-too-wide": lambda: dicom(SCENE // 5, WindowCenter=32768, WindowWidth=65536),
    "rgb": lambda: dicom(COLOURS),
    "palette": _palette,
    "rgb-16": lambda: dicom(COLOURS.astype(np.uint16) * 100),
    "wrong-offsets": _wrong_offsets,
    "one-bit": _one_bit,
    "bits-above-jpeg-ls": lambda: _bits_above(uid.JPEGLSLossless),
    "bits-above-jpeg-2000": lambda: _bits_above(uid.JPEG2000Lossless),
    **{name: lambda syntax=syntax: compressed(RUN, syntax, **WINDOW) for name, syntax in SYNTAXES.items()},
    "rgb-jpeg-ls": lambda: compressed(COLOURS, uid.JPEGLSLossless),
    "rgb-jpeg-2000": lambda: compressed(COLOURS, uid.JPEG2000Lossless),
    "htj2k": lambda: compressed(SCENE, uid.HTJ2KLossless, **WINDOW),
}  # fmt: skip

_MASKED = "bits above BitsStored belong to no value (PS3.5 8.1.1); GDCM leaves them in"

MEANT: dict[tuple[str, str], str] = {
    ("simpleitk", "high-bit"): "GDCM takes the lower bits, whatever HighBit says; DCMTK follows it (PS3.5 8.1.1)",
    ("gdcm", "high-bit"): "GDCM takes the whole word, whatever HighBit says; DCMTK follows it (PS3.5 8.1.1)",
    ("gdcm", "bits-above-jpeg-ls"): f"{_MASKED}; through SimpleITK it takes them out",
    ("gdcm", "bits-above-jpeg-2000"): _MASKED,
    ("simpleitk", "bits-above-jpeg-2000"): _MASKED,
    ("dcmtk", "window-too-wide"): "hardly anything shows through the file's own window; a person would turn it",
}
"""Differences that are meant, by reader and kind: the reason and its source."""
