"""A scan's own bytes and no others: what is hashed is what is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from watcherd.errors import LostBytesError
from watcherd.imaging.verified import verified

CONTENT = b"a scan's bytes" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / SHA256
    path.write_bytes(CONTENT)
    return path


def test_what_has_the_hash_is_read(copy: Path) -> None:
    with verified(copy, SHA256) as opened:
        assert CONTENT == opened.read_bytes()


def test_one_flipped_bit_is_found(copy: Path) -> None:
    copy.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(LostBytesError, match="holds other bytes"), verified(copy, SHA256):
        pytest.fail("it was read")


@pytest.mark.parametrize("missing", ["gone", "a link"])
def test_what_is_not_there_is_lost(tmp_path: Path, copy: Path, missing: str) -> None:
    copy.rename(tmp_path / "elsewhere")
    if missing == "a link":
        copy.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((LostBytesError, OSError)), verified(copy, SHA256):
        pytest.fail("it was read")


def test_another_file_under_the_name_is_not_what_is_read(tmp_path: Path, copy: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other bytes")
    read = []

    def swap_and_read() -> None:
        with verified(copy, SHA256) as opened:
            other.rename(copy)
            read.append(opened.read_bytes())

    with pytest.raises(LostBytesError, match="changed while"):  # nobody knows what else happened to a file without name
        swap_and_read()
    assert [CONTENT] == read


def test_a_file_that_is_written_to_while_it_is_read_is_found(copy: Path) -> None:
    with pytest.raises(LostBytesError, match="changed while"), verified(copy, SHA256):
        copy.write_bytes(CONTENT[::-1])
