"""A file that ends too early is told from one that is whole, or broken otherwise."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from watcherd.formats.truncation import ends_early

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)


def encoded(format_name: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format_name, **options)
    return file.getvalue()


def exif_jpeg() -> bytes:
    """A JPEG whose EXIF block holds a whole thumbnail, with an end mark of its own."""
    thumbnail = encoded("JPEG")[:40000]
    plain = encoded("JPEG")
    block = b"Exif\0\0" + thumbnail
    return plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]


def bmp(mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "BMP")
    return file.getvalue()


def old_bmp() -> bytes:
    """With the header of OS/2 1.0, whose fields are shorter."""
    rows = PIXELS.tobytes()
    return struct.pack("<2sI4xI", b"BM", 26 + len(rows), 26) + struct.pack("<I4H", 12, 48, 64, 1, 24) + rows


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.roll(PIXELS, shift, 0)) for shift in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def tiff(**options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([PIXELS, PIXELS]), photometric="rgb", **options)
    return file.getvalue()


def zipped(inner: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.png", encoded("PNG"))
        archive.writestr("inner.zip", inner)
    return file.getvalue()


WHOLE = {
    "png": encoded("PNG"),
    "jpeg": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "thumbnail": exif_jpeg(),
    "gif": encoded("GIF"),
    "animated": animated(),
    "webp": encoded("WEBP"),
    "bmp": encoded("BMP"),
    "bmp grey": bmp("L"),
    "bmp of one bit": bmp("1"),
    "bmp with alpha": bmp("RGBA"),
    "bmp of long ago": old_bmp(),
    "tiff": encoded("TIFF"),
    "tiff lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff pages": tiff(),
    "tiff big": tiff(bigtiff=True),
    "tiff motorola": tiff(byteorder=">"),
    "tiff tiles": tiff(tile=(16, 16)),
    "zip": zipped(),
    "zip with a zip": zipped(zipped()),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_not_early(name):
    assert ends_early(io.BytesIO(WHOLE[name])) == ""


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_cut_file_is_early(name, part):
    content = WHOLE[name]
    assert ends_early(io.BytesIO(content[: max(20, int(len(content) * part))]))


@pytest.mark.parametrize("name", ["png", "jpeg", "gif"])
def test_room_that_is_not_filled_is_early(name):
    content = WHOLE[name]
    half = len(content) // 2
    assert ends_early(io.BytesIO(content[:half] + bytes(len(content) - half)))


@pytest.mark.parametrize("claimed", [0, 17, 2**31])
def test_a_wrong_length_in_a_bmp_does_not_matter_where_its_rows_are_there(claimed):
    content = bytearray(bmp("L"))
    content[2:6] = struct.pack("<I", claimed)
    assert ends_early(io.BytesIO(content)) == ""
    assert ends_early(io.BytesIO(content[:-60]))


def test_a_packed_bmp_is_as_long_as_it_claims():
    content = bytearray(bmp("L"))
    content[30:38] = struct.pack("<2I", 1, 2000)
    offset = struct.unpack_from("<I", content, 10)[0]
    assert ends_early(io.BytesIO(content[: offset + 2000])) == ""
    assert ends_early(io.BytesIO(content[: offset + 1999]))
    assert ends_early(io.BytesIO(content[: offset + 1500] + b"\0\1")) == "", "its rows have ended"


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp", "bmp"])
def test_what_is_appended_to_a_whole_file_does_not_matter(name):
    assert ends_early(io.BytesIO(WHOLE[name] + b"garbage" * 50_000)) == ""


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(1000), b"BM" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(range(200, 250))]
)
def test_what_is_in_no_known_format_is_not_early(content):
    assert ends_early(io.BytesIO(content)) == ""


def test_no_bytes_make_it_fail():
    """Any damage gives an answer, and soon."""
    chance = random.Random(0)
    for content in WHOLE.values():
        for _ in range(100):
            damaged = bytearray(content)
            for _ in range(chance.randint(1, 20)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            assert isinstance(ends_early(io.BytesIO(bytes(damaged))), str)
