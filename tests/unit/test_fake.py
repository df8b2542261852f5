"""The fake segmenter answers as it says, and fails as it is told."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from watcherd.config import Model
from watcherd.errors import ConfigError, InputError, UnavailableError
from watcherd.inference import fake
from watcherd.inference.base import Frame, Placement
from watcherd.inference.faults import is_memory_error, is_sticky
from watcherd.job import Options
from watcherd.testing import SegmenterContract

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16), np.uint8)


def made(monkeypatch, **wishes) -> fake.Fake:
    monkeypatch.setenv(fake.VARIABLE, json.dumps(wishes))
    return fake.create(Model(segmenter="fake"))


def frame(pixels: np.ndarray = PIXELS) -> Frame:
    return Frame(pixels=pixels, options=Options())


class TestContract(SegmenterContract):
    def create(self):
        return fake.Fake({})


def test_dark_pixels_are_the_mask(monkeypatch):
    (found,) = made(monkeypatch).predict([frame()])
    assert np.array_equal(PIXELS < 128, found.probability > 0.5)


@pytest.mark.parametrize(
    ("fault", "error"), [("input", InputError), ("error", ValueError), ("sticky", RuntimeError), ("oom", RuntimeError)]
)
def test_a_marked_frame_fails_as_it_says_and_no_other_does(monkeypatch, fault, error):
    segmenter = made(monkeypatch)
    with pytest.raises(error) as caught:
        segmenter.predict([frame(), frame(fake.marked(PIXELS, fault))])
    assert (fault == "sticky") == is_sticky(caught.value)
    assert (fault == "oom") == is_memory_error(caught.value)
    assert segmenter.predict([frame()])[0].probability is not None


def test_marks_work_in_colour(monkeypatch):
    pixels = fake.marked(np.stack([PIXELS] * 3, axis=-1), "no-mask")
    (found,) = made(monkeypatch).predict([frame(pixels)])
    assert (found.probability, found.answer) == (None, "I see no vessel here.")


def test_probabilities_can_be_no_numbers(monkeypatch):
    (found,) = made(monkeypatch, fault="nan").predict([frame()])
    assert np.isnan(found.probability).all()


def test_a_fault_can_happen_once(monkeypatch, tmp_path):
    segmenter = made(monkeypatch, fault="error", once=str(tmp_path / "done"))
    with pytest.raises(ValueError, match="asked for"):
        segmenter.predict([frame()])
    assert len(segmenter.predict([frame()])) == 1


def test_memory_can_suffice_for_small_batches_only(monkeypatch):
    segmenter = made(monkeypatch, fault="oom", above=2)
    assert len(segmenter.predict([frame()] * 2)) == 2
    with pytest.raises(RuntimeError, match="out of memory"):
        segmenter.predict([frame()] * 3)


@pytest.mark.parametrize(("fault", "code"), [("exit", 3), ("kill", -9)])
def test_the_process_can_die(fault, code):
    program = f"from watcherd.inference.fake import _fail; _fail({fault!r})"
    assert code == subprocess.run([sys.executable, "-c", program], timeout=60).returncode


def test_loading_can_fail(monkeypatch):
    with pytest.raises(UnavailableError):
        made(monkeypatch, load="unavailable").load(Placement(), lambda *_: None)


def test_the_golden_frame_is_answered_rightly_unless_told_otherwise(monkeypatch):
    for wishes, right in (({"fault": "error"}, True), ({"golden": "wrong"}, False)):
        segmenter = made(monkeypatch, **wishes)
        golden = segmenter.golden()
        (found,) = segmenter.predict([golden.frame])
        assert right == np.array_equal(golden.mask, found.probability > 0.5)


@pytest.mark.parametrize("text", ["{", "[]", '{"fautl": "oom"}', '{"fault": "oops"}'])
def test_a_misspelt_wish_is_a_configuration_error(monkeypatch, text):
    monkeypatch.setenv(fake.VARIABLE, text)
    with pytest.raises(ConfigError, match="WATCHERD_FAKE"):
        fake.create(Model(segmenter="fake"))


def test_torch_is_not_imported_for_it():
    program = "import sys, watcherd.inference.fake; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
