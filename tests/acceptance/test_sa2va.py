"""A Sa2VA model from a Hugging Face folder, through the whole service: the recorded picture, the recorded mask."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.service import Service
from tests.sa2va_folder import write_model
from tests.sa2va_golden import arrays

if TYPE_CHECKING:
    from pathlib import Path

LOADING_SECONDS = 840.0
"""A minute and a half of one core, which other tests may want too."""

PROMPT = "<image>Please segment the blood vessel."


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recorded_picture_becomes_the_recorded_mask(tmp_path: Path) -> None:
    """Dropped as PNG with a forced answer; the record says what was asked, what was answered, and how."""
    write_model(tmp_path / "model", "layer-norm")
    recorded = arrays("image")
    service = Service(
        tmp_path / "service",
        **{
            "model": {"segmenter": "sa2va", "path": str(tmp_path / "model"), "dtype": "float32"},
            "model.sa2va": {"decode": "forced", "prompt": PROMPT},
        },
    )
    picture = io.BytesIO()
    Image.fromarray(recorded["image"]).save(picture, "PNG")
    service.drop("frame.png", picture.getvalue())
    try:
        assert 0 == service.once(LOADING_SECONDS), service.tail()
    finally:
        service.end()
    mask = np.asarray(Image.open(tmp_path / "service/outbox/masks/frame.png")) > 0
    assert float((mask != recorded["mask"]).mean()) <= 0.001
    (record,) = service.json("jobs")
    assert ("succeeded", "forced") == (record["state"], record["decode"])
    assert "[SEG]" in record["answer"]
    assert PROMPT == record["prompt"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_whose_answers_end_with_a_text_goes_through(tmp_path: Path) -> None:
    """Whose end is text, in letters of this tokenizer."""
    folder = write_model(tmp_path / "model", "layer-norm")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"template": "phi3_chat"}))
    service = Service(
        tmp_path / "service",
        **{
            "model": {"segmenter": "sa2va", "path": str(folder)},
            "model.sa2va": {"decode": "forced", "prompt": PROMPT},
        },
    )
    picture = io.BytesIO()
    Image.fromarray(arrays("image")["image"]).save(picture, "PNG")
    service.drop("frame.png", picture.getvalue())
    try:
        assert 0 == service.once(LOADING_SECONDS), service.tail()
    finally:
        service.end()
    (record,) = service.json("jobs")
    assert ("succeeded", "forced") == (record["state"], record["decode"])
    assert "Sure, [SEG].<|end|>" == record["answer"]
    assert (tmp_path / "service/outbox/masks/frame.png").is_file()
