"""`semantic` in half precision on one real NVIDIA GPU, tiled and whole, against float32: probabilities and masks.

python -m pytest tests/gpu/test_semantic.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests.unit.inference.semantic_folders import SIDE, lively, save
from watcherd.config import Model, Semantic
from watcherd.inference import checks
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters import semantic
from watcherd.job import Options

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda:0"
ASKING = Options(outputs=("mask", "probability"))
SHAPES = {"whole": (SIDE, SIDE), "tiles": (100, 150), "more than 65,504 pixels": (260, 270)}
NEAR = {"bfloat16": 0.03, "float16": 0.004}
"""Mean distance of probabilities from those of float32, over all classes."""


@pytest.fixture(scope="module", params=["segformer", "upernet"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(lively(request.param), tmp_path_factory.mktemp(request.param))


def loaded(folder: Path, dtype: str, device: str | None = None, **settings: Any) -> Segmenter:
    device = device or DEVICE
    segmenter = semantic.create(Model(segmenter="semantic", path=folder, semantic=Semantic(**settings)))
    segmenter.load(Placement(devices=(device,), device_map={"": device}, dtype=dtype), lambda *_: None)
    return segmenter


def blotches(shape: tuple[int, int], *, tta: bool = False, seed: int = 0) -> Frame:
    coarse = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, 7, 9)).astype(np.float32))
    smooth = interpolate(coarse, size=shape, mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0)
    options = Options(outputs=ASKING.outputs, tta=tta)
    return Frame(pixels=np.ascontiguousarray(smooth.round().numpy().astype(np.uint8)), options=options)


def chances(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """All classes' probabilities: the background's is what the others leave."""
    return np.concatenate([1 - probability.sum(axis=0, keepdims=True), probability])


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_half_precision_gives_the_probabilities_and_masks_of_float32(
    folder: Path, shape: tuple[int, int], dtype: str, *, tta: bool
) -> None:
    frames = [blotches(shape, tta=tta, seed=seed) for seed in range(3)]
    exact = loaded(folder, "float32").predict(frames)
    for one, other in zip(exact, loaded(folder, dtype).predict(frames), strict=True):
        assert one.probability is not None
        assert other.probability is not None
        assert other.mask is not None
        assert other.probability.dtype == np.float32
        assert other.probability.shape == (2, *shape)
        expected, found = chances(one.probability), chances(other.probability)
        assert np.isfinite(found).all()
        assert np.abs(found - expected).mean() < NEAR[dtype]
        # The mask is that of its own probabilities; and of float32's wherever these are far enough apart.
        lead = np.diff(np.sort(found, axis=0)[-2:], axis=0)[0]
        assert (other.mask == found.argmax(axis=0))[lead > 1e-4].all()
        ahead = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0]
        assert (other.mask == expected.argmax(axis=0))[ahead > 10 * NEAR[dtype]].mean() > 0.999
        assert (other.mask == one.mask).mean() > 0.9
        if not tta:  # averaged over mirrored views, one class may win everywhere
            assert len(np.unique(one.mask)) > 1, "a mask of one class proves nothing"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_masks_alone_are_those_that_come_with_probabilities(folder: Path, dtype: str) -> None:
    segmenter = loaded(folder, dtype)
    for shape in SHAPES.values():
        asking = blotches(shape)
        (both,), (alone,) = (
            segmenter.predict([asking]),
            segmenter.predict([Frame(pixels=asking.pixels, options=Options())]),
        )
        assert alone.probability is None
        assert alone.mask is not None
        assert (alone.mask == both.mask).mean() > 0.999


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_one_class_has_a_threshold_in_half_precision_too(folder: Path, dtype: str) -> None:
    segmenter = loaded(folder, dtype, classes=("artery",))
    (found,) = segmenter.predict([blotches((260, 270))])
    assert found.probability is not None
    assert np.array_equal(found.mask, found.probability > 0.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_window_below_the_test_picture_starts(folder: Path, dtype: str, tmp_path: Path) -> None:
    checks.golden(loaded(folder, dtype), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_float32_on_the_card_is_float32_on_the_cpu(folder: Path) -> None:
    """Pictures are scaled on the device; a pixel may differ by its last digit."""
    for shape in SHAPES.values():
        (here,) = loaded(folder, "float32").predict([blotches(shape)])
        (there,) = loaded(folder, "float32", "cpu").predict([blotches(shape)])
        assert here.probability is not None
        assert there.probability is not None
        assert np.abs(here.probability - there.probability).mean() < 1e-3
        assert (here.mask == there.mask).mean() > 0.99
