"""What is wrong with one model costs that model its place, and nothing else."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from watcherd.config import Config, Devices, Model
from watcherd.errors import ConfigError
from watcherd.inference.machine.devices import Device, parse_inventory
from watcherd.inference.pool.sharing import Demand, Limits, share_out
from watcherd.service import placing

WRONG = Model(segmenter="semantic", path=Path("/nowhere"))


def test_a_missing_folder_is_the_reason_of_its_own_model() -> None:
    found = placing.placed(Config(models={"a": Model(segmenter="none"), "b": WRONG}), ["a", "b"], {})
    assert ["a"] == list(found.plans)
    assert "models.b.path = '/nowhere'" in found.refused["b"].message
    assert ConfigError.exit_code == found.refused["b"].exit_code


def test_what_is_wrong_with_the_devices_is_everybodys_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("devices.use = 99: there is no such GPU")

    monkeypatch.setattr(placing.devices, "inventory", refuse)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"], {})
    assert "no such GPU" in found.refused["default"].message


def test_a_planning_process_that_dies_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise BrokenExecutor("killed")

    monkeypatch.setattr(placing, "_share", die)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"], {})
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
    found = placing.placed(config, ["default"], held)
    replicas = found.plans["default"].replicas if goes else ()
    assert goes == [device.index for replica in replicas for device in replica.devices]
    assert bool(goes) == placing.fits_when_free(config, "default", {}, held)
    assert [[20.0 - held.get("planned-0", 0.0), 20.0] if most else [24.0, 24.0]] * 2 == asked
