"""The picture formats, a row each: how a file is recognised, what reads it, how its early end is told.

A new format is a row here, a check of its end in `ends`, and a reader, unless Pillow reads it. Everything else works
from the rows: `sniff`, `truncation`, `imaging.decode`, the readers of zips and of gzip, the inbox's look at names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from watcherd.formats import ends
from watcherd.formats.dicom import has_preamble, looks_like_dicom
from watcherd.formats.isobmff import AVIF, brands
from watcherd.formats.nifti import is_gzip, looks_like_nifti, nifti_ends_early
from watcherd.formats.pnm import looks_like_pnm, pnm_ends_early

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

READERS = "watcherd.imaging.readers"
PILLOW = f"{READERS}.pillow_scan:opened"
"""Reads what the library Pillow can open."""


class Sign(Enum):
    """What a format is recognised by, the surest sign first: one row's surer sign goes before another's weaker one."""

    MARK = auto()
    """Bytes that settle it, whatever stands before them."""
    BEGINNING = auto()
    STRUCTURE = auto()
    """What follows the beginning makes sense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a file is found to end early. ``is_early``: asked with the file and its size in bytes (see `ends`).

    ``says``: what such a file is, for messages. ``begins``: the beginnings that it is for; empty: the format's own.
    """

    is_early: Callable[[BinaryIO, int], bool]
    says: str
    begins: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format that is read here.

    ``name``: as records and results show it, and as Pillow calls it. ``words``: as people write it.
    ``mark``, ``begins``, ``looks_like``: the signs by which its first 512 bytes are recognised, see `Sign`.
    ``readers``: dotted names of what opens it, the likeliest first, with a colon before the function or class; it is
    called with the path and the limits, and with `decode`'s way to open a member where the format ``holds_files``.
    ``ends``: how an early end is told; empty: nothing shows it.
    ``half_of_zeros``: what a file is that would decode to half a picture because its second part is zeros; empty: its
    reader would notice. ``says_window``: it may say how its values are to be shown. ``packable``: it is read out of
    gzip as well. ``suffixes``: what its names mostly end with. ``advised``: people are told to save scans in it;
    ``advised_in_zip``: for zips too.
    ``pictures``: goes up by one in a version whose picture of such files may be another than that of the version
    before, or that reads files which the one before refused: the same bytes are then done anew when they are dropped
    again. So does what the default model takes from such a file besides its pixels. ``changed``: asked with a file's
    first 512 bytes whether it is one of those; for the others it is 0.
    """

    name: str
    words: str
    mark: Callable[[bytes], bool] | None = None
    begins: tuple[bytes, ...] = ()
    looks_like: Callable[[bytes], bool] | None = None
    readers: tuple[str, ...] = (PILLOW,)
    holds_files: bool = False
    ends: tuple[End, ...] = ()
    half_of_zeros: str = ""
    says_window: bool = False
    packable: bool = True
    suffixes: tuple[str, ...] = ()
    advised: bool = False
    advised_in_zip: bool = False
    pictures: int = 0
    changed: Callable[[bytes], bool] = lambda _head: True

    def shows(self, sign: Sign, head: bytes, begins: tuple[bytes, ...] = ()) -> bool:
        """Whether a file that begins with ``head`` has this sign. ``begins``: looked for instead of its own."""
        if sign is Sign.BEGINNING:
            return head.startswith(begins or self.begins)
        test = self.mark if sign is Sign.MARK else self.looks_like
        return test is not None and test(head)


def _is_deep_png(head: bytes) -> bool:
    """Whether a PNG's values have 16 bits, by its IHDR."""
    return head[12:16] == b"IHDR" and head[24:25] == b"\x10"


def _is_odd_bmp(head: bytes) -> bool:
    """Whether a BMP is of a kind that Pillow does not know, as far as its header tells: see `bmp_scan`."""
    header, bits = int.from_bytes(head[14:18], "little"), int.from_bytes(head[28:30], "little")
    compression, colours = (int.from_bytes(head[place : place + 4], "little") for place in (30, 46))
    return header == 16 or (header >= 40 and (bits == 2 or compression in (3, 6) or colours > 256))


def _is_rare_jpeg(head: bytes) -> bool:
    """Whether a JPEG is one that Pillow does not know, of more than 8 bits or JPEG-LS, as far as its head tells."""
    place = 2
    while place + 5 <= len(head) and head[place] == 0xFF:
        kind = head[place + 1]
        if kind == 0xF7 or (0xC0 <= kind <= 0xC3 and head[place + 4] > 8):
            return True
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return False


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


FORMATS = (
    Format(
        name="DICOM",
        words="DICOM",
        mark=has_preamble,  # what stands before it may look like a TIFF
        looks_like=looks_like_dicom,
        readers=(f"{READERS}.dicom_scan:DicomScan",),
        ends=(End(is_early=ends.dicom, says="a DICOM file that ends inside an element"),),
        says_window=True,
        suffixes=("dcm", "dicom"),
        advised=True,
        advised_in_zip=True,
        pictures=2,  # colours of more than 8 bits, tables of an odd number of bits, wrong tables of offsets
    ),
    Format(
        name="NIFTI",
        words="NIfTI",
        looks_like=looks_like_nifti,
        readers=(f"{READERS}.nifti_scan:NiftiScan",),
        ends=(End(is_early=nifti_ends_early, says="a NIfTI shorter than it says"),),
        says_window=True,
        packable=False,  # it mostly is, and its reader unpacks it
        suffixes=("nii", "nii.gz"),
        advised=True,
        pictures=1,  # windows through which nothing shows, voxels behind the header
    ),
    Format(
        name="PNG",
        words="PNG",
        begins=(b"\x89PNG\r\n\x1a\n",),
        ends=(End(is_early=ends.png, says="a PNG without its end"),),
        suffixes=("png",),
        advised=True,
        advised_in_zip=True,
        pictures=2,  # all bits of dark colours
        changed=_is_deep_png,
    ),
    Format(
        name="JPEG",
        words="JPEG",
        begins=(b"\xff\xd8\xff",),
        readers=(PILLOW, f"{READERS}.codec_scan:JpegScan"),
        ends=(End(is_early=ends.jpeg, says="a JPEG without its end"),),
        suffixes=("jpg", "jpeg"),
        advised=True,
        advised_in_zip=True,
        pictures=1,  # some were refused
        changed=_is_rare_jpeg,
    ),
    Format(
        name="TIFF",
        words="TIFF",
        begins=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        readers=(PILLOW, f"{READERS}.tifffile_scan:TifffileScan"),
        ends=(End(is_early=ends.tiff, says="a TIFF whose pages lie beyond its end"),),
        suffixes=("tif", "tiff"),
        advised=True,
        advised_in_zip=True,
        pictures=2,  # packed floats of the other byte order, fewer than 8 bits, predictors that mean nothing
    ),
    Format(
        name="BMP",
        words="BMP",
        begins=(b"BM",),
        readers=(PILLOW, f"{READERS}.bmp_scan:BmpScan"),
        ends=(End(is_early=ends.bmp, says="a BMP shorter than its rows"),),
        suffixes=("bmp",),
        advised=True,
        advised_in_zip=True,
        pictures=1,  # some were refused
        changed=_is_odd_bmp,
    ),
    Format(
        name="WEBP",
        words="WebP",
        looks_like=_is_webp,
        ends=(End(is_early=ends.webp, says="a WebP shorter than it says"),),
        half_of_zeros="a WebP whose second part is zeros",
        suffixes=("webp",),
        advised=True,
        advised_in_zip=True,
    ),
    Format(
        name="GIF",
        words="GIF",
        begins=(b"GIF87a", b"GIF89a"),
        ends=(End(is_early=ends.gif, says="a GIF without its end"),),
        suffixes=("gif",),
        advised=True,
        advised_in_zip=True,
    ),
    Format(
        name="PNM",
        words="PNM",
        looks_like=looks_like_pnm,
        readers=(f"{READERS}.pnm_scan:PnmScan",),
        ends=(End(is_early=pnm_ends_early, says="a PNM shorter than it says"),),
        advised=True,
        pictures=1,  # it was refused
    ),
    Format(
        name="JPEG2000",
        words="JPEG 2000",
        begins=(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        readers=(f"{READERS}.codec_scan:Jpeg2000Scan",),
        ends=(
            End(is_early=ends.jpeg_2000, says="a JPEG 2000 without its end", begins=(b"\0\0\0\x0cjP  ",)),
            End(is_early=ends.jpeg_2000_code, says="a JPEG 2000 without its end", begins=(b"\xff\x4f\xff\x51",)),
        ),
        suffixes=("jp2", "j2k"),
        pictures=1,  # it was refused
    ),
    Format(
        name="JXL",
        words="JPEG XL",
        begins=(b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"),
        readers=(f"{READERS}.codec_scan:JpegXlScan",),
        ends=(
            End(
                is_early=ends.jpeg_xl,
                says="a JPEG XL whose parts lie beyond its end",
                begins=(b"\0\0\0\x0cJXL ",),  # the bare code has no end mark
            ),
        ),
        pictures=1,  # it was refused
    ),
    Format(
        name="AVIF",
        words="AVIF",
        looks_like=lambda head: bool(brands(head) & AVIF),
        ends=(End(is_early=ends.avif, says="an AVIF whose parts lie beyond its end"),),
        pictures=1,  # it was refused
    ),
    Format(
        name="ZIP",
        words="zip",
        begins=(b"PK\x03\x04", b"PK\x05\x06"),
        readers=(f"{READERS}.zip_scan:ZipScan",),
        holds_files=True,
        ends=(End(is_early=ends.zip_archive, says="a zip without its directory", begins=(b"PK\x03\x04",)),),
        says_window=True,
        packable=False,
        pictures=2,  # it may hold any of the others
    ),
    Format(
        name="GZIP",
        words="gzip",
        looks_like=is_gzip,  # where what is packed in it is packable: `sniff` sees to that
        readers=(f"{READERS}.gzip_scan:GzipScan",),
        holds_files=True,
        ends=(End(is_early=ends.packed, says="a gzip without its end"),),
        says_window=True,
        packable=False,
        pictures=2,  # it may hold any of the others
    ),
)
"""Of rows with the same sign the first that shows it counts."""

BY_NAME = {row.name: row for row in FORMATS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Other:
    """A format that is not read here, so that a refusal can name it.

    ``says``: what such a file is, as the rest of a sentence, with what to save it as where that helps.
    ``is_picture``: leaving such a file out of a zip would leave a hole in a run.
    """

    says: str
    begins: tuple[bytes, ...] = ()
    brands: frozenset[bytes] = frozenset()
    is_picture: bool = False


OTHERS = (
    Other(
        says="is HEIC",
        brands=frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}),
        is_picture=True,
    ),
    Other(says="is a PDF document", begins=(b"%PDF",)),
    Other(says="is PostScript", begins=(b"%!PS", b"\xc5\xd0\xd3\xc6")),
    Other(says="is a Photoshop document", begins=(b"8BPS",)),
    Other(says="is NRRD (save it as NIfTI)", begins=(b"NRRD",), is_picture=True),
    Other(says="is MetaImage, MHA or MHD (save it as NIfTI)", begins=(b"ObjectType", b"NDims"), is_picture=True),
    Other(says="is HDF5 (save its pictures as NIfTI or TIFF)", begins=(b"\x89HDF",)),
    Other(says="is FITS (save it as TIFF)", begins=(b"SIMPLE  =",)),
    Other(says="is OpenEXR (save it as TIFF)", begins=(b"v/1\x01",), is_picture=True),
    Other(says="is Radiance HDR (save it as TIFF)", begins=(b"#?RADIANCE",)),
    Other(says="is JPEG XR (save it as PNG or TIFF)", begins=(b"II\xbc\x01",), is_picture=True),
    Other(says="is a Matroska or WebM video", begins=(b"\x1aE\xdf\xa3",), is_picture=True),
    Other(says="is a NumPy array", begins=(b"\x93NUMPY",)),
)
"""Named in refusals."""

VIDEO = Other(says="is a video", is_picture=True)
"""What is in boxes with a brand (`isobmff.brands`) that stands in no row."""

HOLES = tuple(other.says for other in (*OTHERS, VIDEO) if other.is_picture)
"""What `sniff.describe` says of pictures that are not read here."""


def advised(*, in_zip: bool = False) -> tuple[str, ...]:
    """The formats to save a scan in, as people write them."""
    return tuple(row.words for row in FORMATS if (row.advised_in_zip if in_zip else row.advised))


def by_pillow() -> tuple[str, ...]:
    """The names of what Pillow reads. It is not asked for others: EPS would start Ghostscript, and tiny BLP files ask
    for 600 MB."""
    return tuple(row.name for row in FORMATS if PILLOW in row.readers)
