"""Placement: the fewest GPUs per replica, then as many replicas as fit; never silently on the CPU."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.inference.shapes import EightBillion, eight_billion
from watcherd.errors import UnavailableError
from watcherd.inference.loading import resolve_dtype
from watcherd.inference.machine.devices import GIB, Device, parse_inventory
from watcherd.inference.machine.grouping import Card, gather
from watcherd.inference.pool.placement import SAFETY_GIB, Plan, plan
from watcherd.inference.split import ModelSizes, split_over

BF16 = ModelSizes(eight_billion(), dtype="bfloat16", no_split=EightBillion.no_split)
FP32 = ModelSizes(eight_billion(), dtype="float32", no_split=EightBillion.no_split)


def planned(gpus: str, model: ModelSizes = BF16, **options: object) -> Plan:
    return plan(model, parse_inventory(gpus), dtype=model.dtype, **({"reserve_gib": 3.0} | options))  # type: ignore[arg-type]


def groups(found: Plan) -> list[list[int]]:
    return [[device.index for device in replica.devices] for replica in found.replicas]


@pytest.mark.parametrize(
    ("gpus", "model", "expected"),
    [
        ("4x24GiB", BF16, [[0], [1], [2], [3]]),
        ("4x12GiB", BF16, [[0, 1], [2, 3]]),
        ("2x24GiB,2x12GiB", BF16, [[0], [1], [2, 3]]),
        ("12GiB,24GiB,12GiB,24GiB", BF16, [[1], [0, 2], [3]]),
        ("4x24GiB", FP32, [[0, 1], [2, 3]]),
        ("4x24GiB,2x16GiB", FP32, [[0, 4], [1, 5], [2, 3]]),
        ("4x12GiB", FP32, [[0, 1, 2, 3]]),
        ("3x12GiB", BF16, [[0, 1]]),
        ("8x80GiB", BF16, [[number] for number in range(8)]),
    ],
)
def test_the_fewest_gpus_per_replica_and_then_as_many_replicas_as_fit(
    gpus: str, model: ModelSizes, expected: list[list[int]]
) -> None:
    """8.18 billion parameters with 3 GiB of reserve: the user's own question, in seconds and without a GPU."""
    found = planned(gpus, model)
    assert sorted(expected) == sorted(groups(found))


def test_one_card_that_is_too_small_is_refused_with_the_figures_and_what_would_fit() -> None:
    with pytest.raises(UnavailableError) as caught:
        planned("1x12GiB")
    for figure in ("15.2 GiB in bfloat16", "3.0 GiB of reserve", "1 x 12.0 GiB free"):
        assert figure in caught.value.message
    for remedy in ("1 GPU with 19.0 GiB free", "2 GPUs with 11.5 GiB free", "devices.allow_offload"):
        assert remedy in caught.value.hint
    assert caught.value.exit_code == 69


@pytest.mark.parametrize(("gpus", "replicas"), [("1x19GiB", 1), ("2x11.5GiB", 1), ("4x7.5GiB", 1)])
def test_what_is_said_to_fit_fits(gpus: str, replicas: int) -> None:
    assert replicas == len(planned(gpus).replicas)


def test_the_reserve_is_kept_on_every_device_of_a_replica() -> None:
    (replica,) = planned("2x12GiB").replicas
    assert len(replica.loads_gib) == 2
    assert all(load + 3.0 + SAFETY_GIB <= 12.0 for load in replica.loads_gib)
    assert replica.free_gib == pytest.approx(12.0 - 3.0 - max(replica.loads_gib))
    with pytest.raises(UnavailableError):
        planned("2x12GiB", reserve_gib=5.0)


def test_a_split_is_even() -> None:
    """So that the fullest device has room for a larger batch; filled in order, the first would be full."""
    (replica,) = planned("2x24GiB", per_replica=2).replicas
    assert max(replica.loads_gib) - min(replica.loads_gib) < 0.5


def test_nothing_is_placed_outside_the_gpus() -> None:
    for replica in planned("4x12GiB").replicas:
        assert {"cuda:0", "cuda:1"} == set(replica.device_map.values())


def test_parts_that_must_stay_together_do() -> None:
    (replica,) = planned("2x12GiB").replicas
    for name, module in BF16.module.named_modules():
        if type(module).__name__ in EightBillion.no_split:
            assert any(name == key or name.startswith(f"{key}.") for key in replica.device_map)


def test_per_replica_uses_exactly_so_many() -> None:
    assert groups(planned("4x24GiB", per_replica=2)) == [[0, 1], [2, 3]]
    assert groups(planned("4x24GiB", per_replica=3)) == [[0, 1, 2]]
    assert [device.index for device in planned("4x24GiB", per_replica=3).unused_devices] == [3]
    with pytest.raises(UnavailableError, match="per_replica = 5"):
        planned("4x24GiB", per_replica=5)


def test_replicas_are_no_more_than_asked_for_and_refused_when_fewer_fit() -> None:
    found = planned("4x24GiB", replicas=2)
    assert (groups(found), [device.index for device in found.unused_devices]) == ([[0], [1]], [2, 3])
    with pytest.raises(UnavailableError, match="asks for 3 replicas, but only 2 fit"):
        planned("4x12GiB", replicas=3)


def test_max_memory_counts_as_if_the_cards_were_smaller() -> None:
    assert groups(planned("4x24GiB", max_memory_gib=12.0)) == [[0, 1], [2, 3]]


def test_memory_that_others_use_is_not_counted() -> None:
    busy = Device(index=0, uuid="a", name="card", total_gib=24.0, free_gib=10.0)
    idle = Device(index=1, uuid="b", name="card", total_gib=24.0, free_gib=23.6)
    assert groups(plan(BF16, (busy, idle), dtype="bfloat16", reserve_gib=3.0)) == [[1]]


def test_offload_happens_only_when_it_is_allowed_and_says_so() -> None:
    found = planned("1x12GiB", allow_offload=True, host_gib=64.0)
    assert {"cuda:0", "cpu"} == set(found.replicas[0].device_map.values())
    assert "host memory" in found.reason
    with pytest.raises(UnavailableError):
        planned("1x12GiB", allow_offload=True, host_gib=2.0)


def test_without_a_gpu_there_are_as_many_replicas_as_asked_for_on_the_cpu() -> None:
    assert len(plan(FP32, (), dtype="float32").replicas) == 1
    found = plan(FP32, (), dtype="float32", replicas=3)
    assert len(found.replicas) == 3
    assert (found.replicas[0].device_map, found.replicas[0].devices) == ({"": "cpu"}, ())
    assert found.replicas[0].placement("float32").devices == ("cpu",)


def test_replicas_that_the_hosts_memory_cannot_hold_are_refused() -> None:
    with pytest.raises(UnavailableError, match=r"do not fit into the 24\.0 GiB of host memory"):
        plan(FP32, (), dtype="float32", host_gib=24.0)


def test_a_model_that_cannot_show_its_sizes_gets_one_device_each() -> None:
    found = plan(None, parse_inventory("3x24GiB"), dtype="bfloat16")
    assert groups(found) == [[0], [1], [2]]
    assert found.replicas[0].weights_gib is None


def test_auto_is_bfloat16_on_gpus_that_have_it_and_float32_elsewhere() -> None:
    old = Device(index=0, uuid="old", name="old", total_gib=16.0, free_gib=16.0, has_bfloat16=False)
    assert resolve_dtype("auto", parse_inventory("4x24GiB")) == "bfloat16"
    assert resolve_dtype("auto", (), on_cpu=lambda: False) == "float32"
    assert resolve_dtype("auto", (), on_cpu=lambda: True) == "bfloat16"
    assert resolve_dtype("auto", (*parse_inventory("24GiB"), old), on_cpu=lambda: True) == "float32"
    assert resolve_dtype("float16", ()) == "float16"


def test_a_skeleton_in_another_dtype_is_planned_at_ours() -> None:
    """accelerate counts a tensor at the smaller of its own dtype and the one asked for."""
    half = eight_billion().to(torch.bfloat16)
    assert ModelSizes(half, dtype="float32").weights_gib == pytest.approx(2 * BF16.weights_gib)


class WithLooseBuffer(nn.Module):
    """A buffer directly in a module that gets split, and a parameter of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.parts = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(8))
        self.inner.register_buffer("table", torch.zeros(512))
        self.tied = nn.Linear(1024, 1024, bias=False)
        self.tied.weight = self.inner.parts[0].weight


def test_buffers_of_a_split_module_have_a_device_and_tied_weights_stay_together() -> None:
    with torch.device("meta"):
        model = ModelSizes(WithLooseBuffer(), dtype="float32")
    room = 0.6 * model.weights_gib
    found = split_over(model, [room, room])
    assert found is not None
    assert found.device_map["inner.table"] == "cuda:0"
    assert found.device_map["tied"] == found.device_map["inner.parts.0"]
    assert sum(found.loads_gib) == pytest.approx(model.weights_gib)


def test_a_plan_for_many_cards_takes_moments() -> None:
    began = time.process_time()
    planned("64x24GiB,64x12GiB,32x7GiB")
    with pytest.raises(UnavailableError):
        planned("256x3.6GiB")
    assert time.process_time() - began < 5


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([6.0, 8.0, 11.0, 12.0, 16.0, 24.0, 40.0]), min_size=1, max_size=8),
    reserve=st.sampled_from([0.0, 1.0, 3.0]),
    model=st.sampled_from([BF16, FP32]),
)
def test_no_device_is_overfilled_or_used_twice_whatever_the_machine(
    sizes: list[float], reserve: float, model: ModelSizes
) -> None:
    """And every tensor has exactly one device, and a card that could carry a replica alone always does."""
    devices = parse_inventory(",".join(f"{size:g}" for size in sizes))
    try:
        found = plan(model, devices, dtype=model.dtype, reserve_gib=reserve)
    except UnavailableError:
        assert not any(size - SAFETY_GIB - reserve >= model.weights_gib for size in sizes)
        return
    used = [device.uuid for replica in found.replicas for device in replica.devices]
    unused = [device.uuid for device in found.unused_devices]
    assert sorted(device.uuid for device in devices) == sorted(used + unused)
    alone = sum(size - SAFETY_GIB - reserve >= model.weights_gib for size in sizes)
    assert alone == sum(len(replica.devices) == 1 for replica in found.replicas)
    for replica in found.replicas:
        assert sum(replica.loads_gib) == pytest.approx(sum(model.tensors.values()) / GIB)
        for device, load in zip(replica.devices, replica.loads_gib, strict=True):
            assert load + reserve + SAFETY_GIB <= device.free_gib + 1e-9


def test_a_replica_is_never_split_over_two_machines() -> None:
    """Two small cards here and one there: the pair is found, the third carries nothing."""
    near = parse_inventory("1x10GiB")
    far = [replace(card, uuid=f"far-{card.index}", node="far") for card in parse_inventory("2x10GiB")]
    cards = [Card(device=device, room=10.0) for device in (*near, *far)]
    groups = gather(cards, "auto", lambda rooms: sum(rooms) >= 20.0)
    assert [["far-0", "far-1"]] == [[card.device.uuid for card in group] for group in groups]
