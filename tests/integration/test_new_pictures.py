"""From a dropped file to its job's options: which version's picture the model will see."""

from __future__ import annotations

import gzip
import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.integration.test_queueing import Taking
from tests.unit.imaging.dicoms import dicom
from watcherd.errors import InputError
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))


def image(kind: str, pixels: np.ndarray = RAMP) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, RAMP)
    return file.getvalue()


def packed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("IM1", dicom(RAMP))
    return file.getvalue()


FILES = {
    "a.dcm": (dicom(RAMP), 2),
    "a.png": (image("PNG"), 0),
    "deep.png": (image("PNG", RAMP.astype(np.uint16) * 250), 2),
    "a.jpg": (image("JPEG"), 0),
    "a.bmp": (image("BMP"), 0),
    "a.tif": (tiff(), 2),
    "a.zip": (packed(), 2),
    "a.dcm.gz": (gzip.compress(dicom(RAMP)), 2),
    "a.pgm": (b"P5 64 48 255\n" + RAMP.tobytes(), 1),
    "a.txt": (b"no picture", 0),
}
"""Files by name, with the version of their picture."""


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[Taking]:
    made = Taking(tmp_path)
    yield made
    made.database.close()


def test_the_intake_tells_by_the_content(taking: Taking) -> None:
    for name, (content, _) in FILES.items():
        taking.drop(name, content=content)
    large = dicom(np.zeros((1500, 1500), np.uint8))  # more than is read in one piece
    taking.drop("large.dcm", content=large)
    taking.take()
    taking.finish()
    with taking.database.reader() as connection:
        found = {
            row.source: Options.from_json(row.options).pictures
            for row in connection.exec_driver_sql("SELECT source, options FROM job")
        }
    assert {name: pictures for name, (_, pictures) in FILES.items()} | {"large.dcm": 2} == found


@pytest.mark.parametrize("name", FILES)
def test_the_decoder_says_the_same(tmp_path: Path, name: str) -> None:
    """Else a new job would be corrected, and never found again."""
    content, pictures = FILES[name]
    (tmp_path / name).write_bytes(content)
    if name == "a.txt":
        with pytest.raises(InputError):
            decode(tmp_path / name, tmp_path / "a.npy", DecodeLimits())
        return
    assert pictures == decode(tmp_path / name, tmp_path / "a.npy", DecodeLimits()).pictures


def test_a_sidecar_can_neither_ask_for_it_nor_lose_it(taking: Taking) -> None:
    """It follows from the file. A scan that is refused for its sidecar has no picture."""
    content = FILES["a.dcm"][0]
    for name, text in {"fine.dcm": "threshold = 0.25", "wrong.dcm": "pictures = 7"}.items():
        taking.drop(f"{name}.toml", content=text.encode())
        taking.drop(name, content=content)
    taking.take()
    taking.finish()
    with taking.database.reader() as connection:
        rows = connection.exec_driver_sql("SELECT source, options FROM job ORDER BY source").fetchall()
    fine, wrong = (Options.from_json(row.options) for row in rows)
    assert (0.25, 2, "") == (fine.threshold, fine.pictures, fine.refused)
    assert 0 == wrong.pictures
    assert "there is no such key" in wrong.refused
