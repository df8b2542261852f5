"""Whatever is dropped, decoding ends in one of our errors that says what, why and what to do."""

from __future__ import annotations

import pickle
import random
import resource
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from watcherd.errors import InputError, TransientError
from watcherd.imaging import decode as module
from watcherd.imaging.decode import DecodeLimits, TruncatedError, decode

LIMITS = DecodeLimits()
NOISE = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)


def failure(path: Path, limits: DecodeLimits = LIMITS) -> InputError:
    target = path.with_suffix(".npy")
    with pytest.raises(InputError) as caught:
        decode(path, target, limits)
    assert caught.value.hint, "the error does not say what to do"
    assert not target.exists(), "something half-written remains"
    return caught.value


def saved(path: Path, **options) -> bytes:
    Image.fromarray(NOISE).save(path, **options)
    return path.read_bytes()


def test_an_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    error = failure(tmp_path / "a.png")
    assert isinstance(error, TruncatedError)
    assert "empty" in error.message


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.gif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_told_from_a_broken_one(tmp_path, name, share):
    data = saved(tmp_path / name)
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert isinstance(failure(tmp_path / name), TruncatedError)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp"])
def test_a_preallocated_file_is_truncated(tmp_path, name):
    """The rest is zeros: JPEG and WebP would decode to half a picture, without a complaint."""
    data = saved(tmp_path / name)
    (tmp_path / name).write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    assert isinstance(failure(tmp_path / name), TruncatedError)


def test_a_jpeg_without_its_end_mark_is_truncated(tmp_path):
    data = saved(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    assert isinstance(failure(tmp_path / "a.jpg"), TruncatedError)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"patient,age\nA,61\n", "is text"),
        ("größer als alles\n".encode() * 40, "is text"),
        (b"%PDF-1.7\n\x00\x01", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "37 7a bc af"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"\x8f\x01\x02\x03", "8f 01 02 03"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    error = failure(tmp_path / "a.png")
    assert not isinstance(error, TruncatedError)
    assert words in error.message


def test_a_file_of_zeros_is_not_written_yet(tmp_path):
    (tmp_path / "a.png").write_bytes(bytes(4096))
    assert isinstance(failure(tmp_path / "a.png"), TruncatedError)


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_png_of_30000_by_30000_is_refused_by_its_header(tmp_path):
    (tmp_path / "a.png").write_bytes(huge_png(30_000, 30_000))
    error = failure(tmp_path / "a.png")
    assert "30000 x 30000" in error.message
    assert "limits.max_pixels" in error.hint


@pytest.mark.parametrize("side", [13_400, 19_000])
def test_sizes_that_pillow_warns_about_are_ours_to_judge(tmp_path, side):
    """Above Pillow's own limit (179 Mpx) and below ours, and the other way round."""
    (tmp_path / "a.png").write_bytes(huge_png(side, side))
    error = failure(tmp_path / "a.png")
    assert ("too large" in error.message) == (side**2 > LIMITS.max_pixels)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.tif", "a.bmp"])
def test_a_compressed_bomb_is_refused_in_our_words_before_it_is_unpacked(tmp_path, name):
    """A picture of one colour, 4,000 times as large as its file; the limit that is named is ours."""
    options = {"a.tif": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}
    Image.new("L", (4000, 4000)).save(tmp_path / name, **options.get(name, {}))
    error = failure(tmp_path / name, DecodeLimits(max_pixels=1_000_000))
    assert "4000 x 4000 pixels, more than 1,000,000 in all" in error.message
    assert "limits.max_pixels" in error.hint


def test_a_png_whose_text_is_a_bomb_is_refused_in_our_words(tmp_path):
    data = huge_png(100, 100)
    text = b"Comment\0\0" + zlib.compress(bytes(100 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + chunk + data[at:])
    assert "as decompression bombs do" in failure(tmp_path / "a.png").message


def test_what_only_begins_like_an_image_is_said_without_the_names_of_our_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200, 250)))
    error = failure(tmp_path / "a.png")
    assert "cannot be decoded" in error.message
    assert str(tmp_path) not in error.message


def test_a_later_frame_may_not_be_too_large_either(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(NOISE[..., 0], metadata=None)
        file.write(np.zeros((400, 400), np.uint8), metadata=None)
    assert "too large" in failure(tmp_path / "a.tif", DecodeLimits(max_pixels=90 * 80)).message


def test_frames_of_different_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(NOISE[..., 0], metadata=None)
        file.write(NOISE[:40, :, 0], metadata=None)
    error = failure(tmp_path / "a.tif")
    assert "frame 2 is 90 x 40" in error.message


def test_too_many_frames_are_refused(tmp_path):
    frames = [Image.fromarray(NOISE[index:, :, 0][:20]) for index in range(12)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "limits.max_frames" in failure(tmp_path / "a.gif", DecodeLimits(max_frames=11)).hint


def test_too_many_decoded_bytes_are_refused(tmp_path):
    saved(tmp_path / "a.png")
    assert "GiB" in failure(tmp_path / "a.png", DecodeLimits(max_bytes=80 * 90 * 3 - 1)).message


def test_a_scan_without_a_single_number_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((20, 20), np.nan, np.float32))
    assert "finite" in failure(tmp_path / "a.tif").message


def test_a_missing_file_is_an_input_error(tmp_path):
    assert "cannot be read" in failure(tmp_path / "none.png").message


def test_lack_of_memory_names_the_limit(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    saved(tmp_path / "a.png")
    monkeypatch.setattr(module, "_store", no_memory)
    assert "2,048 MiB" in failure(tmp_path / "a.png").message


LEAKS = (ValueError, SyntaxError, TypeError, NotImplementedError, RecursionError, KeyError, struct.error, OSError)


@pytest.mark.parametrize("error", LEAKS)
def test_no_decoders_exception_leaks(tmp_path, monkeypatch, error):
    def raise_it(*_):
        raise error("of the decoder")

    saved(tmp_path / "a.png")
    monkeypatch.setattr(module, "_store", raise_it)
    assert "of the decoder" in failure(tmp_path / "a.png").message


def test_a_full_disk_is_not_the_scans_fault(tmp_path):
    """Stood in for by the largest file that this process may write."""
    saved(tmp_path / "a.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(TransientError, match="cannot be written"):
            decode(tmp_path / "a.png", tmp_path / "a.npy", LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "a.npy").exists()


def test_a_run_folder_that_is_gone_is_not_the_scans_fault(tmp_path):
    saved(tmp_path / "a.png")
    with pytest.raises(TransientError, match="cannot be written"):
        decode(tmp_path / "a.png", tmp_path / "gone" / "a.npy", LIMITS)


def test_errors_survive_the_way_between_processes(tmp_path):
    saved(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    error = failure(tmp_path / "a.jpg")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(error), error.message, error.hint, True) == (type(copy), copy.message, copy.hint, copy.truncated)


def test_pillows_own_limit_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123_456)
    saved(tmp_path / "a.png")
    decode(tmp_path / "a.png", tmp_path / "a.npy", DecodeLimits(max_pixels=10_000))
    assert Image.MAX_IMAGE_PIXELS == 123_456


def test_a_decoders_warning_is_no_failure_and_does_not_leak(tmp_path, monkeypatch):
    """Warnings are errors in these tests."""
    store = module._store

    def warn(*arguments):
        warnings.warn("of the decoder", UserWarning, stacklevel=2)
        return store(*arguments)

    saved(tmp_path / "a.png")
    monkeypatch.setattr(module, "_store", warn)
    assert decode(tmp_path / "a.png", tmp_path / "a.npy", LIMITS).frames == 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.gif", "a.bmp"])
def test_damage_gives_a_picture_or_one_of_our_errors(tmp_path, name):
    """Bytes flipped, cut out and doubled at random; warnings count as leaks too."""
    data = saved(tmp_path / name)
    chance = random.Random(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 8)):
                damaged[chance.randrange(min(len(damaged), chance.choice((64, 512, 10**6))))] = chance.randrange(256)
            if chance.random() < 0.3:
                del damaged[(at := chance.randrange(len(damaged))) : at + chance.randrange(200)]
            (tmp_path / name).write_bytes(damaged)
            with suppress(InputError):
                decode(tmp_path / name, tmp_path / "a.npy", DecodeLimits(max_pixels=10**6))
