"""The table of kinds of pictures that are no DICOM, whose pixels are compared with those of other people's readers.

Each is a small file of one made-up scene. `KINDS` gives its bytes by its name, which begins with what its file
is called after the dot; `MEANT` the differences that are meant.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import nibabel
import numpy as np
import tifffile
from PIL import Image

from tests.conformance.dicom_kinds import COLOURS, GREY, RUN, SCENE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DEEP = SCENE * np.uint16(16)
"""All 16 bits."""

MARKS = SCENE > 2000
SIGNED = SCENE.astype(np.int16) - 2048
FRACTIONS = (SCENE / 4095).astype(np.float32)
LARGE = SCENE.astype(np.uint32) << 20
"""Values from 2^31 on among them."""

FADED = np.concatenate([COLOURS, np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))[..., None]], axis=-1)


def saved(kind: str, values: NDArray[Any], mode: str | None = None, **options: Any) -> bytes:
    """By Pillow."""
    image = Image.fromarray(values)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """By tifffile, as grey unless told otherwise."""
    file = io.BytesIO()
    plain: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
    form = {key: options.pop(key) for key in ("byteorder", "bigtiff") if key in options}
    with tifffile.TiffWriter(file, **form) as writer:
        writer.write(values, **(plain | options))
    return file.getvalue()


def pnm(kind: int, values: NDArray[Any], most: int) -> bytes:
    """PGM or PPM, as numbers (2, 3) or as text (5, 6)."""
    height, width = values.shape[:2]
    head = f"P{kind}\n{width} {height}\n{most}\n".encode()
    if kind < 4:
        return head + " ".join(map(str, values.ravel())).encode() + b"\n"
    return head + (values.astype(">u2") if most > 255 else values.astype(np.uint8)).tobytes()


def pam(values: NDArray[Any], kind: str) -> bytes:
    height, width, depth = values.shape
    head = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL 255\nTUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + values.tobytes()


def pfm(values: NDArray[np.float32], order: str) -> bytes:
    height, width = values.shape
    scale = "-1.0" if order == "<" else "1.0"
    return f"Pf\n{width} {height}\n{scale}\n".encode() + values[::-1].astype(f"{order}f4").tobytes()


def bmp(bits: int, compression: int, rows: bytes, masks: bytes = b"", height: int = 48) -> bytes:
    """A picture of 64 columns; negative heights begin at the top."""
    start = 14 + 40 + len(masks)
    head = struct.pack("<IiiHHIIiiII", 40, 64, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + head + masks + rows


def _five_six_five() -> bytes:
    red, green, blue = (COLOURS[::-1, :, channel].astype(np.uint16) for channel in range(3))
    packed = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    return bmp(16, 3, packed.astype("<u2").tobytes(), struct.pack("<III", 0xF800, 0x7E0, 0x1F))


def _nifti(values: NDArray[Any], axes: str, slope: float | None = None, zipped: bool = False) -> bytes:
    """A volume whose stored axes point to these sides of the patient; ``values``: as (slice, row, column)."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for stored, side in enumerate(axes):
        affine["RLAPSI".index(side) // 2, stored] = 1 if side in "RAS" else -1
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
    if slope is not None:
        image.header.set_slope_inter(slope, -10)
    whole: bytes = image.to_bytes()
    if slope is not None:  # nibabel has scaled the values back
        whole = whole[:112] + struct.pack("<ff", slope, -10) + whole[120:352] + values.tobytes()
    return imagecodecs.gzip_encode(whole) if zipped else whole


def _on_its_side() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


KINDS: dict[str, Callable[[], bytes]] = {
    "png-8": lambda: saved("PNG", GREY),
    "png-1": lambda: saved("PNG", MARKS),
    "png-16": lambda: saved("PNG", DEEP),
    "png-rgb": lambda: saved("PNG", COLOURS),
    "png-rgb-16": lambda: bytes(imagecodecs.png_encode(COLOURS.astype(np.uint16) * 257)),
    "png-palette": lambda: saved("PNG", COLOURS // 64 * 64, "P"),
    "png-rgba": lambda: saved("PNG", FADED),
    "png-grey-alpha": lambda: bytes(imagecodecs.png_encode(np.stack([GREY, FADED[..., 3]], axis=-1))),
    "jpg-grey": lambda: saved("JPEG", GREY, quality=95),
    "jpg-rgb": lambda: saved("JPEG", COLOURS, quality=95, subsampling=0),
    "jpg-subsampled": lambda: saved("JPEG", COLOURS, quality=95, subsampling=2),
    "jpg-progressive": lambda: saved("JPEG", COLOURS, quality=95, progressive=True),
    "jpg-restarts": lambda: saved("JPEG", COLOURS, quality=95, restart_marker_rows=1),
    "jpg-turned": lambda: saved("JPEG", GREY, exif=_on_its_side()),
    "bmp-grey": lambda: saved("BMP", GREY),
    "bmp-1": lambda: saved("BMP", MARKS),
    "bmp-rgb": lambda: saved("BMP", COLOURS),
    "bmp-palette": lambda: saved("BMP", COLOURS // 64 * 64, "P"),
    "bmp-from-the-top": lambda: bmp(24, 0, COLOURS[..., ::-1].tobytes(), height=-48),
    "bmp-565": _five_six_five,
    "pgm-text": lambda: pnm(2, GREY, 255),
    "pgm": lambda: pnm(5, GREY, 255),
    "pgm-16": lambda: pnm(5, DEEP, 65535),
    "pgm-12": lambda: pnm(5, SCENE, 4095),
    "pgm-odd-white": lambda: pnm(5, GREY // 3, 85),
    "ppm-text": lambda: pnm(3, COLOURS, 255),
    "ppm": lambda: pnm(6, COLOURS, 255),
    "pbm": lambda: saved("PPM", MARKS),
    "pam": lambda: pam(COLOURS, "RGB"),
    "pfm": lambda: pfm(FRACTIONS, "<"),
    "pfm-big-endian": lambda: pfm(FRACTIONS, ">"),
    "jp2-8": lambda: bytes(imagecodecs.jpeg2k_encode(GREY, level=0)),
    "jp2-16": lambda: bytes(imagecodecs.jpeg2k_encode(DEEP, level=0)),
    "jp2-rgb": lambda: bytes(imagecodecs.jpeg2k_encode(COLOURS, level=0)),
    "jp2-lossy": lambda: bytes(imagecodecs.jpeg2k_encode(GREY, level=45)),
    "j2k-code": lambda: bytes(imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k")),
    "webp": lambda: saved("WEBP", COLOURS, lossless=True),
    "webp-lossy": lambda: saved("WEBP", COLOURS, quality=90),
    "gif": lambda: saved("GIF", GREY),
    "avif": lambda: saved("AVIF", COLOURS, quality=100, subsampling="4:4:4"),
    "jxl": lambda: bytes(imagecodecs.jpegxl_encode(COLOURS, lossless=True)),
    "jxl-16": lambda: bytes(imagecodecs.jpegxl_encode(DEEP, lossless=True)),
    "tif-8": lambda: tiff(GREY),
    "tif-16": lambda: tiff(DEEP),
    "tif-16-signed": lambda: tiff(SIGNED),
    "tif-8-signed": lambda: tiff((GREY >> 1).astype(np.int8) - 60, compression="lzw"),
    "tif-32": lambda: tiff(LARGE),
    "tif-float": lambda: tiff(FRACTIONS),
    "tif-float-big-endian-lzw": lambda: tiff(FRACTIONS, byteorder=">", compression="lzw"),
    "tif-double": lambda: tiff(FRACTIONS.astype(np.float64)),
    "tif-big-endian": lambda: tiff(DEEP, byteorder=">"),
    "tif-big": lambda: tiff(DEEP, bigtiff=True),
    "tif-white-is-zero": lambda: tiff(GREY, photometric="miniswhite"),
    "tif-white-is-zero-16-lzw": lambda: tiff(DEEP, photometric="miniswhite", compression="lzw"),
    "tif-lzw-predictor": lambda: tiff(DEEP, compression="lzw", predictor=True),
    "tif-deflate": lambda: tiff(DEEP, compression="deflate"),
    "tif-float-predictor": lambda: tiff(FRACTIONS, compression="deflate", predictor=True),
    "tif-zstd": lambda: tiff(DEEP, compression="zstd"),
    "tif-packbits": lambda: tiff(GREY, compression="packbits"),
    "tif-tiles": lambda: tiff(DEEP, tile=(16, 32)),
    "tif-rgb": lambda: tiff(COLOURS, photometric="rgb"),
    "tif-rgb-16": lambda: tiff(COLOURS.astype(np.uint16) * 256 + 77, photometric="rgb"),
    "tif-rgb-planes": lambda: tiff(np.moveaxis(COLOURS, -1, 0), photometric="rgb", planarconfig="separate"),
    "tif-jpeg": lambda: tiff(GREY, compression="jpeg", compressionargs={"level": 95}),
    "tif-1": lambda: saved("TIFF", MARKS),
    "tif-fax": lambda: saved("TIFF", MARKS, compression="group4"),
    "tif-palette": lambda: saved("TIFF", COLOURS // 64 * 64, "P"),
    "tif-pages": lambda: tiff(RUN),
    "tif-turned": lambda: tiff(GREY, extratags=[(274, "H", 1, 6, True)]),
    "nii-signed": lambda: _nifti(RUN.astype(np.int16) - 2048, "LPS"),
    "nii-unsigned": lambda: _nifti(RUN, "RAS"),
    "nii-float": lambda: _nifti((RUN / 4095).astype(np.float32), "RPS"),
    "nii-slope": lambda: _nifti(RUN.astype(np.int16), "LAS", slope=2.5),
    "nii-transposed": lambda: _nifti(RUN, "PLS"),
    "nii.gz": lambda: _nifti(RUN, "ARS", zipped=True),
}  # fmt: skip

_SMOOTHED = "ITK enlarges colours of half the size in another way than Pillow, imagecodecs and OpenCV, which are as one"
_WHITE = "takes no notice of PhotometricInterpretation 0, white is zero (TIFF 6.0, section 4)"
_TURNED = "ITK does not turn a picture by its orientation (EXIF and TIFF tag 274)"

MEANT: dict[tuple[str, str], str] = {
    ("simpleitk", "jpg-subsampled"): _SMOOTHED,
    ("simpleitk", "jpg-progressive"): _SMOOTHED,
    ("simpleitk", "jpg-restarts"): _SMOOTHED,
    ("simpleitk", "jpg-turned"): _TURNED,
    ("simpleitk", "tif-turned"): _TURNED,
    (
        "opencv",
        "bmp-565",
    ): "OpenCV shifts 5 bits up, so that white is 248; here white is 255, as Windows and Pillow show it",
    ("opencv", "pam"): "OpenCV swaps red and blue; in a PAM of the type RGB red comes first (netpbm's pam(5))",
    ("simpleitk", "tif-tiles"): "ITK gives the upper 8 of 16 bits where a TIFF is stored in tiles",
    ("simpleitk", "tif-white-is-zero"): f"ITK {_WHITE}",
    ("simpleitk", "tif-white-is-zero-16-lzw"): f"ITK {_WHITE}",
    ("opencv", "tif-white-is-zero-16-lzw"): f"OpenCV {_WHITE} beyond 8 bits",
}
"""Differences that are meant, by reader and kind: the reason and its source."""
