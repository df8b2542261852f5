"""What a file is by its first bytes; names say nothing."""

from __future__ import annotations

from watcherd.dicom_structure import has_preamble, looks_like_dicom
from watcherd.nifti_structure import looks_like_nifti

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
)

OTHERS = (
    (b"%PDF", "is a PDF document"),
    (b"%!PS", "is PostScript"),
    (b"\xc5\xd0\xd3\xc6", "is PostScript"),
    (b"8BPS", "is a Photoshop document"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"\0\0\0\x0cjP  ", "is JPEG 2000"),
    (b"\xff\x4f\xff\x51", "is JPEG 2000"),
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
    if found is None and looks_like_dicom(head):
        return "DICOM"
    return "NIFTI" if found is None and looks_like_nifti(head) else found


def describe(head: bytes) -> str:
    """What a file that is none of ours seems to be, as the rest of a sentence."""
    if head[4:8] == b"ftyp":
        return "is HEIC, AVIF or a video"
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
