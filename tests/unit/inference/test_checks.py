"""Each planted fault is caught, by name, before anybody is told that the replica is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.inference.fakes import Told
from watcherd.errors import UnavailableError
from watcherd.inference import checks, loading
from watcherd.inference.base import Frame, Golden, Prediction
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, 8, 2) / 8), persistent=False)
        self.register_buffer("ids", torch.arange(8), persistent=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.rotary = Rotary()
        self.freqs_cis = torch.polar(torch.ones(4), torch.linspace(0, 3, 4))
        self.tables = [torch.ones(3), {"x": torch.zeros(2)}, torch.eye(2)]
        self.by_name = {"sin": torch.sin(torch.arange(3.0))}


def plant(model: Model, name: str) -> None:
    """What transformers 5 does to the non-persistent buffers of other people's code, and kin."""
    garbage = {
        "rotary.inv_freq": lambda: model.rotary.inv_freq.copy_(torch.tensor([1e30, 0.0, -3.0, float("nan")])),
        "rotary.ids": model.rotary.ids.zero_,
        "freqs_cis": lambda: model.freqs_cis.add_(0.01j),
        "tables[2]": lambda: model.tables[2].mul_(1.01),
        "by_name['sin']": lambda: model.by_name["sin"].add_(0.001),
    }
    garbage[name]()


def test_a_model_as_it_should_be_passes() -> None:
    checks.after_load(Model(), Model)
    checks.after_load(Model(), lambda: loading.skeleton(Model))
    checks.after_load(Model())


@pytest.mark.parametrize("name", ["rotary.inv_freq", "rotary.ids", "freqs_cis", "tables[2]", "by_name['sin']"])
def test_garbage_in_what_no_checkpoint_holds_is_caught_by_name(name: str) -> None:
    model = Model()
    plant(model, name)
    with pytest.raises(UnavailableError) as caught:
        checks.after_load(model, Model)
    assert f"{name} has other values" in caught.value.message


def test_a_table_cast_to_the_run_dtype_is_not_garbage() -> None:
    model = Model()
    model.rotary.inv_freq = model.rotary.inv_freq.to(torch.bfloat16)
    checks.after_load(model, Model)


def test_a_table_of_another_shape_or_none_is_caught() -> None:
    model = Model()
    model.freqs_cis = model.freqs_cis[:2]
    del model.by_name["sin"]
    with pytest.raises(UnavailableError) as caught:
        checks.after_load(model, Model)
    assert "freqs_cis is (2,), expected (4,)" in caught.value.message
    assert "by_name['sin'] is not there" in caught.value.message


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda model: model.layers[1].to("meta"), "layers.1.weight"),
        (lambda model: model.rotary.to("meta"), "rotary.inv_freq"),
        (lambda model: setattr(model, "freqs_cis", model.freqs_cis.to("meta")), "freqs_cis"),
    ],
)
def test_a_tensor_left_on_the_meta_device_is_caught_by_name(spoil: Callable[[Model], object], name: str) -> None:
    model = Model()
    spoil(model)
    with pytest.raises(UnavailableError) as caught:
        checks.after_load(model, Model)
    assert name in caught.value.message


def test_weights_that_accelerate_keeps_in_host_memory_are_not_missing() -> None:
    from accelerate import cpu_offload

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model[0].weight.is_meta
    checks.after_load(model)


def golden(minimum: float = 0.95) -> Golden:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 3:5] = 1
    return Golden(frame=Frame(pixels=mask * 200, options=Options()), mask=mask, min_dice=minimum)


def answering(change: Callable[[np.ndarray], np.ndarray | None]) -> Told:
    """A model whose probabilities are ``change`` of the right ones."""

    class Changed(Told):
        def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
            (prediction,) = super().predict(frames)
            assert prediction.probability is not None
            return [Prediction(probability=change(prediction.probability), answer="no")]

    return Changed()


def test_the_known_mask_passes(tmp_path: Path) -> None:
    segmenter = Told()
    segmenter.known = golden()
    checks.golden(segmenter, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda right: np.roll(right, 1, axis=1), "Dice 0.500"),
        (lambda right: right * 0, "Dice 0.000"),
        (lambda right: right * np.nan, "not numbers"),
        (lambda right: None, "no mask"),
    ],
)
def test_another_answer_to_the_golden_image_is_an_error(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray | None], said: str
) -> None:
    segmenter = answering(change)
    segmenter.known = golden()
    with pytest.raises(UnavailableError, match=said):
        checks.golden(segmenter, tmp_path)


def test_without_a_known_mask_the_first_answer_is_the_one_to_give_again(tmp_path: Path) -> None:
    checks.golden(answering(lambda right: right), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    checks.golden(answering(lambda right: right + 1e-4), tmp_path)
    with pytest.raises(UnavailableError, match="not the one it gave at first"):
        checks.golden(answering(lambda right: 1 - right), tmp_path)


def test_a_broken_first_answer_is_given_anew(tmp_path: Path) -> None:
    """The cache may be deleted at any time, so it may also be broken."""
    checks.golden(Told(), tmp_path)
    (remembered,) = tmp_path.iterdir()
    remembered.write_bytes(b"")
    checks.golden(Told(), tmp_path)
    assert remembered.stat().st_size > 0


def test_values_that_are_not_numbers_are_never_remembered(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="not numbers"):
        checks.golden(answering(lambda right: right * np.nan), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_speaks_may_find_nothing_in_the_test_picture(tmp_path: Path) -> None:
    checks.golden(answering(lambda right: None), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_compute_says_why_it_is_not_ready(tmp_path: Path) -> None:
    def before(frames: Sequence[Frame]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UnavailableError, match="not enough memory"):
        checks.golden(Told(before), tmp_path)


def test_dice_counts_pixels_of_the_same_class() -> None:
    one = np.array([[1, 1, 2, 0]], np.uint8)
    assert checks.dice(one, one) == 1.0
    assert checks.dice(one, np.array([[1, 2, 2, 0]], np.uint8)) == pytest.approx(2 / 3)
    assert checks.dice(one * 0, one * 0) == 1.0
