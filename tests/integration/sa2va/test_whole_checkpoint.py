"""A training's checkpoint with SAM2 at its real size: every tensor of the official export, and the golden picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests import sa2va_training as training
from tests.sa2va_golden import arrays, frames_of
from watcherd.config import Model, Sa2va
from watcherd.inference.base import Placement
from watcherd.inference.segmenters.sa2va.export import export
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow_soak, pytest.mark.timeout(1800)]


def loaded(path: Path, sa2va: Sa2va) -> Sa2vaSegmenter:
    segmenter = Sa2vaSegmenter(Model(segmenter="sa2va", path=path, sa2va=sa2va))
    segmenter.load(Placement(), lambda *_: None)
    return segmenter


@pytest.mark.parametrize("kind", training.RECORDED)
def test_a_whole_checkpoint_is_its_official_export(kind: str, tmp_path: Path) -> None:
    """969 tensors in the folder, 975 in the network; the checkpoint's mask is that of the folder."""
    parts = training.write_training(tmp_path, kind)
    made = export(parts.trained(), tmp_path / "out", lambda *_: None, shard_bytes=300_000_000)
    assert 969 == made.tensors
    assert training.RECORDED[kind][""] == training.digest(made.folder)
    one, other = loaded(parts.base, parts.settings), loaded(made.folder, Sa2va(max_new_tokens=16))
    mine, theirs = one.engine.network.state_dict(), other.engine.network.state_dict()
    assert 975 == len(mine)
    assert mine.keys() == theirs.keys()
    assert [] == [name for name in mine if not torch.equal(mine[name], theirs[name])]
    frames = frames_of(arrays("image"), "image")
    (mask,), (expected,) = one.predict(frames), other.predict(frames)
    assert expected.probability is not None
    assert (expected.probability == mask.probability).all()
    assert 0 < (expected.probability > 0.5).mean() < 1
