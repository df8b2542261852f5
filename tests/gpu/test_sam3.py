"""`sam3` on one real NVIDIA GPU: against the CPU, in half precision, split, and with two batches under way.

python -m pytest tests/gpu/test_sam3.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch

from tests import sam3_folder
from watcherd.config import Model, Sam3
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters import sam3
from watcherd.job import Options
from watcherd.testing import SegmenterContract

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.base import Prediction, Segmenter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ON_THE_CARD = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sam3_folder.save(sam3_folder.model(presence=9), tmp_path_factory.mktemp("models") / "sam3")


def loaded(folder: Path, placement: Placement) -> Segmenter:
    segmenter = sam3.create(Model(segmenter="sam3", path=folder, sam3=Sam3()))
    segmenter.load(placement, lambda *_: None)
    return segmenter


def frames(count: int, **options: object) -> list[Frame]:
    asked = Options(prompt="artery; vein", outputs=("mask", "probability"), **options)  # type: ignore[arg-type]
    sizes = [(61, 90), (300, 301), (112, 112)]
    return [
        Frame(pixels=np.random.default_rng(seed).integers(0, 256, (*sizes[seed % 3], 3), dtype=np.uint8), options=asked)
        for seed in range(count)
    ]


def maps(found: Prediction) -> NDArray[np.float32]:
    assert found.probability is not None
    return found.probability


def test_float32_on_the_card_is_float32_on_the_cpu(folder: Path) -> None:
    for options in ({}, {"instances": True}, {"tta": True}):
        asked = frames(6, **options)
        here, there = loaded(folder, Placement()).predict(asked), loaded(folder, ON_THE_CARD).predict(asked)
        for one, other in zip(here, there, strict=True):
            assert np.abs(maps(one) - maps(other)).max() < 2e-3
            assert (one.mask != other.mask).mean() < 2e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(folder: Path, dtype: str) -> None:
    half = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype=dtype)
    asked = frames(3)
    for one, other in zip(loaded(folder, ON_THE_CARD).predict(asked), loaded(folder, half).predict(asked), strict=True):
        assert np.abs(maps(one) - maps(other)).mean() < 0.05


def test_parts_on_two_devices_give_the_same(folder: Path) -> None:
    """The words and the vision on the CPU, the rest on the card."""
    names = ["vision_encoder", "text_encoder", "text_projection", "geometry_encoder", "detr_encoder", "detr_decoder"]
    names += ["mask_decoder", "dot_product_scoring"]
    for first in (3, 5):
        split = {name: "cpu" if place < first else "cuda:0" for place, name in enumerate(names)}
        placement = Placement(devices=("cpu", "cuda:0"), device_map=split, dtype="float32")
        asked = frames(3)
        for one, other in zip(
            loaded(folder, ON_THE_CARD).predict(asked), loaded(folder, placement).predict(asked), strict=True
        ):
            assert np.abs(maps(one) - maps(other)).max() < 2e-3


class TestContract(SegmenterContract):
    placement: ClassVar[Placement] = ON_THE_CARD
    options: ClassVar[Options] = Options(prompt="artery; vein")
    same: ClassVar[float] = 2e-3
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        type(self).folder = folder

    def create(self) -> Segmenter:
        return sam3.create(Model(segmenter="sam3", path=type(self).folder))


class TestContractOfInstances(TestContract):
    options: ClassVar[Options] = Options(prompt="artery", instances=True)
