"""A model that is split over cards gives each as much to do, within what fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from torch import nn

from tests.sa2va_folder import DATA
from watcherd.config import Sa2va
from watcherd.inference.base import Timed
from watcherd.inference.machine.devices import Device
from watcherd.inference.pool.placement import plan
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter
from watcherd.inference.split import ModelSizes, split_by_time

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 2**20


@pytest.fixture(scope="module")
def eight() -> ModelSizes:
    """InternVL3-8B's sizes and times."""
    model: Any = SimpleNamespace(path=DATA / "internvl3-8b", sa2va=Sa2va(), compile=False)
    segmenter = Sa2vaSegmenter(model)
    assert isinstance(segmenter, Timed)
    return ModelSizes(
        segmenter.skeleton(), dtype="bfloat16", no_split=segmenter.no_split(), times=segmenter.milliseconds()
    )


def busy(model: ModelSizes, rooms: Sequence[float]) -> list[float]:
    """Milliseconds of each card."""
    split = split_by_time(model, rooms)
    assert split is not None
    assert all(load <= room for load, room in zip(split.loads_gib, rooms, strict=True))
    assert sum(split.loads_gib) == pytest.approx(model.weights_gib)
    found = [0.0] * len(rooms)
    for name, device in split.device_map.items():
        found[int(device[-1])] += model.times.get(name, 0.0)
    return found


def test_two_large_cards_have_half_of_the_time_each(eight: ModelSizes) -> None:
    """SAM2, a twentieth of the weights, has half of the time: by sizes it would come on top of half of the layers."""
    first, second = busy(eight, [130, 130])
    assert max(first, second) < 1.05 * (first + second) / 2


def test_what_a_card_can_hold_still_holds(eight: ModelSizes) -> None:
    """Where the first is too small for so many layers, the second gets them, and no more than it must."""
    first, second = busy(eight, [8.3, 8.3])
    assert first < second
    assert max(busy(eight, [10, 10])) < second
    assert split_by_time(eight, [7.5, 7.5]) is None
    assert split_by_time(eight, [16]) is None


def test_a_third_card_makes_the_busiest_less_busy(eight: ModelSizes) -> None:
    assert max(busy(eight, [40, 40, 40])) < max(busy(eight, [40, 40]))


def test_without_times_sizes_decide() -> None:
    model = ModelSizes(nn.Sequential(nn.Linear(MIB, 4, bias=False, device="meta")), dtype="float32")
    assert split_by_time(model, [1, 1]) is None


def test_a_plan_for_two_cards_goes_by_time(eight: ModelSizes) -> None:
    cards = [Device(index=at, uuid=f"GPU-{at}", name="x", total_gib=140, free_gib=139) for at in range(2)]
    (replica,) = plan(eight, cards, dtype="bfloat16", reserve_gib=1.75, per_replica=2).replicas
    assert replica.device_map["sam2"] == "cuda:1"
    assert replica.device_map["language.model.layers.20"] == "cuda:0"
