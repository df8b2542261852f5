"""What a file is by its first bytes; names say nothing."""

from __future__ import annotations

import zlib

from watcherd.formats.dicom import has_preamble, looks_like_dicom
from watcherd.formats.isobmff import AVIF, brands
from watcherd.formats.nifti import is_gzip, looks_like_nifti
from watcherd.formats.pnm import looks_like_pnm

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"PK\x03\x04", "ZIP"),
    (b"PK\x05\x06", "ZIP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"\xff\x0a", "JXL"),
)

PACKABLE = frozenset({"PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "JXL", "AVIF", "PNM", "DICOM"})
"""What may be packed with gzip. NIfTI, which mostly is, has a reader of its own."""

UNPACKED = 1024
"""Bytes of what gzip has packed that are looked at."""

HEIC = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
"""Brands of pictures in boxes that are not read here, where AVIF's is not among them."""

OTHERS = (
    (b"%PDF", "is a PDF document"),
    (b"%!PS", "is PostScript"),
    (b"\xc5\xd0\xd3\xc6", "is PostScript"),
    (b"8BPS", "is a Photoshop document"),
    (b"NRRD", "is NRRD (save it as NIfTI)"),
    (b"ObjectType", "is MetaImage, MHA or MHD (save it as NIfTI)"),
    (b"NDims", "is MetaImage, MHA or MHD (save it as NIfTI)"),
    (b"\x89HDF", "is HDF5 (save its pictures as NIfTI or TIFF)"),
    (b"SIMPLE  =", "is FITS (save it as TIFF)"),
    (b"v/1\x01", "is OpenEXR (save it as TIFF)"),
    (b"#?RADIANCE", "is Radiance HDR (save it as TIFF)"),
    (b"II\xbc\x01", "is JPEG XR (save it as PNG or TIFF)"),
    (b"\x1aE\xdf\xa3", "is a Matroska or WebM video"),
    (b"\x93NUMPY", "is a NumPy array"),
)


def image_format(head: bytes) -> str | None:
    """The format of a file that begins with ``head`` (512 bytes are enough); None when it is none of ours."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if has_preamble(head):  # first: what stands before it may look like a TIFF
        return "DICOM"
    found = next((name for magic, name in MAGIC if head.startswith(magic)), None)
    return found or _by_structure(head)


def _by_structure(head: bytes) -> str | None:
    if looks_like_dicom(head):
        return "DICOM"
    if looks_like_nifti(head):
        return "NIFTI"
    if looks_like_pnm(head):
        return "PNM"
    if brands(head) & AVIF:
        return "AVIF"
    return "GZIP" if is_gzip(head) and image_format(_unpacked(head)) in PACKABLE else None


def _unpacked(head: bytes) -> bytes:
    """The beginning of what gzip has packed; empty for more gzip in it, and where it is damaged."""
    try:
        inner = zlib.decompressobj(31).decompress(head, UNPACKED)
    except zlib.error:
        return b""
    return b"" if is_gzip(inner) else inner


def describe(head: bytes) -> str:
    """What a file that is none of ours seems to be, as the rest of a sentence."""
    if found := brands(head):
        return "is HEIC" if found & HEIC else "is a video"
    if is_gzip(head):
        inner = _unpacked(head)
        return f"is compressed with gzip, and what is in it {describe(inner)}" if inner else "is compressed with gzip"
    for magic, what in OTHERS:
        if head.startswith(magic):
            return what
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > len(head) - 4 else "\0"
    if all(sign.isprintable() or sign.isspace() for sign in text):
        return "is text"
    return f"begins with {head[:8].hex(' ')}, which is no format known here"
