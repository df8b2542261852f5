"""What is wrong with one model costs that model its place, and nothing else."""

from __future__ import annotations

import os
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from watcherd.config import Config, Devices, Model
from watcherd.errors import ConfigError
from watcherd.inference.cluster.nodes import Node
from watcherd.inference.machine.devices import Device, parse_inventory
from watcherd.inference.pool.interface import Phase, ReplicaStatus
from watcherd.inference.pool.sharing import Demand, Limits, holds, share_out
from watcherd.service import placing
from watcherd.service.placing import Held, Places, to_come

if TYPE_CHECKING:
    from collections.abc import Sequence

WRONG = Model(segmenter="semantic", path=Path("/nowhere"))


def test_a_missing_folder_is_the_reason_of_its_own_model() -> None:
    found = placing.placed(Config(models={"a": Model(segmenter="none"), "b": WRONG}), ["a", "b"], Held())
    assert ["a"] == list(found.plans)
    assert "models.b.path = '/nowhere'" in found.refused["b"].message
    assert ConfigError.exit_code == found.refused["b"].exit_code


def test_what_is_wrong_with_the_devices_is_everybodys_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("devices.use = 99: there is no such GPU")

    monkeypatch.setattr(placing.devices, "inventory", refuse)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"], Held())
    assert "no such GPU" in found.refused["default"].message


def test_a_planning_process_that_dies_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise BrokenExecutor("killed")

    monkeypatch.setattr(placing, "_share", die)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"], Held())
    assert "has died: killed" in found.refused["default"].message


def test_there_is_no_service_only_when_nothing_is_behind_any_model() -> None:
    placing.refuse_all_unknown({"default": WRONG, "a": Model(segmenter="none")})
    with pytest.raises(ConfigError, match=r"^model\.path = '/nowhere'"):
        placing.refuse_all_unknown({"default": WRONG, "a": WRONG})


@pytest.mark.parametrize(
    ("held", "most", "goes"),
    [
        ({}, 0, [0, 1]),
        ({"planned-0": 0.5}, 0, [1]),
        ({"planned-0": 0.5, "planned-1": 0.5}, 0, []),
        ({"planned-0": 17.0}, 20, [1]),
    ],
)
def test_a_model_that_comes_later_knows_what_the_others_hold(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, float], most: float, goes: list[int]
) -> None:
    """One that does not show its sizes goes on no card that carries another, also when it is tried again by itself."""
    asked: list[list[float]] = []

    def share(_: Any, names: Any, found: list[Device], *, taken: Any, more_host_gib: float = 0.0) -> Any:
        assert 0 == more_host_gib
        asked.append([each.free_gib for each in found])
        demands = [Demand(name=name, sizes=None, dtype="float32", reserve_gib=0.0) for name in names]
        return share_out(demands, found, Limits(max_memory_gib=most), taken)

    monkeypatch.setattr(placing.devices, "inventory", lambda *_, **__: parse_inventory("2x24GiB"))
    monkeypatch.setattr(placing, "share_apart", share)
    config = Config(model=Model(segmenter="none"), devices=Devices(max_memory_gib=most))
    found = placing.placed(config, ["default"], Held(promised=held))
    replicas = found.plans["default"].replicas if goes else ()
    assert goes == [device.index for replica in replicas for device in replica.devices]
    assert bool(goes) == bool(placing.when_free(config, "default", {}, Held(promised=held)))
    assert [[20.0 - held.get("planned-0", 0.0), 20.0] if most else [24.0, 24.0]] * 2 == asked


def replica(phase: Phase, *, pid: int = 7, device: str = "planned-0") -> ReplicaStatus:
    return ReplicaStatus(number=0, phase=phase, devices=(device,), pid=pid)


@pytest.mark.parametrize(
    ("phase", "measured", "left"),
    [
        (Phase.STARTING, None, 16.0),  # it has not begun to take anything
        (Phase.STARTING, 6.0, 10.0),
        (Phase.IDLE, 12.0, 4.0),  # what a large batch will need
        (Phase.BUSY, 18.0, 0.0),
        (Phase.IDLE, None, 0.0),  # the driver does not show the processes of this container
        (Phase.DOWN, None, 16.0),  # it will be back
        (Phase.STOPPED, None, 0.0),
    ],
)
def test_what_a_model_was_promised_and_has_not_taken_yet_is_still_to_come(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, measured: float | None, left: float
) -> None:
    mib = None if measured is None else measured * 1024
    monkeypatch.setattr(placing.devices, "process_mib", lambda _device, _pid: mib)
    assert {"planned-0": left, "planned-1": 4.0} == to_come({"planned-0": 16.0, "planned-1": 4.0}, [replica(phase)])


def test_of_the_hosts_memory_the_kernel_says_what_a_process_has_taken() -> None:
    (left,) = to_come({"": 1000.0}, [replica(Phase.IDLE, pid=os.getpid(), device="cpu")]).values()
    assert 990 < left < 1000


def test_memory_that_another_model_was_promised_is_not_given_away_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one model is loaded the driver counts what it will need as free."""
    asked: list[float] = []

    def share(_config: Any, _names: Any, found: Sequence[Device], **_: Any) -> Any:
        asked.append(found[0].free_gib)
        return share_out([Demand(name="default", sizes=None, dtype="float32", reserve_gib=0.0)], found, Limits())

    monkeypatch.setattr(placing.devices, "inventory", lambda *_, **__: parse_inventory("1x24GiB"))
    monkeypatch.setattr(placing, "share_apart", share)
    config, loading = Config(model=Model(segmenter="none")), Held(to_come={"planned-0": 16.0})
    placing.placed(config, ["default"], loading)
    placing.when_free(config, "default", {"planned-0": 3.0}, loading)
    assert [8.0, 11.0] == asked


def test_host_memory_that_another_model_was_promised_is_not_given_away_either(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def share(*_: Any, more_host_gib: float, **__: Any) -> Any:
        asked.append(more_host_gib)
        return share_out([Demand(name="default", sizes=None, dtype="float32", reserve_gib=0.0)], (), Limits())

    monkeypatch.setattr(placing.devices, "inventory", lambda *_, **__: ())
    monkeypatch.setattr(placing, "share_apart", share)
    config = Config(model=Model(segmenter="semantic", path=Path("/nowhere")))
    monkeypatch.setattr(placing, "refuse_unknown", lambda _: None)
    loading = Held(to_come={"": 5.0})
    placing.placed(config, ["default"], loading)
    placing.when_free(config, "default", {"": 2.0}, loading)
    assert [-5.0, -3.0] == asked


@pytest.mark.parametrize(("held", "free"), [(Held(), True), (Held(to_come={"planned-1": 20.0}), False)])
def test_what_a_plan_takes_is_free_or_not(monkeypatch: pytest.MonkeyPatch, held: Held, free: bool) -> None:
    """Of its own devices alone: another may be full."""
    monkeypatch.setattr(placing.devices, "inventory", lambda *_, **__: parse_inventory("24GiB,24GiB"))
    demand = Demand(name="default", sizes=None, dtype="float32", reserve_gib=6.0)
    plan = share_out([demand], parse_inventory("24GiB,24GiB")[1:]).plans["default"]
    assert free == placing.is_free(Config(), plan, held)
    assert placing.is_free(Config(), plan, Held(to_come={"planned-0": 24.0}))


# ------------------------------------------------------------------------------------------------------- other machines


def machine(name: str, cards: str = "", free_gib: float = 8.0) -> Node:
    found = parse_inventory(cards) if cards else ()
    named = tuple(replace(card, uuid=f"{name}-{card.index}") for card in found)
    return Node(name=name, address="", born="1", cards=named, cpu=not cards, host_free_gib=free_gib)


def shared_here(monkeypatch: pytest.MonkeyPatch, here: str = "") -> None:
    def share(config: Config, names: Any, found: Sequence[Device], *, taken: Any, **_: Any) -> Any:
        demands = [Demand(name=name, sizes=None, dtype="float32", reserve_gib=0.0) for name in names]
        return share_out(demands, found, Limits(replicas=config.devices.replicas), taken)

    monkeypatch.setattr(placing.devices, "inventory", lambda *_, **__: parse_inventory(here) if here else ())
    monkeypatch.setattr(placing, "share_apart", share)


@pytest.mark.parametrize(("most", "count"), [("auto", 4), (3, 3), (9, 4)])
def test_models_go_on_the_cards_of_all_machines(monkeypatch: pytest.MonkeyPatch, most: Any, count: int) -> None:
    """As many replicas as the configuration allows, and fewer while machines are away."""
    shared_here(monkeypatch, "1x24GiB")
    places = Places(nodes=(machine("one", "2x24GiB"), machine("two", "1x24GiB"), machine("idle")))
    config = Config(model=Model(segmenter="none"), devices=Devices(replicas=most))
    plan = placing.placed(config, ["default"], Held(), places).plans["default"]
    assert ["", "one", "one", "two"][:count] == [replica.node for replica in plan.replicas]


def test_without_any_card_each_machine_computes_on_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    shared_here(monkeypatch)
    places = Places(nodes=(machine("one"), machine("two")))
    config = Config(model=Model(segmenter="none"))
    plan = placing.placed(config, ["default"], Held(), places).plans["default"]
    assert ["", "one", "two"] == [replica.node for replica in plan.replicas]
    far = placing.placed(config, ["default"], Held(), replace(places, local=False)).plans["default"]
    assert ["one", "two"] == [replica.node for replica in far.replicas]
    assert {"": 0.0, "host of one": 0.0, "host of two": 0.0} == holds(plan)


def test_a_model_that_no_machine_has_the_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shared_here(monkeypatch)
    places = Places(local=False, nodes=(machine("one", free_gib=-1.0),))
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"], Held(), places)
    assert {} == found.plans
    assert found.refused["default"].for_room


def test_what_carries_something_is_not_unused() -> None:
    places = Places(nodes=(machine("one", "2x24GiB"), machine("two", "1x24GiB"), machine("three"), machine("four")))
    left = placing.unused(places, {"one-0": 1.0, "two-0": 1.0, "host of three": 0.0})
    assert [("one", ["one-1"]), ("four", [])] == [
        (node.name, [card.uuid for card in node.cards]) for node in left.nodes
    ]
    assert not left.local
