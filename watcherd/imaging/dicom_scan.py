"""DICOM files: whatever pydicom and its plug-ins decode, a frame at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options

from watcherd.errors import InputError
from watcherd.imaging.dicom_display import (
    frame_ms_of,
    has_curve,
    in_units,
    spacing_of,
    through_curve,
    window_of,
    without_padding,
)
from watcherd.imaging.dicom_file import DAMAGED, open_dicom, own_words
from watcherd.imaging.scan import Pixels, Told, TruncatedError
from watcherd.imaging.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydicom import Dataset

    from watcherd.imaging.limits import DecodeLimits

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
NEEDED: Final = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
WHOLE: Final = ("BitsStored", "PixelRepresentation")
"""Needed besides, where values are whole numbers."""
LONGEST_TAG: Final = 256


class DicomScan:
    """A file opened through pydicom."""

    format = "DICOM"

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._opened = open_dicom(path, memory_mib=limits.memory_mib)
        try:
            with own_words("The DICOM file's header cannot be understood"):
                self._check(limits)
                self.told = self._told()
        except BaseException:
            self.close()
            raise
        self._running: Iterator[tuple[Pixels, dict[str, Any]]] | None = None
        self._next = 0

    def _check(self, limits: DecodeLimits) -> None:
        """What the header claims, before anything is decoded."""
        header, opened = self._opened.header, self._opened
        needed = NEEDED + (WHOLE if opened.keyword == "PixelData" else ())
        if missing := [name for name in needed if header.get(name) is None or header.get(name) == ""]:
            raise InputError(f"The DICOM file lacks {', '.join(missing)}.", hint=DAMAGED)
        self._options = as_pixel_options(header, pixel_keyword=opened.keyword, pixel_vr=opened.vr)
        limits.check_size(int(header.Columns), int(header.Rows))
        stored = int(self._options["samples_per_pixel"]) * int(self._options["bits_allocated"]) // 8
        limits.check_memory(int(header.Columns), int(header.Rows), stored + 1)
        self.frames = int(self._options["number_of_frames"])
        limits.check_frames(self.frames)
        self.bit_depth = int(header.get("BitsStored") or header.BitsAllocated)
        if header.PhotometricInterpretation not in GREY + COLOURS:
            raise InputError(
                "The DICOM file's colours are stored in a way that is not supported.",
                hint=f"PhotometricInterpretation may be {', '.join(GREY + COLOURS)}: save it as one of them.",
            )
        self._decoder = self._available_decoder()
        self._check_length()

    def _available_decoder(self) -> Any:
        syntax = self._opened.syntax
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            decoder = None
        if decoder is None or not decoder.is_available:
            raise InputError(
                f"The DICOM file's pictures are compressed as {syntax.name}, which cannot be decoded here.",
                hint="Save it in another transfer syntax, for example Explicit VR Little Endian; "
                "docs/formats.md says which library decodes what.",
            )
        return decoder

    def _check_length(self) -> None:
        """Pictures that are not compressed have a known length."""
        opened, options = self._opened, self._options
        if opened.length is None:
            if opened.syntax.is_compressed:
                return
            raise InputError("The DICOM file's pictures are in fragments, and not compressed.", hint=DAMAGED)
        if opened.syntax.is_compressed and opened.syntax.is_encapsulated:
            raise InputError(
                "The DICOM file's pictures are not in fragments, as compressed ones must be.", hint=DAMAGED
            )
        samples = int(options["samples_per_pixel"])
        bits = int(options["rows"]) * int(options["columns"]) * samples * int(options["bits_allocated"]) * self.frames
        if options["photometric_interpretation"] == "YBR_FULL_422":
            bits = bits // 3 * 2
        if opened.length < (bits + 7) // 8:
            raise TruncatedError(
                f"The file is truncated: its pictures need {(bits + 7) // 8:,} bytes and it has {opened.length:,}.",
                hint="The copy was interrupted, or the header is wrong; export the scan again.",
            )

    def _told(self) -> Told:
        header = self._opened.header
        grey = header.PhotometricInterpretation in GREY
        self._curve = grey and has_curve(header)
        return Told(
            window=self._window() if grey and not self._curve else None,
            inverted=header.PhotometricInterpretation == "MONOCHROME1",
            spacing_mm=spacing_of(header),
            frame_ms=frame_ms_of(header) if self.frames > 1 else None,
        )

    def _window(self) -> Window | None:
        header = self._opened.header
        window = window_of(header, self.frames)
        if window is None and self.bit_depth < 8 and self._opened.keyword == "PixelData" and not _is_scaled(header):
            return Window(low=0, high=(1 << self.bit_depth) - 1)  # 0 and 1 of a mask would both be black
        return window

    def tags(self, keywords: Sequence[str]) -> dict[str, str]:
        """The values of these attributes as text, where the file has them."""
        with own_words("The DICOM file's attributes cannot be read"):
            header = self._opened.header
            return {name: _text(header.get(name)) for name in keywords if header.get(name) not in (None, "")}

    def read(self, index: int) -> Pixels:
        with own_words(f"The DICOM file's pictures cannot be decoded as {self._opened.syntax.name}"):
            values, described = self._decoded(index)
            return self._shown(values, str(described["photometric_interpretation"]), index)

    def _decoded(self, index: int) -> tuple[Pixels, dict[str, Any]]:
        """Frames are asked for in order, as a rule: fragments are followed once then, not once for each frame."""
        if self._opened.length is not None:
            self._opened.file.seek(self._opened.offset)
            values, described = next(self._decoder.iter_array(self._opened.file, indices=[index], **self._options))
            return values, described
        if self._running is None or index < self._next:
            self._opened.file.seek(self._opened.offset)
            self._running = self._decoder.iter_array(self._opened.file, **self._options)
            self._next = 0
        while True:
            try:
                found = next(self._running)
            except StopIteration:
                raise InputError(
                    f"The DICOM file holds {self._next} pictures, and says that it has {self.frames}.", hint=DAMAGED
                ) from None
            self._next += 1
            if self._next > index:
                return found

    def _shown(self, values: Pixels, photometric: str, index: int) -> Pixels:
        header = self._opened.header
        if photometric == "PALETTE COLOR":
            return _eight_bits(apply_color_lut(values, header))
        if values.ndim == 3:
            return values
        values = in_units(without_padding(values, header), header, index)
        return through_curve(values, header) if self._curve else values

    def close(self) -> None:
        self._opened.close()


def _is_scaled(header: Dataset) -> bool:
    return bool(header.get("ModalityLUTSequence")) or header.get("RescaleSlope") is not None


def _eight_bits(colours: Pixels) -> Pixels:
    """A palette's colours; they are mostly of 16 bits, and some writers fill only the lower 8."""
    if colours.dtype != np.uint16:
        return colours
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _text(value: Any) -> str:
    """An attribute's value as text, of a bounded length; several with a backslash between, as DICOM writes them."""
    several = isinstance(value, list | tuple) or type(value).__name__ == "MultiValue"
    return ("\\".join(map(str, value)) if several else str(value))[:LONGEST_TAG]
