"""SAM 3 from a Hugging Face folder, through the whole service: words by configuration, profile and sidecar."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests import sam3_folder
from tests.acceptance.service import Service

if TYPE_CHECKING:
    from pathlib import Path

LOADING_SECONDS = 300.0


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


@pytest.mark.timeout(400)
def test_scans_are_segmented_by_words_and_what_is_not_there_is_no_mask(tmp_path: Path) -> None:
    """One thing, two as classes, instances, a prompt that is too long, and a scan in which nothing is."""
    sam3_folder.save(sam3_folder.model(presence=9), tmp_path / "model")
    service = Service(
        tmp_path / "service",
        **{
            "model": {"segmenter": "sam3", "path": str(tmp_path / "model")},
            "profiles.both": {"folder": "both", "prompt": "artery; vein", "instances": True},
        },
    )
    service.drop("one.png", png(0))
    service.drop("two.png.toml", b'prompt = "artery; vein"')
    service.drop("two.png", png(1))
    service.drop("both/each.png", png(2))
    service.drop("long.png.json", json.dumps({"prompt": "a" * 31}).encode())
    service.drop("long.png", png(3))
    try:
        assert 0 == service.once(LOADING_SECONDS), service.tail()
    finally:
        service.end()
    masks = tmp_path / "service/outbox/masks"
    assert {0, 255} == set(np.unique(np.asarray(Image.open(masks / "one.png"))))
    assert {0, 1, 2} == set(np.unique(np.asarray(Image.open(masks / "two.png"))))
    values = np.unique(np.asarray(Image.open(masks / "both/each.png")))
    assert values.max() > 2
    records = {record["source"]: record for record in service.json("jobs")}
    assert "is 31 tokens long; the model takes 30" in records["long.png"]["error"]
    assert "blood vessel: " in records["one.png"]["answer"]
    assert "found (presence" in records["one.png"]["answer"]


@pytest.mark.timeout(400)
def test_a_thing_that_is_not_there_fails_its_scan_with_the_score(tmp_path: Path) -> None:
    sam3_folder.save(sam3_folder.model(presence=-9), tmp_path / "model")
    service = Service(
        tmp_path / "service",
        **{
            "model": {"segmenter": "sam3", "path": str(tmp_path / "model")},
            "profiles.lenient": {"folder": "lenient", "no_mask": "empty"},
        },
    )
    service.drop("one.png", png(0))
    service.drop("lenient/one.png", png(1))
    try:
        assert 0 == service.once(LOADING_SECONDS), service.tail()
    finally:
        service.end()
    records = {record["source"]: record for record in service.json("jobs")}
    assert ("failed", "no-mask") == (records["one.png"]["state"], records["one.png"]["error_class"])
    assert "blood vessel: not there (presence 0.00" in records["one.png"]["answer"]
    assert "succeeded" == records["lenient/one.png"]["state"]
    assert not np.asarray(Image.open(tmp_path / "service/outbox/masks/lenient/one.png")).any()
