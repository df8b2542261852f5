"""A JPEG of which a part is missing inside is refused; whole ones, however they were written, are not."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom import uid

from tests.unit.imaging.dicoms import code, in_fragments
from tests.unit.imaging.test_bad_input import failure
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.readers.jpeg_inside import damage_inside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
    "coarse": {"quality": 5},
    "fine": {"quality": 100, "subsampling": 0},
    "subsampled": {"subsampling": 2},
}

END = b"\xff\xd9"


def noise(height: int = 160, width: int = 203) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def smooth() -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(noise(12, 15)).resize((203, 160)))


def jpeg(pixels: NDArray[np.uint8], mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def cut(data: bytes, share: float) -> bytes:
    """So much of the file, and an end mark behind it, as repair tools put it there."""
    return data[: int(len(data) * share)].rstrip(b"\xff") + END


def holed(data: bytes, start: float, end: float) -> bytes:
    first, last = int(len(data) * start), int(len(data) * end)
    return data[:first] + bytes(last - first) + data[last:]


def shortened(data: bytes, start: float, end: float) -> bytes:
    return data[: int(len(data) * start)].rstrip(b"\xff") + data[int(len(data) * end) :]


PICTURES = {
    "noise": noise(),
    "smooth": smooth(),
    "black": np.zeros((160, 203, 3), np.uint8),
    "grey": np.full((160, 203, 3), 128, np.uint8),
    "black below": np.concatenate([noise(80), np.zeros((80, 203, 3), np.uint8)]),
    "black above": np.concatenate([np.zeros((80, 203, 3), np.uint8), noise(80)]),
    "tiny": noise(3, 2),
    "large and grey": np.full((1200, 1600, 3), 128, np.uint8),
}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_whole_jpeg_is_whole(picture, way, mode):
    """Also where it says in zero bytes that nothing changes, as flat parts with codes of their own do."""
    assert not damage_inside(jpeg(PICTURES[picture], mode, **WAYS[way]))


def test_flat_pictures_have_runs_of_zero_bytes():
    """What the test before covers: a run of zeros alone is no damage."""
    assert bytes(64) in jpeg(PICTURES["large and grey"], optimize=True)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_an_early_end_mark_is_seen(share, way, mode):
    assert damage_inside(cut(jpeg(noise(), mode, **WAYS[way]), share))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("way", WAYS)
def test_a_hole_is_seen(way, mode):
    assert damage_inside(holed(jpeg(noise(), mode, **WAYS[way]), 0.5, 0.75))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("way", WAYS)
def test_bytes_that_were_cut_out_are_missed(way, mode):
    assert damage_inside(shortened(jpeg(noise(), mode, **WAYS[way]), 0.5, 0.75))


@pytest.mark.parametrize("broken", [cut(jpeg(noise()), 0.5), holed(jpeg(noise()), 0.5, 0.75)])
def test_such_a_scan_fails_by_itself_and_in_a_zip(tmp_path, broken):
    (tmp_path / "a.jpg").write_bytes(broken)
    assert "damaged inside" in failure(tmp_path / "a.jpg").message
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg(noise()))
        archive.writestr("2.jpg", broken)
    assert "Member 2 of the zip: The JPEG is damaged inside" in failure(tmp_path / "a.zip").message


def test_what_stands_behind_the_first_picture_does_not_count(tmp_path: Path):
    """Cameras put other pictures and their own data there."""
    (tmp_path / "a.jpg").write_bytes(jpeg(noise()) + cut(jpeg(noise()), 0.5) + bytes(999))
    assert 1 == decode(tmp_path / "a.jpg", tmp_path / "a.npy", DecodeLimits()).frames


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1])
def test_what_has_no_picture_data_is_left_to_the_decoder(share):
    data = jpeg(noise())
    assert not damage_inside(data[: min(int(len(data) * share), data.index(b"\xff\xda"))])


# ------------------------------------------------------------------------------------------------ in DICOM and TIFF


GREY = np.ascontiguousarray(noise(120, 203)[..., 0])
DEEP = GREY.astype(np.uint16) << 4
DAMAGES = {
    "cut": lambda data: cut(data, 0.5),
    "hole": lambda data: holed(data, 0.5, 0.75),
    "shortened": lambda data: shortened(data, 0.5, 0.75),
}
SYNTAXES = {
    "baseline": (uid.JPEGBaseline8Bit, GREY),
    "extended": (uid.JPEGExtended12Bit, DEEP),
    "lossless": (uid.JPEGLosslessSV1, DEEP),
    "lossless 8": (uid.JPEGLosslessSV1, GREY),
    "lossless in colours": (uid.JPEGLossless, noise(120, 203)),
    "high-throughput": (uid.HTJ2KLossless, DEEP),
    "2000": (uid.JPEG2000Lossless, DEEP),
    "LS": (uid.JPEGLSLossless, DEEP),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_damaged_frame_of_a_dicom_file_fails(tmp_path, syntax, damage):
    named, pixels = SYNTAXES[syntax]
    whole = code(pixels, named)
    more = {} if pixels.dtype == np.uint8 else {"BitsStored": 12, "HighBit": 11}
    frames = np.stack([pixels, pixels])
    (tmp_path / "whole.dcm").write_bytes(in_fragments([whole, whole], frames, named, **more))
    (tmp_path / "a.dcm").write_bytes(in_fragments([whole, DAMAGES[damage](whole)], frames, named, **more))
    assert 2 == decode(tmp_path / "whole.dcm", tmp_path / "whole.npy", DecodeLimits()).frames
    assert "cannot be decoded as" in failure(tmp_path / "a.dcm").message


def test_why_a_frame_fails_is_said(tmp_path):
    broken = cut(code(DEEP, uid.JPEGLosslessSV1), 0.5)
    (tmp_path / "a.dcm").write_bytes(in_fragments([broken], DEEP, uid.JPEGLosslessSV1, BitsStored=12, HighBit=11))
    assert failure(tmp_path / "a.dcm").message.endswith("of one of them, its data end before the picture does.")


def lossless(pixels: NDArray[Any], bits: int, predictor: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=bits, predictor=predictor))


@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("pixels", [GREY, DEEP, np.zeros((900, 900), np.uint16), np.full((3, 2), 7, np.uint8),
                                    np.linspace(0, 4095, 90_000).astype(np.uint16).reshape(300, 300)])  # fmt: skip
def test_a_whole_lossless_jpeg_is_whole(pixels, predictor):
    assert not damage_inside(lossless(pixels, pixels.dtype.itemsize * 8, predictor))


def test_a_part_of_a_flat_lossless_jpeg_is_missed():
    """Whose own code for no difference is zero bits."""
    half = np.concatenate([noise(80)[..., 0], np.zeros((800, 203), np.uint8), noise(80)[..., 0]])
    data = lossless(half, 8, 1)
    assert not damage_inside(data)
    assert damage_inside(cut(data, 0.5))
    assert damage_inside(holed(data, 0.2, 0.4))


def paged(pixels: NDArray[Any], **options: Any) -> tuple[bytes, tuple[int, int]]:
    """A TIFF, and where the strip or tile in its middle stands."""
    file = io.BytesIO()
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(file, pixels, photometric=photometric, metadata=None, **options)
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        middle = len(page.dataoffsets) // 2
        return file.getvalue(), (page.dataoffsets[middle], page.databytecounts[middle])


PAGES = {
    "a strip": (GREY, {"compression": "jpeg"}),
    "strips": (GREY, {"compression": "jpeg", "rowsperstrip": 64}),
    "tiles": (noise(), {"compression": "jpeg", "tile": (96, 96)}),
    "12 bits": (DEEP, {"compression": "jpeg", "compressionargs": {"bitspersample": 12}}),
    "lossless": (DEEP, {"compression": "jpeg", "compressionargs": {"lossless": True, "bitspersample": 16}}),
    "2000": (DEEP, {"compression": "jpeg2000"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_part_of_a_tiff_fails(tmp_path, page, damage):
    pixels, options = PAGES[page]
    whole, (start, count) = paged(pixels, **options)
    broken = DAMAGES[damage](whole[start : start + count]).ljust(count, b"\0")
    (tmp_path / "whole.tif").write_bytes(whole)
    (tmp_path / "a.tif").write_bytes(whole[:start] + broken + whole[start + count :])
    assert 1 == decode(tmp_path / "whole.tif", tmp_path / "whole.npy", DecodeLimits()).frames
    assert "in the TIFF is damaged inside" in failure(tmp_path / "a.tif").message


def test_parts_of_a_tiff_that_go_without_their_tables_are_whole(tmp_path):
    """As libtiff writes them, several of them in one page."""
    Image.fromarray(noise(300, 400)).save(tmp_path / "a.tif", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        assert len(opened.pages.first.dataoffsets) > 1
        assert opened.pages.first.jpegtables
    assert 1 == decode(tmp_path / "a.tif", tmp_path / "a.npy", DecodeLimits()).frames
