"""BMPs of kinds that Pillow refuses: masks of any bits, palettes of any length, headers of OS/2."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.unit.imaging.test_bad_input import failure
from watcherd.formats.npy_frames import FrameFile
from watcherd.formats.sniff import pictures
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.readers.bmp_scan import BmpScan
from watcherd.imaging.readers.pillow_scan import opened

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RED, GREEN, BLUE = (np.random.default_rng(seed).integers(0, 256, (5, 7), np.uint8) for seed in range(3))
COLOURS = np.stack([RED, GREEN, BLUE], axis=-1)


def bmp(
    rows: NDArray[Any], bits: int, *, compression: int = 0, behind: bytes = b"", header: int = 40, **more: int
) -> bytes:
    """``rows``: (height, bytes), from the bottom. ``behind``: what stands between header and rows. ``more``: ``width``,
    ``height``, ``used`` colours, where the rows ``start``."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    width, height = more.get("width", 7), more.get("height", len(rows))
    fields = struct.pack(
        "<iiHHIIiiII", width, height, 1, bits, compression, padded.nbytes, 0, 0, more.get("used", 0), 0
    )
    if header == 12:
        fields = struct.pack("<HHHH", width, height, 1, bits)
    start = more.get("start", 14 + header + len(behind))
    head = struct.pack("<I", header) + fields[: header - 4].ljust(header - 4, b"\0")
    return struct.pack("<2sIHHI", b"BM", 0, 0, 0, start) + head + behind + padded.tobytes()


def words(values: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    """Numbers as rows from the bottom."""
    return np.ascontiguousarray(values[::-1].astype(kind)).view(np.uint8)


def masked(kind: str, *masks: int, alpha: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """`COLOURS` in the bits of the masks, the highest of each."""
    packed = np.zeros((5, 7), np.uint64)
    for layer, mask in zip([RED, GREEN, BLUE, alpha], masks, strict=False):
        if layer is None or not mask:
            continue
        low, largest = (mask & -mask).bit_length() - 1, mask >> ((mask & -mask).bit_length() - 1)
        packed |= np.rint(layer.astype(float) * largest / 255).astype(np.uint64) << np.uint64(low)
    return words(packed, kind)


def read(path: Path, data: bytes) -> NDArray[np.uint8]:
    path.write_bytes(data)
    return FrameFile(decode(path, path.with_suffix(".npy"), DecodeLimits()).path)[0]


MASKS = {
    "in another order": ("<u4", (0x0000FF00, 0x00FF0000, 0xFF000000)),
    "far up": ("<u4", (0x0FF00000, 0x000FF000, 0x00000FF0)),
    "11, 11 and 10 bits": ("<u4", (0xFFE00000, 0x001FFC00, 0x000003FF)),
    "12 bits with room": ("<u2", (0x0F00, 0x00F0, 0x000F)),
    "2, 3 and 1 bits": ("<u2", (0b110000, 0b001110, 0b000001)),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_any_bits(tmp_path, name):
    kind, masks = MASKS[name]
    data = bmp(masked(kind, *masks), 8 * int(kind[-1]), compression=3, behind=struct.pack("<3I", *masks))
    steps = [255 / (mask >> ((mask & -mask).bit_length() - 1)) for mask in masks]
    assert (np.abs(read(tmp_path / "a", data).astype(float) - COLOURS) <= np.array(steps) / 2 + 0.5).all()


@pytest.mark.parametrize(("header", "compression"), [(40, 6), (56, 3), (108, 3), (124, 3)])
def test_alpha_by_a_mask_is_laid_over_black(tmp_path, header, compression):
    """In the header where that has room for it, else behind it."""
    masks = (0xF000, 0x0F00, 0x00F0, 0x000F)
    alpha = np.where(np.arange(7) < 3, 0, 255).astype(np.uint8) * np.ones((5, 1), np.uint8)
    data = bytearray(bmp(masked("<u2", *masks, alpha=alpha), 16, compression=compression, header=header,
                         behind=struct.pack("<4I", *masks) if header == 40 else b""))  # fmt: skip
    struct.pack_into("<4I", data, 54, *masks)
    seen = read(tmp_path / "a", bytes(data))
    assert not seen[:, :3].any()
    assert np.abs(seen[:, 3:].astype(int) - COLOURS[:, 3:]).max() <= 9


PALETTE = np.random.default_rng(3).integers(0, 256, (300, 4), np.uint8)
PLACES = np.arange(35).reshape(5, 7) % 4


def test_a_palette_of_more_colours_than_have_numbers(tmp_path):
    data = bmp(words(PLACES, "u1"), 8, behind=PALETTE.tobytes(), used=300)
    assert np.array_equal(PALETTE[PLACES, 2::-1], read(tmp_path / "a", data))


def test_a_palette_that_claims_to_be_longer_than_the_file(tmp_path):
    data = bmp(words(PLACES, "u1"), 8, behind=PALETTE[:256].tobytes(), used=0x12345678)
    assert np.array_equal(PALETTE[PLACES, 2::-1], read(tmp_path / "a", data))


def test_rows_that_are_said_to_stand_in_the_palette_stand_behind_it(tmp_path):
    data = bmp(words(PLACES, "u1"), 8, behind=PALETTE[:9].tobytes(), used=9, start=54)
    (tmp_path / "a").write_bytes(data)
    with closing(BmpScan(tmp_path / "a", DecodeLimits())) as scan:
        assert np.array_equal(PALETTE[PLACES, 2::-1], scan.read(0))


def test_two_bits(tmp_path):
    packed = np.pad(PLACES[::-1], ((0, 0), (0, 1))).reshape(5, 2, 4)
    rows = (packed[..., 0] << 6 | packed[..., 1] << 4 | packed[..., 2] << 2 | packed[..., 3]).astype(np.uint8)
    data = bmp(rows, 2, behind=PALETTE[:4].tobytes())
    assert np.array_equal(PALETTE[PLACES, 2::-1], read(tmp_path / "a", data))


def test_a_header_of_16_bytes(tmp_path):
    data = bmp(words(PLACES, "u1"), 8, header=16, behind=PALETTE[:256].tobytes())
    assert np.array_equal(PALETTE[PLACES, 2::-1], read(tmp_path / "a", data))


PLAIN = {
    "24 bits": bmp(COLOURS[::-1, :, ::-1].reshape(5, 21), 24),
    "from the top": bmp(COLOURS[..., ::-1].reshape(5, 21), 24, height=-5),
    "32 bits": bmp(masked("<u4", 0xFF0000, 0xFF00, 0xFF), 32),
    "8 bits of long ago": bmp(words(PLACES, "u1"), 8, header=12, behind=PALETTE[:256, :3].tobytes()),
    "8 bits": bmp(words(PLACES, "u1"), 8, behind=PALETTE[:256].tobytes()),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_pillow_reads_is_the_same_here(tmp_path, name):
    (tmp_path / "a").write_bytes(PLAIN[name])
    with (
        closing(opened(tmp_path / "a", DecodeLimits())) as theirs,
        closing(BmpScan(tmp_path / "a", DecodeLimits())) as ours,
    ):
        assert np.array_equal(theirs.read(0), ours.read(0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp(masked("<u4", 0xFF, 0xFF00), 32, compression=3, behind=struct.pack("<3I", 0x0F, 0xFF, 0xF00)), "masks"),
        (bmp(masked("<u4", 0xFF, 0xFF00), 32, compression=3, behind=struct.pack("<3I", 0b101, 0xF0, 0xF00)), "masks"),
        (bmp(COLOURS.reshape(5, 21), 24, header=66, behind=b"  "), "header has 66 bytes"),
        (bmp(COLOURS.reshape(5, 21), 0, compression=4), "holds a JPEG"),
        (bmp(COLOURS.reshape(5, 21), 24, compression=77), "compressed (method 77 in 24 bits)"),
        (bmp(np.zeros((5, 99), np.uint8), 30), "30 bits in 1 planes"),
        (bmp(words(PLACES, "u1"), 2, width=2_000_000_000), "truncated"),
        (bmp(masked("<u4", 0xFF, 0xFF00), 32, compression=3, behind=struct.pack("<3I", 1, 2, 4))[:90], "truncated"),
    ],
)
def test_why_one_is_refused_is_said(tmp_path, data, words):
    (tmp_path / "a").write_bytes(data)
    assert words in failure(tmp_path / "a").message


def test_what_was_refused_is_done_anew():
    odd = bmp(masked("<u2", 0xF00, 0xF0, 0xF), 16, compression=3, behind=struct.pack("<3I", 0xF00, 0xF0, 0xF))
    assert (1, 0) == (pictures(odd), pictures(PLAIN["24 bits"]))
