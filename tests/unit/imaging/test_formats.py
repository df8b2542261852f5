"""PNM, JPEG 2000, JPEG XL, AVIF and pictures in gzip: every value, within the limits, whole or not at all."""

from __future__ import annotations

import gzip
import io
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.unit.imaging import dicoms
from tests.unit.imaging.test_bad_input import failure
from tests.unit.imaging.test_stacks import decoded
from tests.unit.imaging.test_zip import zipped
from watcherd.errors import InputError
from watcherd.formats.npy_frames import FrameFile
from watcherd.formats.truncation import ends_early
from watcherd.imaging import limits
from watcherd.imaging.decode import DecodeLimits, TruncatedError, decode
from watcherd.imaging.readers.codec_scan import jxl_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, COLUMNS = np.mgrid[0:40, 0:61]
GREY = (COLUMNS * 4 + ROWS % 4).astype(np.uint8)
DEEP = (COLUMNS * 60 + ROWS).astype(np.uint16)
"""12 bits."""

RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
RGBA = np.concatenate([RGB, np.where(COLUMNS < 30, 0, 255).astype(np.uint8)[..., np.newaxis]], axis=-1)
BLACK_LEFT = np.where(COLUMNS[..., np.newaxis] < 30, 0, RGB)


def plain(kind: int, values: NDArray[Any], most: int, gap: str = "\n") -> bytes:
    """PNM as text."""
    height, width = values.shape[:2]
    limit = "" if kind == 1 else f"{gap}{most}"
    return f"P{kind}{gap}{width} {height}{limit}\n{' '.join(map(str, values.ravel()))}\n".encode()


def raw(kind: int, values: NDArray[Any], most: int, comment: str = "") -> bytes:
    height, width = values.shape[:2]
    order = values.astype(">u2") if most > 255 else values.astype(np.uint8)
    return f"P{kind}\n{comment}{width} {height}\n{most}\n".encode() + order.tobytes()


def pam(values: NDArray[Any], most: int, kind: str) -> bytes:
    height, width, depth = values.shape
    head = f"P7\n# made up\nWIDTH {width}\nHEIGHT {height}\nDEPTH {depth}\nMAXVAL {most}\nTUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + (values.astype(">u2") if most > 255 else values.astype(np.uint8)).tobytes()


def floats(values: NDArray[Any], order: str) -> bytes:
    height, width = values.shape[:2]
    kind = "F" if values.ndim == 3 else "f"
    return (
        f"P{kind}\n{width} {height}\n{'-' if order == '<' else ''}1.0\n".encode()
        + values[::-1].astype(f"{order}f4").tobytes()
    )


BITS = (GREY > 120).astype(np.uint8)

EXACT = {
    "bits as text": (plain(1, 1 - BITS, 1), BITS * 255),
    "bits without gaps": (f"P1\n61 40\n{''.join(map(str, (1 - BITS).ravel()))}".encode(), BITS * 255),
    "bits": (b"P4\n61 40\n" + np.packbits(1 - BITS, axis=1).tobytes(), BITS * 255),
    "grey as text": (plain(2, GREY, 255), GREY),
    "grey": (raw(5, GREY, 255), GREY),
    "grey with comments": (raw(5, GREY, 255, "# made up\n# by hand\n"), GREY),
    "grey of 4 bits": (raw(5, GREY >> 4, 15), (GREY >> 4) * 17),
    "colours as text": (plain(3, RGB, 255, " "), RGB),
    "colours": (raw(6, RGB, 255), RGB),
    "pam of grey": (pam(GREY[..., np.newaxis], 255, "GRAYSCALE"), GREY),
    "pam of bits": (pam(BITS[..., np.newaxis], 1, "BLACKANDWHITE"), BITS * 255),
    "pam with alpha": (pam(RGBA, 255, "RGB_ALPHA"), BLACK_LEFT),
    "jpeg 2000": (imagecodecs.jpeg2k_encode(RGB, level=0), RGB),
    "jpeg 2000 without boxes": (imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k"), GREY),
    "jpeg xl": (imagecodecs.jpegxl_encode(RGB, lossless=True), RGB),
    "jpeg xl in boxes": (imagecodecs.jpegxl_encode(GREY, lossless=True, usecontainer=True), GREY),
    "jpeg xl with alpha": (imagecodecs.jpegxl_encode(RGBA, lossless=True), BLACK_LEFT),
    "avif of grey": (imagecodecs.avif_encode(GREY, level=100), GREY),
}

DEEPER = {
    "grey as text": (plain(2, DEEP, 4095), DEEP, 12),
    "grey": (raw(5, DEEP, 4095), DEEP, 12),
    "grey of 16 bits": (raw(5, DEEP * 16, 65535), DEEP, 16),
    "pam": (pam(DEEP[..., np.newaxis], 4095, "GRAYSCALE"), DEEP, 12),
    "floats": (floats(DEEP / 4095, "<"), DEEP, 32),
    "floats of long ago": (floats(DEEP / 4095, ">"), DEEP, 32),
    "jpeg 2000": (imagecodecs.jpeg2k_encode(DEEP, level=0, bitspersample=12), DEEP, 12),
    "jpeg 2000 with signs": (imagecodecs.jpeg2k_encode(DEEP.astype(np.int16) - 2000, level=0), DEEP, 16),
    "jpeg xl": (imagecodecs.jpegxl_encode(DEEP, lossless=True), DEEP, 16),
    "jpeg xl of floats": (imagecodecs.jpegxl_encode((DEEP / 4095).astype(np.float32), lossless=True), DEEP, 32),
    "avif of 12 bits": (imagecodecs.avif_encode(DEEP, level=100, bitspersample=12), DEEP, 12),
    "avif of 10 bits": (imagecodecs.avif_encode(DEEP >> 2, level=100, bitspersample=10), DEEP, 10),
}

WHOLE = EXACT | {f"{name}, deep": (content, pixels) for name, (content, pixels, _) in DEEPER.items()}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("packed", [False, True])
def test_values_of_8_bits_come_back_as_they_were(tmp_path, name, packed):
    content, pixels = EXACT[name]
    (tmp_path / "a").write_bytes(gzip.compress(content) if packed else content)
    found, frames = decoded(tmp_path / "a")
    assert np.array_equal(pixels, frames[0])
    assert packed == (found.format == "GZIP")


@pytest.mark.parametrize("name", DEEPER)
def test_deeper_values_keep_all_their_bits(tmp_path, name):
    content, pixels, bits = DEEPER[name]
    (tmp_path / "a").write_bytes(content)
    found, frames = decoded(tmp_path / "a")
    assert bits == found.bit_depth
    assert found.window is not None
    assert np.corrcoef(pixels.ravel().astype(float), frames[0].ravel())[0, 1] > 0.999
    assert len(np.unique(frames[0])) > 200


def test_lossy_pictures_come_back_nearly_as_they_were(tmp_path):
    for content in (imagecodecs.avif_encode(RGB, level=95), imagecodecs.jpegxl_encode(RGB, distance=0.5)):
        (tmp_path / "a").write_bytes(content)
        assert np.abs(decoded(tmp_path / "a")[1][0].astype(int) - RGB).mean() < 6


def test_an_avif_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "a.avif", exif=exif, quality=100)
    assert np.corrcoef(np.rot90(GREY, -1).ravel(), decoded(tmp_path / "a.avif")[1][0].ravel())[0, 1] > 0.99


def test_an_avif_of_many_pictures_is_a_run(tmp_path):
    shown = [Image.fromarray(np.roll(GREY, 9 * shift, 1)) for shift in range(3)]
    shown[0].save(tmp_path / "a.avif", save_all=True, append_images=shown[1:], duration=40, quality=100)
    found, frames = decoded(tmp_path / "a.avif")
    assert (3, 40) == (found.frames, found.frame_ms)
    assert np.corrcoef(np.roll(GREY, 18, 1).ravel(), frames[2].ravel())[0, 1] > 0.99


def test_a_jpeg_xl_of_many_pictures_is_a_run(tmp_path):
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(np.stack([RGB, RGB[::-1]]), lossless=True))
    assert np.array_equal(np.stack([RGB, RGB[::-1]]), decoded(tmp_path / "a.jxl")[1])


@pytest.mark.parametrize("gap", [b"", b"\n"])
def test_pnm_pictures_behind_one_another_are_a_run(tmp_path, gap):
    (tmp_path / "a.pgm").write_bytes(raw(5, GREY, 255) + gap + raw(5, GREY[::-1], 255) + gap)
    assert np.array_equal(np.stack([GREY, GREY[::-1]]), decoded(tmp_path / "a.pgm")[1])


def test_what_stands_behind_a_pnm_does_not_matter(tmp_path):
    (tmp_path / "a.pgm").write_bytes(raw(5, GREY, 255) + b"\nmade by hand")
    assert 1 == decoded(tmp_path / "a.pgm")[0].frames


def test_a_zip_may_hold_them_and_gzip_a_dicom(tmp_path):
    run = {
        "1.pgm": raw(5, GREY, 255),
        "2.pgm.gz": gzip.compress(raw(5, GREY, 255)),
        "3.jp2": EXACT["jpeg 2000 without boxes"][0],
    }
    assert 3 == decoded(zipped(tmp_path / "a.zip", run))[0].frames
    (tmp_path / "x.dcm.gz").write_bytes(gzip.compress(dicoms.content(dicoms.dataset(GREY))))
    assert np.array_equal(GREY, decoded(tmp_path / "x.dcm.gz")[1][0])


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_not_waited_for_and_a_cut_one_is(tmp_path, name):
    content = WHOLE[name][0]
    for whole in (content, gzip.compress(content)):
        assert ends_early(io.BytesIO(whole)) == ""
        for share in (0.4, 0.9):
            cut = whole[: max(30, int(len(whole) * share))]
            if not cut.startswith(b"\xff\x0a"):  # such a JPEG XL has no end that can be found
                assert ends_early(io.BytesIO(cut))
            (tmp_path / "a").write_bytes(cut)
            assert isinstance(failure(tmp_path / "a"), TruncatedError)


@pytest.mark.parametrize("name", WHOLE)
def test_a_size_above_the_limit_is_refused_before_anything_is_decoded(tmp_path, name, monkeypatch):
    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("it was decoded")

    for codec in ("jpeg2k_decode", "jpegxl_decode", "avif_decode"):
        monkeypatch.setattr(imagecodecs, codec, decode)
    (tmp_path / "a").write_bytes(WHOLE[name][0])
    assert "61 x 40 pixels" in failure(tmp_path / "a", DecodeLimits(max_pixels=61 * 40 - 1)).message


def test_a_run_above_the_limit_is_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(raw(5, GREY, 255) * 3)
    assert "too many frames" in failure(tmp_path / "a.pgm", DecodeLimits(max_frames=2)).message


def test_what_gzip_has_packed_is_unpacked_no_further_than_the_limit(tmp_path, monkeypatch):
    """As in a zip; and what the file says of its length is not asked."""
    monkeypatch.setattr(limits, "ROOM", 4000)
    monkeypatch.setattr(limits, "RATIO", 2)
    (tmp_path / "a.pgm.gz").write_bytes(gzip.compress(raw(5, np.zeros((100, 100), np.uint8), 255)))
    assert "archives attack" in failure(tmp_path / "a.pgm.gz").message


def test_damage_in_gzip_is_said(tmp_path):
    content = bytearray(gzip.compress(raw(5, np.random.default_rng(0).integers(0, 255, (40, 61)), 255)))
    content[-6] ^= 255  # the checksum
    (tmp_path / "a.pgm.gz").write_bytes(content)
    assert "damaged" in failure(tmp_path / "a.pgm.gz").message


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (61, 40), (256, 256), (300, 200), (512, 512), (64, 32), (160, 90)])
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(size):
    width, height = size
    code = imagecodecs.jpegxl_encode(np.zeros((height, width), np.uint8), lossless=True)
    assert size == jxl_size(code[:64])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"NRRD0004\ntype: uint8\n", "is NRRD"),
        (b"ObjectType = Image\nNDims = 2\n", "is MetaImage"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "is HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0\0\0\x08mdat", "is a video"),
        (gzip.compress(b"about the run", mtime=0), "is compressed with gzip, and what is in it is text"),
        (gzip.compress(gzip.compress(raw(5, GREY, 255), mtime=0), mtime=0), "is compressed with gzip"),
        (pam(np.concatenate([RGB, RGB], -1), 255, "MANY"), "6 channels"),
        (imagecodecs.jpeg2k_encode(np.concatenate([RGB, RGB[..., :2]], -1), level=0), "5 channels"),
        (b"P2\n2 2\n255\n1 2 x 4\n", "no value"),
        (b"P5\n0 4\n255\n" + bytes(40), "no pixels"),
    ],
    ids=["nrrd", "mha", "heic", "video", "text", "gzip twice", "6 channels", "5 channels", "no value", "no pixels"],
)
def test_what_is_not_read_is_named(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    assert words in failure(tmp_path / "a").message


@pytest.mark.parametrize("content", [b"P1 is the first point.\n", b"P5\nnotes", b"PF 3", b"P7\n332\n", b"Price 5 6"])
def test_texts_that_begin_like_a_pnm_are_texts(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "is text" in failure(tmp_path / "a").message


def test_any_damage_gives_a_picture_or_one_of_our_errors(tmp_path):
    chance = np.random.default_rng(0)
    for name in ("bits as text", "grey", "grey as text", "pam with alpha"):
        content = EXACT[name][0]
        for _ in range(30):
            damaged = bytearray(content)
            for place in chance.integers(0, 60, 3):
                damaged[place] = chance.integers(256)
            (tmp_path / "a").write_bytes(damaged)
            assert isinstance(ends_early(io.BytesIO(bytes(damaged))), str)
            with suppress(InputError):
                assert decoded(tmp_path / "a")[0].frames


@pytest.mark.parametrize("kind", ["12 bits", "lossless", "LS", "LS of 8"])
def test_jpegs_that_pillow_does_not_know(tmp_path, kind):
    values = np.linspace(0, 4095, 48 * 40).astype(np.uint16).reshape(48, 40)
    made = {
        "12 bits": lambda: imagecodecs.jpeg8_encode(values, level=100, bitspersample=12),
        "lossless": lambda: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16),
        "LS": lambda: imagecodecs.jpegls_encode(values),
        "LS of 8": lambda: imagecodecs.jpegls_encode((values >> 4).astype(np.uint8)),
    }
    data = bytes(made[kind]())
    (tmp_path / "a.jpg").write_bytes(data)
    found = decode(tmp_path / "a.jpg", tmp_path / "a.npy", DecodeLimits())
    assert ("JPEG", 1) == (found.format, found.pictures)
    assert np.corrcoef(values.ravel(), FrameFile(found.path)[0].ravel())[0, 1] > 0.999
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(InputError):
        decode(tmp_path / "b.jpg", tmp_path / "b.npy", DecodeLimits())


def test_a_jpeg_2000_file_of_several_pictures_is_refused(tmp_path):
    """One of them would be shown, and nobody would know of the others."""
    data = bytes(imagecodecs.jpeg2k_encode(GREY, level=0))
    place = data.index(b"jp2c") - 4
    length = int.from_bytes(data[place : place + 4], "big") or len(data) - place
    box = length.to_bytes(4, "big") + data[place + 4 : place + length]
    (tmp_path / "a.jpx").write_bytes(data[:place] + box + box)
    assert "holds 2 pictures" in failure(tmp_path / "a.jpx").message
