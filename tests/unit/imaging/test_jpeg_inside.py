"""A JPEG of which a part is missing inside is refused; whole ones, however they were written, are not."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

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
