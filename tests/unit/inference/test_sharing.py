"""Placement over models: each once if that can be, the rest by share, and who waits is told why."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.inference.shapes import EightBillion, eight_billion
from watcherd.inference.machine.devices import GIB, parse_inventory
from watcherd.inference.pool.placement import SAFETY_GIB, plan
from watcherd.inference.pool.sharing import Demand, Limits, Shared, share_out
from watcherd.inference.split import ModelSizes


def sized(gib: float) -> ModelSizes:
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(1, int(gib * GIB / 2 / 8), bias=False) for _ in range(8)))
    return ModelSizes(module, dtype="bfloat16")


SA2VA = ModelSizes(eight_billion(), dtype="bfloat16", no_split=EightBillion.no_split)
SMALL = sized(0.2)


def demand(name: str, sizes: ModelSizes | None = SMALL, reserve: float = 0.5, share: float = 1.0) -> Demand:
    return Demand(name=name, sizes=sizes, dtype="bfloat16", reserve_gib=reserve, share=share)


def sa2va(name: str = "sa2va", share: float = 1.0) -> Demand:
    return demand(name, SA2VA, 3.0, share)


def shared(gpus: str, *demands: Demand, **limits: Any) -> Shared:
    return share_out(demands, parse_inventory(gpus), Limits(**limits))


def cards(found: Shared) -> dict[str, list[list[int]]]:
    return {
        name: [[device.index for device in replica.devices] for replica in each.replicas]
        for name, each in found.plans.items()
    }


def test_a_large_and_a_small_one_share_a_card() -> None:
    assert {"sa2va": [[0]], "vessel": [[0]]} == cards(shared("1x24GiB", sa2va(), demand("vessel")))


def test_each_has_a_card_of_its_own_where_there_are_enough() -> None:
    found = shared("2x24GiB", demand("segformer", sized(0.3), 1.0), sa2va())
    assert {"sa2va": [[0]], "segformer": [[1]]} == cards(found)


def test_what_is_left_goes_by_share() -> None:
    found = cards(shared("4x24GiB", sa2va("a", 3), sa2va("b", 1)))
    assert {"a": 3, "b": 1} == {name: len(replicas) for name, replicas in found.items()}
    assert {0, 1, 2, 3} == {index for replicas in found.values() for [index] in replicas}


def test_one_that_does_not_fit_beside_another_waits_and_is_told_why() -> None:
    found = shared("1x24GiB", sa2va("first"), sa2va("second"))
    assert ["first"] == list(found.plans)
    refused = found.refused["second"]
    assert refused.fits_alone
    assert "no room for it beside first" in refused.message
    assert "15.2 GiB in bfloat16 and 3.0 GiB of reserve" in refused.message


def test_one_that_comes_later_goes_on_cards_of_nobody_first_then_beside_others() -> None:
    """And takes no more than one place beside them; one that does not show its sizes takes none there."""

    def later(gpus: str, taken: set[int], one: Demand) -> dict[str, list[list[int]]]:
        uuids = {f"planned-{index}" for index in taken}
        return cards(share_out([one], parse_inventory(gpus), Limits(), uuids))

    assert {"vessel": [[1], [2]]} == later("3x24GiB", {0}, demand("vessel"))
    assert {"vessel": [[0]]} == later("2x24GiB", {0, 1}, demand("vessel"))
    assert {"unknown": [[1]]} == later("2x24GiB", {0}, demand("unknown", None, 0.0))
    assert {} == later("2x24GiB", {0, 1}, demand("unknown", None, 0.0))
    assert {"unknown": [[0]]} == later("1x24GiB", {0}, demand("unknown", None, 4.0))


def test_one_that_fits_nowhere_is_refused_and_costs_the_others_nothing() -> None:
    found = shared("1x12GiB", sa2va(), demand("vessel"))
    assert {"vessel": [[0]]} == cards(found)
    assert not found.refused["sa2va"].fits_alone
    assert "1 GPU with 19.0 GiB free" in found.refused["sa2va"].hint


def test_a_large_one_does_not_take_the_place_of_two_small_ones() -> None:
    found = shared("1x24GiB", demand("huge", sized(22), 1.0), demand("a", sized(8)), demand("b", sized(8)))
    assert {"a", "b"} == set(found.plans)


def test_no_more_replicas_of_each_than_are_asked_for() -> None:
    found = shared("4x24GiB", sa2va("a", 3), demand("b"), replicas=1)
    assert {"a": 1, "b": 1} == {name: len(each.replicas) for name, each in found.plans.items()}
    assert 2 == len(found.unused_devices)


def test_the_memory_of_a_card_that_may_be_used_is_for_all_models_together() -> None:
    assert 2 == len(shared("1x24GiB", sa2va(), demand("vessel"), max_memory_gib=22).plans)
    assert 1 == len(shared("1x24GiB", sa2va(), demand("vessel"), max_memory_gib=18.5).plans)


def test_one_that_shows_no_sizes_needs_a_card_of_its_own_or_a_reserve() -> None:
    found = shared("1x24GiB", demand("vessel"), demand("custom", None, 0.0))
    assert ["vessel"] == list(found.plans)
    assert "does not show its sizes" in found.refused["custom"].message
    assert 2 == len(shared("2x24GiB", demand("vessel"), demand("custom", None, 0.0)).plans)
    assert 2 == len(shared("1x24GiB", demand("vessel"), demand("custom", None, 4.0)).plans)


def test_on_a_cpu_each_has_what_is_asked_for_while_there_is_memory() -> None:
    on_cpu = share_out([sa2va(), demand("vessel")], (), Limits(host_gib=64))
    assert {"sa2va": [[]], "vessel": [[]]} == cards(on_cpu)
    assert ["vessel"] == list(share_out([sa2va(), demand("vessel")], (), Limits(host_gib=8)).plans)


def test_a_single_model_is_placed_as_ever() -> None:
    inventory = parse_inventory("2x24GiB,2x12GiB")
    alone = share_out([sa2va()], inventory)
    assert plan(SA2VA, inventory, dtype="bfloat16", reserve_gib=3.0) == alone.plans["sa2va"]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0.2, 4.0, 10.0, 15.0, 20.0]), min_size=2, max_size=5),
    totals=st.lists(st.sampled_from([8, 12, 24, 48]), min_size=1, max_size=4),
    shares=st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=5, max_size=5),
)
def test_no_card_is_promised_twice(sizes: list[float], totals: list[int], shares: list[float]) -> None:
    """What is on each card, with every process's own margin, is at most what is free; and nobody is forgotten."""
    demands = [demand(f"m{n}", CACHE[size], 1.0, shares[n]) for n, size in enumerate(sizes)]
    found = shared(",".join(f"{total}GiB" for total in totals), *demands)
    load = dict.fromkeys(range(len(totals)), 0.0)
    for each in found.plans.values():
        for replica in each.replicas:
            for device, weights in zip(replica.devices, replica.loads_gib, strict=True):
                load[device.index] += weights + replica.reserve_gib + SAFETY_GIB
    assert all(load[index] <= totals[index] + 1e-6 for index in load)
    assert {each.name for each in demands} == found.plans.keys() | found.refused.keys()
    assert not found.plans.keys() & found.refused.keys()


CACHE = {size: sized(size) for size in (0.2, 4.0, 10.0, 15.0, 20.0)}
