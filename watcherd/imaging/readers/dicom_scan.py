"""DICOM files: whatever pydicom and its plug-ins decode, a frame at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.pixels.utils import as_pixel_options

from watcherd.errors import InputError
from watcherd.formats.volumes import Grid
from watcherd.imaging.readers.dicom_codecs import PLUGIN, SYNTAXES, decoder_of, significant
from watcherd.imaging.readers.dicom_display import (
    Units,
    frame_ms_of,
    palette_of,
    shown_as,
    spacing_of,
    units_of,
    without_padding,
)
from watcherd.imaging.readers.dicom_file import DAMAGED, open_dicom, own_words
from watcherd.imaging.readers.planes import grid_of, planes_of
from watcherd.imaging.readers.scan import Pixels, Told, TruncatedError
from watcherd.imaging.readers.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pydicom import Dataset

    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.readers.curves import Shown

GREY: Final = ("MONOCHROME1", "MONOCHROME2")
COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
NEEDED: Final = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
WHOLE: Final = ("BitsStored", "PixelRepresentation")
"""Needed besides, where values are whole numbers."""
LONGEST_TAG: Final = 256
AT_DETECTOR: Final = "the size of a pixel is that at the detector: the file does not say how much it magnifies"


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
        self._options["correct_unused_bits"] = False  # by pydicom, which does not look at HighBit: see `significant`
        limits.check_size(int(header.Columns), int(header.Rows))
        stored = int(self._options["samples_per_pixel"]) * int(self._options["bits_allocated"]) // 8
        limits.check_memory(int(header.Columns), int(header.Rows), stored + 1)
        self.frames = int(self._options["number_of_frames"])
        limits.check_frames(self.frames)
        self.bit_depth = int(header.get("BitsStored") or header.BitsAllocated)
        if opened.keyword == "PixelData":
            self._options["high_bit"] = _high_bit(header, self.bit_depth)
        self._reasons: list[str] = []
        if opened.syntax in SYNTAXES:
            self._options |= {"decoding_plugin": PLUGIN, "reasons": self._reasons, "whole": set()}
        if opened.length is None and opened.syntax.is_encapsulated:
            starts, lengths = opened.fragments()
            if len(starts) == self.frames:  # one for each, whatever the file's tables say of their places
                self._options["extended_offsets"] = (starts, lengths)
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
            decoder = decoder_of(syntax)
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
        self._units = units_of(header, self.frames) if grey else Units()
        ways = self._ways() if grey else ()
        spacing = spacing_of(header)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            self._palette = palette_of(header)
        elif not grey and int(self._options["bits_allocated"]) > 8:
            ways = (Window(low=0, high=(1 << self.bit_depth) - 1),)  # no window is for colours: PS3.3 C.11.2.1.2
        planes = planes_of(header, self.frames)
        grid, backward = grid_of(planes)
        if grid is None and spacing is not None:
            grid = Grid(spacing_mm=(None, *spacing.mm))
        return Told(
            window=ways[0] if ways else None,
            others=ways[1:],
            inverted=header.PhotometricInterpretation == "MONOCHROME1",
            spacing_mm=spacing.mm if spacing else None,
            frame_ms=frame_ms_of(header) if self.frames > 1 else None,
            scaled=self._units.scaled,
            note=AT_DETECTOR if spacing and spacing.at_detector else "",
            modality=_text(header.get("Modality") or "").strip().upper(),
            backward=backward,
            grid=grid,
            planes=planes,
        )

    def _ways(self) -> tuple[Shown, ...]:
        header = self._opened.header
        ways = shown_as(header, self.frames, signed=self._units.signed(header))
        plain = self._opened.keyword == "PixelData" and not self._units.scaled and self._units.table is None
        if not ways and self.bit_depth < 8 and plain:
            return (Window(low=0, high=(1 << self.bit_depth) - 1),)  # 0 and 1 of a mask would both be black
        return ways

    def tags(self, keywords: Sequence[str]) -> dict[str, str]:
        """The values of these attributes as text, where the file has them."""
        with own_words("The DICOM file's attributes cannot be read"):
            header = self._opened.header
            return {name: _text(header.get(name)) for name in keywords if header.get(name) not in (None, "")}

    def read(self, index: int) -> Pixels:
        what = f"The DICOM file's pictures cannot be decoded as {self._opened.syntax.name}"
        with own_words(what), self._with_reason(what):
            values, described = self._decoded(index)
            return self._shown(values, str(described["photometric_interpretation"]), index)

    @contextmanager
    def _with_reason(self, what: str) -> Iterator[None]:
        """Errors of pydicom's with the reason of `dicom_codecs`, which it hides."""
        try:
            yield
        except RuntimeError:
            if not self._reasons:
                raise
            raise InputError(f"{what}: of one of them, {self._reasons[-1]}.", hint=DAMAGED) from None

    def _decoded(self, index: int) -> tuple[Pixels, dict[str, Any]]:
        """Frames are asked for in order, as a rule: fragments are followed once then, not once for each frame."""
        if self._opened.length is not None:
            self._opened.file.seek(self._opened.offset)
            if self._options["bits_allocated"] == 1:
                return self._unpacked(index), self._options
            values, described = next(self._decoder.iter_array(self._opened.file, indices=[index], **self._options))
            return self._significant(values), described
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
                return self._significant(found[0]), found[1]

    def _significant(self, values: Pixels) -> Pixels:
        """The numbers in words as they stand in the file; those of `SYNTAXES` are numbers already."""
        if self._opened.keyword != "PixelData" or self._opened.syntax in SYNTAXES:
            return values
        signed = bool(self._options["pixel_representation"])
        return significant(values, stored=self.bit_depth, high_bit=self._options["high_bit"], signed=signed)

    def _unpacked(self, index: int) -> Pixels:
        """A frame of single bits, the first in the lowest place; it may begin and end within a byte (PS3.5 8.1.1)."""
        opened, shape = self._opened, (int(self._options["rows"]), int(self._options["columns"]))
        first = index * shape[0] * shape[1]
        end = first + shape[0] * shape[1]
        opened.file.seek(opened.offset + first // 8)
        data = np.frombuffer(opened.file.read((end + 7) // 8 - first // 8), np.uint8)
        if opened.vr == "OW" and not opened.syntax.is_little_endian:
            raise InputError("The DICOM file's bits are packed in words of the other byte order.", hint=DAMAGED)
        bits = np.unpackbits(data, bitorder="little")
        return bits[first % 8 :][: end - first].reshape(shape)

    def _shown(self, values: Pixels, photometric: str, index: int) -> Pixels:
        header = self._opened.header
        if photometric == "PALETTE COLOR":
            return self._palette.look_up(values)
        if values.ndim == 3:
            return values
        return self._units.of(without_padding(values, header), index)

    def close(self) -> None:
        self._opened.close()


def _high_bit(header: Dataset, stored: int) -> int:
    """The place of a value's highest bit in its word; the lowest possible where the header says less than that.

    Raises `InputError` for one beyond the word: then nobody knows where the value stands.
    """
    high = header.get("HighBit")
    if high is None or high == "":
        return stored - 1
    if int(high) >= int(header.BitsAllocated):
        raise InputError(
            f"The DICOM file's HighBit {int(high)} lies outside of its words of {int(header.BitsAllocated)} bits.",
            hint=DAMAGED,
        )
    return max(int(high), stored - 1)


def _text(value: Any) -> str:
    """An attribute's value as text, of a bounded length; several with a backslash between, as DICOM writes them."""
    several = isinstance(value, list | tuple) or type(value).__name__ == "MultiValue"
    return ("\\".join(map(str, value)) if several else str(value))[:LONGEST_TAG]
