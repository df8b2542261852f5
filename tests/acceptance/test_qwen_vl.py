"""A Sa2VA on Qwen3-VL and one on Qwen2.5-VL, tiny and random, side by side in one service that runs once.

SAM2 is hard-coded to its large size, of 0.9 GB; the service's processes are told of a narrow one as Python starts.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import qwen_vl_tiny as tiny
from tests import sa2va_training as training
from tests.acceptance.service import Service
from tests.sa2va_tiny import TRUNK
from tests.tree import python_path

LOADING_SECONDS = 840.0
"""Two models on one core, which other tests may want too."""

NARROW = f"""
import dataclasses
from watcherd.inference.segmenters.sa2va import config
parse = config.parse
trunk = config.Hiera(
    width={TRUNK.width}, heads={TRUNK.heads}, blocks={TRUNK.blocks}, global_blocks={TRUNK.global_blocks}
)
config.parse = lambda *said: dataclasses.replace(parse(*said), hiera=trunk)
"""

QUESTION = {"decode": "forced", "prompt": "Please segment the blood vessel.", "draft": "Sure, [SEG]."}


@pytest.mark.timeout(900)
def test_a_folder_of_each_family_goes_through_a_service_that_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        folders = {base: str(tiny.write_folder(tmp_path / base, base)) for base in tiny.FAMILIES}
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(NARROW)
    plain = {"segmenter": "sa2va", "dtype": "float32"}
    service = Service(
        tmp_path / "service",
        **{
            "model": {**plain, "path": folders["qwen3_vl"]},
            "model.sa2va": QUESTION,
            "models.other": {**plain, "path": folders["qwen2_5_vl"]},
            "models.other.sa2va": QUESTION,
            "profiles.other": {"folder": "other", "model": "other"},
        },
    )
    service.environment["PYTHONPATH"] = python_path(tmp_path / "start")
    noise = np.random.default_rng(0).integers(0, 256, (120, 90), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(noise).save(picture, "PNG")
    service.drop("one.png", picture.getvalue())
    Image.fromarray(noise.T.copy()).save(picture := io.BytesIO(), "PNG")
    service.drop("other/two.png", picture.getvalue())
    try:
        assert 0 == service.once(LOADING_SECONDS), service.tail()
    finally:
        service.end()
    jobs = {job["model_name"]: job for job in service.json("jobs")}
    assert {"default", "other"} == jobs.keys()
    for job in jobs.values():
        assert ("succeeded", "forced") == (job["state"], job["decode"])
        assert "Sure, [SEG].<|im_end|>" == job["answer"]
    for name, size in (("one.png", (90, 120)), ("other/two.png", (120, 90))):
        with Image.open(tmp_path / "service/outbox/masks" / name) as mask:
            assert size == mask.size
