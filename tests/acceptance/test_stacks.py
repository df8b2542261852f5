"""Stacks through the whole service: a 16-bit TIFF, a zip of pictures and an animation give masks of as many pages."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.acceptance.invariants import check_invariants, documents
from tests.acceptance.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FRAMES = 12
"""More than nine: 10 comes after 9, and not after 1."""


def frames() -> NDArray[np.uint8]:
    """Bright, with a dark column that wanders: column n in frame n. The fake segmenter finds what is dark."""
    pixels = np.full((FRAMES, 16, 24), 250, np.uint8)
    for index in range(FRAMES):
        pixels[index, :, index] = 5
    return pixels


def stack() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, frames().astype(np.uint16) * 100, photometric="minisblack", resolution=(100, 50),
                     resolutionunit="CENTIMETER", metadata=None)  # fmt: skip
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    pictures = [Image.fromarray(frame) for frame in frames()]
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=40, lossless=True)
    return file.getvalue()


def archive(*, unsafe: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for index, frame in reversed(list(enumerate(frames()))):
            picture = io.BytesIO()
            Image.fromarray(frame).save(picture, "PNG")
            target.writestr(f"run/frame_{index}.png", picture.getvalue())
        target.writestr("run/Thumbs.db", b"\xd0\xcf\x11\xe0")
        target.writestr("../escaped.png" if unsafe else "notes.txt", b"text")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("stacks"), model={"segmenter": "fake"}, inbox={"settle_limit_seconds": 0.5}
    )
    service.drop("stack.tif", stack())
    service.drop("run.zip", archive())
    service.drop("loop.webp", animation())
    service.drop("unsafe.zip", archive(unsafe=True))
    service.drop("cut.zip", archive()[:-200])
    assert service.once() == 0, service.tail()
    yield service
    service.end()


@pytest.mark.parametrize("name", ["stack", "run", "loop"])
def test_a_stacks_mask_has_a_page_for_each_frame_in_their_order(service: Service, name: str) -> None:
    masks = tifffile.imread(service.outbox / "masks" / f"{name}.tif")
    assert (FRAMES, 16, 24) == masks.shape
    assert np.array_equal(np.where(frames() < 128, 255, 0), masks)


def test_the_record_says_how_many_frames_and_of_what_format(service: Service) -> None:
    said = {document["source"]: (document["frames"], document["format"]) for _, document in documents(service)}
    assert {"stack.tif": (FRAMES, "TIFF"), "run.zip": (FRAMES, "ZIP"), "loop.webp": (FRAMES, "WEBP")} == said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unsafe.zip", "the path of its member 14 leads out of the archive"),
        ("cut.zip", "it is a zip without its directory"),
    ],
)
def test_a_bad_zip_fails_with_the_reason(service: Service, name: str, words: str) -> None:
    [(state, error_class, error)] = service.rows("SELECT state, error_class, error FROM job WHERE source = ?", name)
    assert ("failed", "input") == (state, error_class)
    assert words in error


def test_nothing_of_a_zip_lies_anywhere_but_in_its_result(service: Service) -> None:
    assert [] == [path for path in service.folder.rglob("*") if "escaped" in path.name or "frame_" in path.name]


def test_all_of_it_adds_up(service: Service) -> None:
    assert check_invariants(service) == []
