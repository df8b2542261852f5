"""A scan that is displayed turned has its mask turned alike: from the file with its EXIF tag to the mask's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tests.unit.inference.fakes import Told, answers
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.encode import RenderRequest, render
from watcherd.inference.messages import Segmented, WorkItem
from watcherd.job import Options

if TYPE_CHECKING:
    from pathlib import Path

ORIENTATION = 274
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a picture has to be stored so that a viewer that heeds the tag shows it upright (EXIF 2.3, 4.6.4)."""


def upright() -> Image.Image:
    """Dark, with a bright marker in the corner at the top left: 12 wide and 6 high, so that no two turns look alike."""
    pixels = np.full((40, 64), 20, np.uint8)
    pixels[:6, :12] = 250
    return Image.fromarray(pixels)


def stored(path: Path, orientation: int) -> Path:
    method = STORED[orientation]
    picture = upright() if method is None else upright().transpose(method)
    if path.suffix == ".tif16":  # 16-bit colours go through tifffile
        values = np.stack([np.asarray(picture).astype(np.uint16) * 200] * 3, axis=-1)
        tag = (ORIENTATION, "H", 1, orientation, True)
        tifffile.imwrite(path, values, photometric="rgb", extratags=[tag], metadata=None)
        return path
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def mask_of(path: Path) -> np.ndarray:
    """The mask's file as any viewer opens it: bright pixels are the finding."""
    found = decode(path, path.with_name("pixels.npy"), DecodeLimits())
    item = WorkItem(
        job_id=1,
        decoded=found.path,
        frames=found.frames,
        options=Options(outputs=("mask",)),
        target=path.with_name("answer"),
    )
    [answer] = answers(Told(), [item])
    assert isinstance(answer, Segmented)
    request = RenderRequest(pixels=found.path, mask=answer.mask, folder=path.parent, stem="result", kinds=("mask",))
    [file] = render(request).files
    with Image.open(file.path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.tif16"])
def test_a_marker_is_in_the_same_corner_of_the_mask_as_of_the_scan_as_displayed(tmp_path, name, orientation):
    path = stored(tmp_path / name, orientation)
    if name != "a.tif16":
        with path.open("rb") as file, Image.open(file) as image:  # by its path Pillow 13 scrambles a turned TIFF
            image.load()  # which turns a TIFF, and takes its tag away
            displayed = np.asarray(ImageOps.exif_transpose(image).convert("L")) > 127
        assert np.array_equal(np.asarray(upright()) > 127, displayed), "the test itself stores it wrongly"
    assert np.array_equal(np.where(np.asarray(upright()) > 127, 255, 0), mask_of(path))
