"""Open a DICOM file: its header as a dataset, and where its pixel data begin. Nothing in it is repeated in an error.

Everything that pydicom raises over a file may quote what stands in the file, patients' names included. So errors become
ours here (`own_words`), with the kind of what went wrong and never its text, and the libraries' logs are silenced.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import pydicom
from pydicom import config as settings
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, AllTransferSyntaxes

from watcherd.errors import InputError, JobError
from watcherd.formats.dicom import DEFLATED, outline, what_it_is

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

LOUD: Final = ("pydicom", "highdicom", "pylibjpeg", "nibabel", "nibabel.global")
"""Loggers that quote what stands in a file."""

LARGE_VALUE: Final = 1 << 22
"""Bytes of a header's value, at most; longer ones are not read, and look-up tables are shorter."""

INFLATED_SHARE: Final = 4
"""Part (one in so many) of the worker's memory that an inflated file may take; pydicom and the pixels need theirs."""

ITEM: Final = b"\xfe\xff\x00\xe0"
"""The tag of a fragment, and of the table before the first."""

HEAD_OF_ITEM: Final = 8
"""Bytes of its tag and its length."""

_PIXEL_KEYWORDS: Final = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
_UID: Final = re.compile(r"[0-9.]{1,64}")
DAMAGED: Final = "It is damaged or of a rare kind. Export it again, or open and save it with a DICOM viewer."


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomFile:
    """An open file. ``header``: all elements before the pixels. ``keyword``: the name of the element that holds these,
    ``vr`` its type. ``file`` stands at ``offset``, where its value of ``length`` bytes begins; None: in fragments.
    """

    header: Dataset
    syntax: UID
    keyword: str
    vr: str
    file: BinaryIO
    offset: int
    length: int | None

    def fragments(self) -> tuple[list[int], list[int]]:
        """Where each fragment of compressed pictures begins with its head, counted from behind the table of offsets,
        and how many bytes it holds behind its head. The tables that files bring along may say otherwise."""
        starts: list[int] = []
        lengths: list[int] = []
        self.file.seek(self.offset)
        first = self._item()
        place = behind = self.offset + HEAD_OF_ITEM + (first or 0)
        while first is not None:
            self.file.seek(place)
            if (length := self._item()) is None:
                break
            starts.append(place - behind)
            lengths.append(length)
            place += HEAD_OF_ITEM + length
        return starts, lengths

    def _item(self) -> int | None:
        """The length of the item at which the file stands; None where there is none."""
        head = self.file.read(HEAD_OF_ITEM)
        return int.from_bytes(head[4:], "little") if len(head) == HEAD_OF_ITEM and head[:4] == ITEM else None

    def close(self) -> None:
        self.file.close()


def hush() -> None:
    """Keep the libraries from logging, and from checking what they read more strictly than we do."""
    for name in LOUD:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    settings.settings.reading_validation_mode = settings.IGNORE
    settings.settings.writing_validation_mode = settings.IGNORE  # what a SEG copies is as good as its source


@contextmanager
def own_words(what: str) -> Iterator[None]:
    """Errors within as `InputError` with ``what`` and the error's type: its text may quote the file. No warnings."""
    hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (JobError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:  # of the disk, not of the file
            raise
        raise InputError(f"{what} ({type(error).__name__}).", hint=DAMAGED) from None
    except Exception as error:
        raise InputError(f"{what} ({type(error).__name__}).", hint=DAMAGED) from None


def open_dicom(path: Path, *, memory_mib: int) -> DicomFile:
    """Open a file that `dicom_structure.looks_like_dicom` accepts, and read its header.

    Raises `InputError` for one without pictures, in an unknown transfer syntax, or that inflates to more than a share
    of ``memory_mib``.
    """
    file: BinaryIO = path.open("rb")
    try:
        with own_words("The DICOM file's header cannot be read"):
            return _opened(file, path.stat().st_size, memory_mib)
    except BaseException:
        file.close()
        raise


def _opened(file: BinaryIO, size: int, memory_mib: int) -> DicomFile:
    meta = _meta(file)
    if meta.get("TransferSyntaxUID") == DEFLATED:
        file = _inflated(file, memory_mib)
        header: Dataset = read_dataset(file, False, True, stop_when=_at_pixels, defer_size=LARGE_VALUE)
        header.file_meta = FileMetaDataset(meta)
    else:
        file.seek(0)
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True, defer_size=LARGE_VALUE)
    return _at_the_pixels(file, size, header)


def _meta(file: BinaryIO) -> Dataset:
    """The group that says how all others are written; empty where there is none. ``file`` stands behind it then."""
    file.seek(128)
    if file.read(4) != b"DICM":
        return pydicom.Dataset()
    return read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: int(tag) >> 16 != 2)


def _inflated(file: BinaryIO, memory_mib: int) -> BinaryIO:
    """The data set of a deflated file, which stands behind its meta group; bounded, however well it was packed."""
    most = memory_mib * 2**20 // INFLATED_SHARE
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), most)
    file.close()
    if inflater.unconsumed_tail:
        raise InputError(
            f"The deflated DICOM file is too large: it inflates to more than {most / 2**20:,.0f} MiB.",
            hint="Save it without the deflated transfer syntax, or raise limits.worker_memory_mib.",
        )
    return io.BytesIO(data)


def _at_pixels(tag: Any, _vr: str | None, _length: int) -> bool:
    return int(tag) in (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _at_the_pixels(file: BinaryIO, size: int, header: Dataset) -> DicomFile:
    implicit, little = header.original_encoding
    start = file.read(8)
    implicit = implicit or not start[4:6].isalpha()  # the syntax may promise otherwise
    if len(start) < 8:
        raise _no_pictures(file, size)
    order: Literal["little", "big"] = "little" if little else "big"
    element = int.from_bytes(start[2:4], order)
    vr, length = "OW", int.from_bytes(start[4:8], order)
    if not implicit:
        vr = start[4:6].decode("ascii", "replace")
        length = int.from_bytes(file.read(4), order)
    if not length:
        raise _no_pictures(file, size)
    fragments = length == 0xFFFFFFFF
    return DicomFile(
        header=header,
        syntax=_syntax(header, implicit=bool(implicit), little=bool(little), fragments=fragments),
        keyword=_PIXEL_KEYWORDS[element],
        vr=vr,
        file=file,
        offset=file.tell(),
        length=None if fragments else length,
    )


def _no_pictures(file: BinaryIO, size: int) -> InputError:
    what = what_it_is(outline(file, size).sop_class) if isinstance(file, io.BufferedReader) else what_it_is("")
    return InputError(f"The DICOM file holds no picture: {what}.", hint="There is nothing to segment in it.")


def _syntax(header: Dataset, *, implicit: bool, little: bool, fragments: bool) -> UID:
    """The transfer syntax; where the file does not say, that which it was read in."""
    named = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    if not named and not fragments:
        return UID("1.2.840.10008.1.2" if implicit else f"1.2.840.10008.1.2.{1 if little else 2}")
    uid = UID(named)
    if uid not in AllTransferSyntaxes:
        shown = named if _UID.fullmatch(named) else "none that is a number" if named else "none"
        raise InputError(
            f"The DICOM file's transfer syntax is not known here: {shown}.",
            hint="Save it in another transfer syntax, for example Explicit VR Little Endian.",
        )
    return uid
