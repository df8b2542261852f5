"""What is wrong with one model costs that model its place, and nothing else."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from watcherd.config import Config, Model
from watcherd.errors import ConfigError
from watcherd.service import placing

WRONG = Model(segmenter="semantic", path=Path("/nowhere"))


def test_a_missing_folder_is_the_reason_of_its_own_model() -> None:
    found = placing.placed(Config(models={"a": Model(segmenter="none"), "b": WRONG}), ["a", "b"])
    assert ["a"] == list(found.plans)
    assert "models.b.path = '/nowhere'" in found.refused["b"].message
    assert ConfigError.exit_code == found.refused["b"].exit_code


def test_what_is_wrong_with_the_devices_is_everybodys_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("devices.use = 99: there is no such GPU")

    monkeypatch.setattr(placing.devices, "inventory", refuse)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"])
    assert "no such GPU" in found.refused["default"].message


def test_a_planning_process_that_dies_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise BrokenExecutor("killed")

    monkeypatch.setattr(placing, "_share", die)
    found = placing.placed(Config(model=Model(segmenter="none")), ["default"])
    assert "has died: killed" in found.refused["default"].message


def test_there_is_no_service_only_when_nothing_is_behind_any_model() -> None:
    placing.refuse_all_unknown({"default": WRONG, "a": Model(segmenter="none")})
    with pytest.raises(ConfigError, match=r"^model\.path = '/nowhere'"):
        placing.refuse_all_unknown({"default": WRONG, "a": WRONG})
