"""A JPEG 2000 with a hole of zeros inside is refused; the zeros of a flat one are none."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest

from tests.unit.imaging.test_bad_input import failure
from tests.unit.imaging.test_jpeg_inside import holed, noise
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.readers.jpeg2000_inside import zeros_inside

WAYS: dict[str, dict[str, Any]] = {
    "lossless": {"level": 0},
    "lossy": {"level": 40},
    "a codestream": {"codecformat": "j2k", "level": 0},
    "one resolution": {"resolutions": 1, "level": 0},
    "eight": {"resolutions": 8, "level": 0},
}


def dotted() -> Any:
    """Flat but for a corner."""
    pixels = np.zeros((1500, 2000), np.uint8)
    pixels[:60, :60] = noise()[:60, :60, 0]
    return pixels


PICTURES = {"noise": noise(), "flat": np.zeros((1500, 2000), np.uint8), "dotted": dotted(), "tiny": noise(3, 2)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_whole_one_is_whole(picture, way):
    assert not zeros_inside(bytes(imagecodecs.jpeg2k_encode(PICTURES[picture], **WAYS[way])))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.5, 0.52, 0.75])
def test_a_hole_is_seen(tmp_path, share, way):
    (tmp_path / "a").write_bytes(holed(bytes(imagecodecs.jpeg2k_encode(noise(), **WAYS[way])), 0.5 - 0.02, share))
    assert failure(tmp_path / "a").message == (
        "The JPEG 2000 is damaged inside: a part of its data are zeros. The picture would be whole in part only."
    )


def with_empty_packets() -> bytes:
    """A flat picture of 300 layers, of which each resolution's packets are one zero byte each."""
    code = bytearray(imagecodecs.jpeg2k_encode(np.full((64, 64), 128, np.uint8), level=0, codecformat="j2k"))
    coding = code.index(b"\xff\x52")
    code[coding + 6 : coding + 8] = (300).to_bytes(2, "big")
    tile = code.index(b"\xff\x90")
    data = code.index(b"\xff\x93") + 2
    end = len(code) - 2
    more = 300 * (code[coding + 9] + 1)
    code[data:end] = bytes(more)
    code[tile + 6 : tile + 10] = (data - tile + more).to_bytes(4, "big")
    return bytes(code)


def test_a_packet_of_nothing_is_a_zero_and_no_hole(tmp_path):
    data = with_empty_packets()
    assert bytes(1000) in data
    (tmp_path / "a.j2k").write_bytes(data)
    assert 1 == decode(tmp_path / "a.j2k", tmp_path / "a.npy", DecodeLimits()).frames
    assert zeros_inside(data[:-2] + b"\xff\xd9") == ""


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
def test_what_ends_early_is_left_to_the_decoder(share):
    data = bytes(imagecodecs.jpeg2k_encode(noise(), level=0))
    assert not zeros_inside(data[: int(len(data) * share)])


def test_a_high_throughput_code_is_not_looked_into():
    """Its values may stand as they are, zeros among them."""
    data = bytes(imagecodecs.htj2k_encode(noise()[..., 0]))
    assert not zeros_inside(data)
