"""TIFFs whose pixels Pillow would change or drop are read with all they hold, or refused with the true reason."""

from __future__ import annotations

import struct
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.unit.imaging.test_bad_input import failure
from tests.unit.imaging.test_stacks import decoded
from watcherd.errors import InputError
from watcherd.imaging.decode import DecodeLimits
from watcherd.imaging.readers.tifffile_scan import within

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ROWS, COLUMNS = np.mgrid[0:40, 0:60]
VALUES = (COLUMNS * 60 + ROWS).astype(np.uint16)
"""12 bits, brighter to the right."""

PLAIN: dict[str, Any] = {"photometric": "minisblack", "metadata": None}


def written(path: Path, values: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, values, **(PLAIN | options))
    return path


def follows(values: NDArray[Any], frame: NDArray[np.uint8]) -> float:
    """The correlation of a decoded frame with these values: 1 where it shows them."""
    return float(np.corrcoef(values.ravel().astype(float), frame.ravel())[0, 1])


def with_photometric(path: Path, photometric: int, page: int) -> Path:
    """Change what a page's values mean, in a file that tifffile wrote."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[page].tags[262].overwrite(photometric)
    return path


@pytest.mark.parametrize("compression", [None, "lzw", "zstd", "deflate"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_white_that_is_zero_is_bright_however_it_is_packed(tmp_path, compression, dtype):
    path = written(tmp_path / "a.tif", VALUES.astype(dtype), compression=compression, photometric="miniswhite")
    assert follows(VALUES, decoded(path)[1][0]) < -0.99


@pytest.mark.parametrize("compression", [None, "lzw"])
def test_white_that_is_zero_on_a_later_page_only_is_seen(tmp_path, compression):
    path = written(tmp_path / "a.tif", np.stack([VALUES, 65535 - VALUES]), compression=compression)
    _, frames = decoded(with_photometric(path, 0, 1))
    assert np.array_equal(frames[0], frames[1])


@pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
@pytest.mark.parametrize(
    "values", [(VALUES.astype(np.int32) - 1800 >> 5).astype(np.int8), VALUES.astype(np.uint32) * 1_000_000]
)
def test_signs_and_the_upper_half_of_32_bits_are_kept(tmp_path, values, compression):
    path = written(tmp_path / "a.tif", values, compression=compression)
    found, frames = decoded(path)
    assert follows(values, frames[0]) > 0.99
    assert found.window is not None


@pytest.mark.parametrize("compression", ["lzw", "jpeg2000", "jpegxl", "lerc", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_that_only_imagecodecs_unpacks_are_read(tmp_path, compression, dtype):
    values = VALUES >> 4 if dtype is np.uint8 else VALUES
    options = {"level": 0} if compression == "jpegxl" else {}
    path = written(tmp_path / "a.tif", values.astype(dtype), compression=compression, compressionargs=options or None)
    assert follows(VALUES, decoded(path)[1][0]) > 0.99


def test_a_page_in_webp_is_read(tmp_path):
    colours = np.repeat((VALUES >> 4).astype(np.uint8)[..., np.newaxis], 3, axis=2)
    path = written(
        tmp_path / "a.tif", colours, photometric="rgb", compression="webp", compressionargs={"lossless": True}
    )
    assert np.array_equal(colours[..., 0], decoded(path)[1][0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fractions_in_lzw_are_read(tmp_path, dtype):
    path = written(
        tmp_path / "a.tif", (VALUES / 4095).astype(dtype), compression="lzw", predictor=dtype is not np.float16
    )
    assert follows(VALUES, decoded(path)[1][0]) > 0.99


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_values_that_are_packed_without_room_between_them_are_read(tmp_path, bits):
    path = written(tmp_path / "a.tif", VALUES >> 12 - bits if bits < 12 else VALUES << bits - 12, bitspersample=bits)
    found, frames = decoded(path)
    assert bits == found.bit_depth
    assert follows(VALUES, frames[0]) > 0.99


@pytest.mark.parametrize("number", [32661, 34676])
def test_a_compression_that_nothing_here_undoes_is_named(tmp_path, number):
    """JBIG, and SGI's logarithms: the file is whole."""
    path = written(tmp_path / "a.tif", VALUES)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[259].overwrite(number)
    message = failure(path).message
    assert "compressed with" in message
    assert "cannot be read here" in message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_channels_that_are_no_colours_are_refused_with_their_number(tmp_path, channels, layout, dtype):
    flat = np.full(VALUES.shape, 7, dtype)
    layers = [flat] * (channels - 1) + [VALUES.astype(dtype)]
    values = np.stack(layers, -1 if layout == "contig" else 0)
    path = written(tmp_path / "a.tif", values, planarconfig=layout)
    assert f"{channels} channels" in failure(path).message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("frames", [3, 4])
def test_frames_that_were_stored_as_planes_of_one_picture_are_refused(tmp_path, frames, dtype):
    """tifffile takes 3 or 4 grey frames for colours, unless it is told."""
    values = np.stack([VALUES.astype(dtype)] * frames)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    assert "planes" in failure(tmp_path / "a.tif").message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_that_another_program_calls_colours_are_colours(tmp_path, dtype):
    values = np.stack([VALUES, VALUES[::-1], VALUES]).astype(dtype)
    path = written(tmp_path / "a.tif", values, photometric="rgb", planarconfig="separate")
    assert (1, 40, 60, 3) == decoded(path)[1].shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_beside_grey_is_laid_over_black(tmp_path, dtype):
    alpha = np.full(VALUES.shape, np.iinfo(dtype).max, dtype)
    alpha[:, :30] = 0
    values = np.stack([np.full(VALUES.shape, 200, dtype), alpha], -1)
    path = written(tmp_path / "a.tif", values, planarconfig="contig", extrasamples=["unassalpha"])
    frame = decoded(path)[1][0]
    assert (0, True) == (frame[:, :30].max(), bool(frame[:, 30:].min() > 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_page_that_is_a_mask_of_another_is_no_frame(tmp_path, dtype):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(VALUES.astype(dtype), metadata=None)
        file.write(VALUES > 2000, subfiletype=4, photometric="mask", metadata=None)
    assert 1 == decoded(tmp_path / "a.tif")[0].frames


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ome_calibration_is_read_whatever_reads_the_pixels(tmp_path, dtype, compression):
    said = {"axes": "TYX", "PhysicalSizeX": 100.0, "PhysicalSizeY": 200.0, "TimeIncrement": 0.1}
    values = np.stack([VALUES, VALUES]).astype(dtype)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, compression=compression, metadata=said)
    found, _ = decoded(tmp_path / "a.ome.tif")
    assert ((0.2, 0.1), 100) == (found.spacing_mm, found.frame_ms)


@pytest.mark.parametrize("unit", ["&#181;m", "&#xB5;m", "&micro;m", "µm"])
def test_units_of_ome_may_be_written_as_entities(tmp_path, unit):
    text = f"<OME><Image><Pixels PhysicalSizeX='5' PhysicalSizeXUnit='{unit}' PhysicalSizeY='5'/></Image></OME>"
    path = written(tmp_path / "a.tif", VALUES, description=text.encode(), compression="lzw")
    assert pytest.approx((0.005, 0.005)) == decoded(path)[0].spacing_mm


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_imagej_calibration_is_read_from_compressed_stacks(tmp_path, dtype):
    text = "ImageJ=1.53t\nimages=2\nframes=2\nunit=mm\nfinterval=0.04\nloop=false\n"
    values = np.stack([VALUES, VALUES]).astype(dtype)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, page in enumerate(values):
            said = {"description": text} if number == 0 else {}
            file.write(page, compression="lzw", resolution=(10, 5), **said, **PLAIN)
    found, _ = decoded(tmp_path / "a.tif")
    assert (2, (0.2, 0.1), 40) == (found.frames, found.spacing_mm, found.frame_ms)


def test_a_jpeg_page_is_read_in_its_colours(tmp_path):
    """Colours that the decoder has undone by itself are not undone twice."""
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[..., 0] = 200
    Image.fromarray(colours).save(tmp_path / "a.tif", compression="jpeg")
    frame = decoded(tmp_path / "a.tif")[1][0]
    assert np.abs(frame.astype(int) - colours).max() < 8


def test_bytes_that_end_within_a_page_are_no_picture(tmp_path):
    """A page whose packed bytes are fewer than its lines need is refused, and never filled up."""
    path = written(tmp_path / "a.tif", VALUES, compression="lzw", rowsperstrip=40)
    with tifffile.TiffFile(path) as file:
        place, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        field = file.pages[0].tags[279].valueoffset
    content = bytearray(path.read_bytes())
    assert place + length <= len(content)
    content[field : field + struct.calcsize("<H")] = struct.pack("<H", length // 2)
    path.write_bytes(content)
    assert failure(path).message


class Page:
    """As much of tifffile's as tells where it stands."""

    def __init__(self, offset: int) -> None:
        self.offset = offset


@pytest.mark.parametrize(
    ("pages", "words"),
    [(cycle([Page(8), Page(99)]), "in a ring"), (map(Page, count(8, 12)), "too many frames: 11, more than 10")],
)
def test_a_chain_of_pages_without_an_end_is_refused(pages, words):
    with pytest.raises(InputError, match=words):
        list(within(pages, DecodeLimits(max_frames=10)))


def test_beside_each_page_a_smaller_copy_may_stand():
    assert 20 == len(list(within(map(Page, range(20)), DecodeLimits(max_frames=10))))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_of_either_byte_order(tmp_path, order, compression):
    values = (VALUES / 4095 - 0.5).astype(np.float32)
    path = written(tmp_path / "a.tif", values, byteorder=order, compression=compression)
    assert follows(values, decoded(path)[1][0]) > 0.999


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_values_of_fewer_than_8_bits_are_white_at_their_largest(tmp_path, bits):
    values = (VALUES >> 12 - bits).astype(np.uint8)
    path = written(tmp_path / "a.tif", values, bitspersample=bits)
    assert np.abs(decoded(path)[1][0] - values * (255 / ((1 << bits) - 1))).max() <= 0.5


@pytest.mark.parametrize("predictor", [2, 50])
def test_a_predictor_of_what_is_not_compressed_means_nothing(tmp_path, predictor):
    """As libtiff, and so every viewer, takes it."""
    path = written(tmp_path / "a.tif", VALUES.astype(np.int16), extratags=[(50_000, "H", 1, predictor, True)])
    data = path.read_bytes()
    assert 1 == data.count(struct.pack("<HHI", 50_000, 3, 1))
    path.write_bytes(data.replace(struct.pack("<HHI", 50_000, 3, 1), struct.pack("<HHI", 317, 3, 1)))
    assert follows(VALUES, decoded(path)[1][0]) > 0.999


def test_channels_that_are_stored_nobody_knows_how_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", np.stack([VALUES] * 3, axis=-1), photometric="rgb")
    data = path.read_bytes()
    assert 1 == data.count(struct.pack("<HHI", 284, 3, 1))
    path.write_bytes(data.replace(struct.pack("<HHI", 284, 3, 1), struct.pack("<HHI", 284, 1, 1)))
    assert "how its channels are stored" in failure(path).message
