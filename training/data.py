"""Pictures and labels as arrays: made-up scenes on disk, CHASE_DB1 by child, real angiograms by block.

A label is one byte of bits: `VESSEL`, `IGNORE` (no honest reader could say) and `FIELD` (inside the field as
inference will find it, so that training sees the same mistakes).
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from training.synth import FUNDUS_STYLES, XRAY_STYLES, Kind, Scene, make
from training.synth.devices import strays
from watcherd.inference.segmenters.vessel.picture import field_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

VESSEL, IGNORE, FIELD = 1, 2, 4

SIDES: dict[Kind, int] = {"xray": 384, "fundus": 640}
"""Sides in pixels at which scenes are kept."""

TRAINING = range(1, 9)
VALIDATION = range(9, 11)
TEST = range(11, 15)
"""Children of CHASE_DB1; the test children are only ever scored."""

BLOCKS = 5
"""Blocks of neighbouring numbers into which the real angiograms are split: frames of one patient lie side by side."""

STRAYS = "strays.npy"
"""File of what is laid over real angiograms: uint8 (n, side, side), hundredths of absorption."""

VALIDATION_SEED = 1_000_000
TEST_SEED = 2_000_000
"""Scenes from here on are never trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """One image of CHASE_DB1 at its own size: ``rgb`` (h, w, 3), ``mask`` and ``field`` (h, w) bool."""

    name: str
    rgb: Bytes
    mask: NDArray[np.bool_]
    field: NDArray[np.bool_]


def chase(folder: Path, children: Iterable[int]) -> list[Photograph]:
    """Both eyes of the children, first reader."""
    names = [f"Image_{child:02d}{eye}" for child in children for eye in "LR"]
    return [
        Photograph(
            name=name,
            rgb=np.asarray(Image.open(folder / "images" / f"{name}.jpg").convert("RGB")),
            mask=np.asarray(Image.open(folder / "masks" / f"{name}.png").convert("L")) > 127,
            field=np.asarray(Image.open(folder / "fov" / f"{name}.gif").convert("L")) > 127,
        )
        for name in names
    ]


def chase_arrays(photographs: list[Photograph], side: int) -> tuple[Bytes, Bytes]:
    """RGB (n, side, side, 3) and labels (n, side, side), padded to squares and reduced with averaging."""
    images, labels = [], []
    for photograph in photographs:
        found = np.asarray(Image.fromarray(field_of(photograph.rgb, "fundus")).resize(photograph.mask.shape[::-1]))
        images.append(np.asarray(_square(photograph.rgb).resize((side, side), Image.Resampling.BOX)))
        mask, field = (
            np.asarray(_square((part * np.uint8(255)).astype(np.uint8)).resize((side, side), Image.Resampling.BOX))
            > 127
            for part in (photograph.mask, found)
        )
        labels.append(mask * np.uint8(VESSEL) + field * np.uint8(FIELD))
    return np.stack(images), np.stack(labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Angiogram:
    """One real angiogram at its own size: ``image`` (h, w) uint8, ``mask`` (h, w) bool as a cardiologist drew it."""

    name: str
    block: int
    image: Bytes
    mask: NDArray[np.bool_]


def angiograms(folder: Path) -> list[Angiogram]:
    """The real angiograms in the order of their numbers, each in one of `BLOCKS` blocks."""
    paths = sorted((folder / "images").glob("*.png"))
    return [
        Angiogram(
            name=path.stem,
            block=block,
            image=np.asarray(Image.open(path).convert("L")),
            mask=np.asarray(Image.open(folder / "masks" / path.name).convert("L")) > 127,
        )
        for block, part in enumerate(np.array_split(np.asarray(paths, object), BLOCKS))
        for path in part
    ]


def angiogram_arrays(frames: list[Angiogram], side: int) -> tuple[Bytes, Bytes]:
    """Grey (n, side, side) and labels (n, side, side)."""
    images, labels = [], []
    for frame in frames:
        images.append(np.asarray(Image.fromarray(frame.image).resize((side, side), Image.Resampling.BILINEAR)))
        drawn = Image.fromarray((frame.mask * np.uint8(255)).astype(np.uint8))
        mask = np.asarray(drawn.resize((side, side), Image.Resampling.BILINEAR)) > 127
        found = Image.fromarray(field_of(frame.image, "xray")).resize((side, side), Image.Resampling.NEAREST)
        labels.append(mask * np.uint8(VESSEL) + np.asarray(found) * np.uint8(FIELD))
    return np.stack(images), np.stack(labels)


def _square(pixels: Bytes) -> Image.Image:
    height, width = pixels.shape[:2]
    side = max(height, width)
    out = np.zeros((side, side, *pixels.shape[2:]), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = pixels
    return Image.fromarray(out)


def label_of(scene: Scene, kind: Kind) -> Bytes:
    """A scene's label bits, with the field as inference finds it."""
    side = scene.mask.shape[::-1]
    found = np.asarray(Image.fromarray(field_of(scene.image, kind)).resize(side, Image.Resampling.NEAREST))
    return np.asarray(scene.mask * VESSEL + scene.ignore * IGNORE + found * FIELD, np.uint8)


def _one(kind: Kind, style: str | None, seed: int) -> tuple[Bytes, Bytes]:
    scene = make(kind, seed, size=SIDES[kind], style=style)
    return scene.image, label_of(scene, kind)


def write_strays(folder: Path, count: int) -> None:
    """Leads, wires and catheters without a patient."""
    layers = [strays(np.random.default_rng((3, seed)), SIDES["xray"]) for seed in range(count)]
    np.save(folder / STRAYS, np.stack([np.clip(100 * layer, 0, 255).astype(np.uint8) for layer in layers]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A set of made-up scenes and the files it is kept in: ``<name>-images.npy`` and ``<name>-labels.npy``."""

    kind: Kind
    name: str
    first: int
    count: int
    style: str | None = None

    def paths(self, folder: Path) -> tuple[Path, Path]:
        return folder / f"{self.name}-images.npy", folder / f"{self.name}-labels.npy"

    def write(self, folder: Path, *, workers: int | None = None) -> None:
        """Make the scenes, on every core unless ``workers`` says otherwise."""
        folder.mkdir(parents=True, exist_ok=True)
        shape = (self.count, SIDES[self.kind], SIDES[self.kind])
        images, labels = (np.lib.format.open_memmap(path, "w+", np.uint8, shape) for path in self.paths(folder))
        seeds = range(self.first, self.first + self.count)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            for index, made in enumerate(pool.map(partial(_one, self.kind, self.style), seeds, chunksize=2)):
                images[index], labels[index] = made
        images.flush()
        labels.flush()

    def read(self, folder: Path) -> tuple[Bytes, Bytes]:
        """Images and labels (count, side, side), as `write` left them."""
        images, labels = (np.load(path) for path in self.paths(folder))
        return images, labels


def training_part(kind: Kind, count: int = 0) -> Part:
    """What is trained on."""
    return Part(kind=kind, name=kind, first=0, count=count)


def validation_part(kind: Kind, count: int = 0) -> Part:
    """What operating points are chosen on."""
    return Part(kind=kind, name=f"{kind}-validation", first=VALIDATION_SEED, count=count)


def scored_parts(kind: Kind, count: int = 0) -> list[Part]:
    """What is only scored, one part for each difficulty."""
    styles = XRAY_STYLES if kind == "xray" else FUNDUS_STYLES
    return [Part(kind=kind, name=f"{kind}-test-{style}", first=TEST_SEED, count=count, style=style) for style in styles]
