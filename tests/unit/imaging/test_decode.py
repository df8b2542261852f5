"""Pictures of every kind become upright 8-bit frames that show what the file shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from watcherd.imaging.decode import Decoded, DecodeLimits, decode

LIMITS = DecodeLimits()
ROWS, COLUMNS = np.mgrid[0:40, 0:60]
RAMP = (COLUMNS * 4 + 5).astype(np.uint8)
"""Brighter to the right, so that turns and inversions show."""
RGB = np.stack([RAMP, np.flip(RAMP, 1), (ROWS * 6).astype(np.uint8)], axis=-1)


def decoded(path: Path, limits: DecodeLimits = LIMITS) -> tuple[Decoded, np.ndarray]:
    found = decode(path, path.with_suffix(".npy"), limits)
    frames = np.load(found.path)
    assert frames.dtype == np.uint8
    assert frames.shape == (found.frames, found.height, found.width) + ((3,) if found.colour else ())
    return found, frames


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.gif"])
def test_grey_values_of_lossless_formats_come_back_as_they_were(tmp_path, name):
    Image.fromarray(RAMP).save(tmp_path / name, lossless=True)
    found, frames = decoded(tmp_path / name)
    assert not found.colour
    assert found.window is None
    assert np.array_equal(RAMP, frames[0])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
def test_colours_of_lossless_formats_come_back_as_they_were(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / name, lossless=True)
    found, frames = decoded(tmp_path / name)
    assert found.colour
    assert np.array_equal(RGB, frames[0])


def test_a_jpeg_comes_back_nearly_as_it_was(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", quality=95)
    found, frames = decoded(tmp_path / "a.jpg")
    assert (found.format, found.bit_depth, found.colour) == ("JPEG", 8, False)
    assert np.abs(frames[0].astype(int) - RAMP).max() <= 4


def test_the_content_decides_and_not_the_name(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "a.dcm")
    assert decoded(tmp_path / "a.dcm")[0].format == "PNG"


def test_colours_that_are_grey_throughout_are_stored_as_grey(tmp_path):
    Image.fromarray(np.stack([RAMP] * 3, axis=-1)).save(tmp_path / "a.png")
    found, frames = decoded(tmp_path / "a.png")
    assert not found.colour
    assert np.array_equal(RAMP, frames[0])


def test_a_palette_becomes_its_colours(tmp_path):
    Image.fromarray(RGB).quantize(64).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), decoded(tmp_path / "a.png")[1][0])


def test_a_grey_palette_is_grey(tmp_path):
    image = Image.fromarray(RAMP, "L").convert("P")
    image.save(tmp_path / "a.gif")
    found, frames = decoded(tmp_path / "a.gif")
    assert not found.colour
    assert np.array_equal(RAMP, frames[0])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_one_bit_is_black_and_white(tmp_path, name):
    Image.fromarray(RAMP > 100).save(tmp_path / name)
    frames = decoded(tmp_path / name)[1]
    assert np.array_equal(np.where(RAMP > 100, 255, 0), frames[0])


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_cmyk_becomes_rgb(tmp_path, name):
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / name, quality=100, subsampling=0)
    assert np.abs(decoded(tmp_path / name)[1][0].astype(int) - RGB).mean() < 3


def test_lab_becomes_rgb(tmp_path):
    plain = Image.fromarray(np.full((8, 8, 3), (200, 60, 60), np.uint8))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(plain, transform)
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert np.abs(decoded(tmp_path / "a.tif")[1][0].astype(int) - (200, 60, 60)).max() <= 6


def test_transparency_is_laid_over_black(tmp_path):
    alpha = np.where(COLUMNS < 30, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "a.png")
    assert np.array_equal(RGB * (alpha > 0)[..., np.newaxis], decoded(tmp_path / "a.png")[1][0])


def test_grey_with_transparency_is_grey(tmp_path):
    alpha = np.where(COLUMNS < 30, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([RAMP, alpha]), "LA").save(tmp_path / "a.png")
    found, frames = decoded(tmp_path / "a.png")
    assert not found.colour
    assert np.array_equal(np.where(alpha, RAMP, 0), frames[0])


def test_a_picture_that_is_transparent_everywhere_is_shown(tmp_path):
    """Some writers leave alpha at 0; a black scan would be a lie."""
    Image.fromarray(np.dstack([RGB, np.zeros_like(RAMP)])).save(tmp_path / "a.png")
    assert np.array_equal(RGB, decoded(tmp_path / "a.png")[1][0])


TWELVE = RAMP.astype(np.uint16) * 16


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_twelve_bits_in_sixteen_use_the_whole_range(tmp_path, name):
    """Pillow's own conversion would turn everything from 256 up white."""
    Image.fromarray(TWELVE).save(tmp_path / name)
    found, frames = decoded(tmp_path / name)
    assert found.bit_depth == 16
    assert found.window == (float(TWELVE.min()), float(TWELVE.max()))
    expected = (RAMP.astype(float) - RAMP.min()) / (RAMP.max() - RAMP.min()) * 255
    assert np.abs(expected - frames[0]).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<u4", "<i4", "<f4", ">f4", "<f8"])
def test_deep_tiffs_of_every_type_look_the_same(tmp_path, dtype):
    low = -500 if np.dtype(dtype).kind != "u" else 0
    tifffile.imwrite(
        tmp_path / "a.tif", (RAMP * 10.0 + low).astype(dtype), byteorder=dtype[0], photometric="minisblack"
    )
    frames = decoded(tmp_path / "a.tif")[1]
    expected = (RAMP.astype(float) - RAMP.min()) / (RAMP.max() - RAMP.min()) * 255
    assert np.abs(expected - frames[0]).max() <= 1


def test_fractions_are_not_cut_off(tmp_path):
    """Pillow would turn 0.5 into 0."""
    tifffile.imwrite(tmp_path / "a.tif", (RAMP / 255).astype(np.float32), photometric="minisblack")
    assert len(np.unique(decoded(tmp_path / "a.tif")[1])) == len(np.unique(RAMP))


def test_white_that_is_zero_is_shown_white(tmp_path):
    for depth in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "a.tif", RAMP.astype(depth), photometric="miniswhite")
        frame = decoded(tmp_path / "a.tif")[1][0]
        assert frame[0, 0] > frame[0, -1]


def test_sixteen_bit_colours_keep_their_lower_bits(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.uint16), photometric="rgb")
    found, frames = decoded(tmp_path / "a.tif")
    assert found.colour
    assert frames.max() > 250


def test_sixteen_bit_colour_pngs_of_low_values_are_read_with_all_their_bits(tmp_path):
    """Pillow hands out the upper 8 bits only."""
    (tmp_path / "a.png").write_bytes(png_of_16_bit_colours(RGB.astype(np.uint16)))
    found, shown = decoded(tmp_path / "a.png")
    assert found.window is not None
    assert np.corrcoef(RGB.ravel(), shown[0].ravel())[0, 1] > 0.99
    (tmp_path / "b.png").write_bytes(png_of_16_bit_colours(RGB.astype(np.uint16) * 257))
    assert np.array_equal(RGB, decoded(tmp_path / "b.png")[1][0])


DEEP = (np.arange(4800).reshape(60, 80) * 3 + 1).astype(np.uint16)
"""Grey values above 8 bits, of which the upper byte says little."""


@pytest.mark.parametrize("colours", [1, 3])
def test_a_deep_png_with_a_transparent_value_is_shown_without_it(tmp_path, colours):
    """As one of 8 bits is."""
    values = DEEP if colours == 1 else np.repeat(DEEP[..., np.newaxis], 3, axis=2)
    transparent = DEEP.max()
    content = png_of_16_bit_colours(values, 0 if colours == 1 else 2, transparent=[transparent] * colours)
    (tmp_path / "a.png").write_bytes(content)
    found, frames = decoded(tmp_path / "a.png")
    assert frames[0][DEEP == transparent].max() == 0
    assert 16 == found.bit_depth
    assert follows(np.where(DEEP == transparent, 0, DEEP), frames[0]) > 0.99


def test_a_deep_png_of_grey_with_alpha_keeps_its_lower_bits(tmp_path):
    alpha = np.full(DEEP.shape, 65535, np.uint16)
    alpha[:10] = 0
    (tmp_path / "a.png").write_bytes(png_of_16_bit_colours(np.stack([DEEP, alpha], axis=-1), 4))
    _, frames = decoded(tmp_path / "a.png")
    assert (0, 255) == (frames[0][:10].max(), frames[0].max())
    assert follows(np.where(alpha == 0, 0, DEEP), frames[0]) > 0.99


def follows(values: np.ndarray, frame: np.ndarray) -> float:
    return float(np.corrcoef(values.ravel().astype(float), frame.ravel())[0, 1])


def png_of_16_bit_colours(values: np.ndarray, kind: int = 2, transparent: list[int] | None = None) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    seen = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    rest = seen + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}
"""What a viewer does with each orientation (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_orientation_is_applied_once(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(RAMP + ROWS.astype(np.uint8)).save(tmp_path / name, exif=exif, lossless=True)
    expected = UPRIGHT[orientation](RAMP + ROWS.astype(np.uint8))
    assert np.array_equal(expected, decoded(tmp_path / name)[1][0])


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_applied_once_to_deep_and_multi_page_tiffs(tmp_path, orientation):
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    one = decoded(tmp_path / "a.tif")[1][0]
    assert np.abs(one[..., 0].astype(int) - UPRIGHT[orientation](RGB[..., 0])).max() <= 16
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for _ in range(3):
            file.write(RAMP, photometric="minisblack", contiguous=False, metadata=None, extratags=[tag])
    assert np.array_equal(np.stack([UPRIGHT[orientation](RAMP)] * 3), decoded(tmp_path / "b.tif")[1])


RUN = np.stack([np.roll(RAMP, 5 * shift, axis=1) for shift in range(4)])


@pytest.mark.parametrize("name", ["a.tiff", "a.gif", "a.webp", "a.png"])
def test_all_frames_of_a_run_are_decoded_in_order(tmp_path, name):
    first, *others = (Image.fromarray(frame) for frame in RUN)
    first.save(tmp_path / name, save_all=True, append_images=others, lossless=True)
    found, frames = decoded(tmp_path / name)
    assert found.format == name[2:].upper()
    assert np.array_equal(RUN, frames)


def test_the_window_fits_all_frames_of_a_run(tmp_path):
    """A dark frame stays darker than its neighbours."""
    tifffile.imwrite(tmp_path / "a.tif", np.stack([TWELVE // 4, TWELVE]), photometric="minisblack")
    frames = decoded(tmp_path / "a.tif")[1]
    assert frames[0].max() < 80
    assert frames[1].max() == 255


def test_a_stack_behind_one_directory_keeps_its_frames(tmp_path):
    """ImageJ writes large stacks so; Pillow would see the first frame only."""
    stack = np.stack([TWELVE + 100 * index for index in range(5)])
    text = "ImageJ=1.53t\nimages=5\nslices=5\n"
    tifffile.imwrite(tmp_path / "a.tif", stack[0], photometric="minisblack", description=text, metadata=None)
    with (tmp_path / "a.tif").open("ab") as file:
        file.write(stack[1:].tobytes())
    found, frames = decoded(tmp_path / "a.tif")
    assert found.frames == 5
    assert (np.diff(frames.astype(int).mean(axis=(1, 2))) > 0).all()


def test_thumbnails_in_a_tiff_are_no_frames(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RAMP, photometric="minisblack", metadata=None)
        file.write(RAMP[::4, ::4], photometric="minisblack", subfiletype=1, metadata=None)
    assert decoded(tmp_path / "a.tif")[0].frames == 1


def test_nan_and_infinity_do_not_spoil_the_window(tmp_path):
    values = RAMP.astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    frame = decoded(tmp_path / "a.tif")[1][0]
    assert frame[0, :3].tolist() == [0, 255, 0]
    assert frame[1, -1] == 255


def test_a_run_is_decoded_with_the_memory_of_one_frame(tmp_path, monkeypatch):
    """Frames are asked for one by one, and none is kept."""
    import tracemalloc

    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (60, 256, 256), np.uint8))
    decode(tmp_path / "a.tif", tmp_path / "warm.npy", LIMITS)
    tracemalloc.start()
    decode(tmp_path / "a.tif", tmp_path / "a.npy", LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 256 * 256
