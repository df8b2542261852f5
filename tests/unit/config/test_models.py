"""Several models in the configuration: their tables, their names, and which scans are whose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from watcherd import config
from watcherd.config import as_named, speaking_of
from watcherd.config.reload import merged
from watcherd.errors import ConfigError
from watcherd.inbox.sidecars import Asked

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.config import Config

RETINA = {"segmenter": "vessel", "threshold": 0.3}
PROFILE = {"folder": "retina", "model": "retina"}


def build(tmp_path: Path, **values: Any) -> Config:
    return config.build(values, base=tmp_path)


@pytest.fixture
def both(tmp_path: Path) -> Config:
    sa2va = {"segmenter": "sa2va", "path": "sa2va", "sa2va": {"prompt": "Where?", "checkpoint": "iter_1.pth"}}
    profiles = {"retina": PROFILE, "eyes": {"folder": "eyes", "model": "sa2va", "sidecar_models": ["retina"]}}
    return build(tmp_path, models={"retina": RETINA, "sa2va": sa2va}, profiles=profiles)


def test_a_scan_is_its_profiles_models_and_else_the_default_ones(both: Config) -> None:
    found = [both.options_for(f"{folder}/a.png") for folder in ("retina", "eyes", "others")]
    assert ["retina", "sa2va", "default"] == [each.model for each in found]
    assert [0.3, 0.5, 0.5] == [each.threshold for each in found]
    assert ["", "Where?", ""] == [each.prompt for each in found]


def test_several_models_of_a_profile_each_have_their_own_options(tmp_path: Path) -> None:
    """Their own threshold and prompt, unless the profile says it for all; the first one's name goes without one."""
    sam3 = {"segmenter": "sam3", "path": "sam3", "sam3": {"prompt": "vessel"}}
    profiles = {
        "both": {"folder": "both", "models": ["retina", "sam3"]},
        "same": {"folder": "same", "models": ["sam3", "default"], "threshold": 0.9, "sidecar_models": ["retina"]},
    }
    found = build(tmp_path, models={"retina": RETINA, "sam3": sam3}, profiles=profiles)
    asked = {
        folder: [found.options_for(f"{folder}/a.png", model=name) for name in found.models_for(f"{folder}/a.png")]
        for folder in ("both", "same", "others")
    }
    assert [("retina", 0.3, ""), ("sam3", 0.5, "vessel")] == [
        (each.model, each.threshold, each.prompt) for each in asked["both"]
    ]
    assert [("sam3", 0.9), ("default", 0.9)] == [(each.model, each.threshold) for each in asked["same"]]
    assert ["default"] == [each.model for each in asked["others"]]
    assert "retina" == found.options_for("both/a.png").model
    assert {"sam3", "default"} == found.models_beside


def test_paths_of_every_model_are_relative_to_the_file(both: Config, tmp_path: Path) -> None:
    assert tmp_path / "sa2va" == both.models["sa2va"].path
    assert tmp_path / "iter_1.pth" == both.models["sa2va"].sa2va.checkpoint


def test_a_sidecar_names_one_of_its_profiles_models_and_no_other(both: Config) -> None:
    def frozen(folder: str, model: str) -> Any:
        source, asked = f"{folder}/a.png", Asked(values={"model": model})
        allowed = (both.options_for(source).model, *both.sidecar_models(source))
        return asked.applied_to(both.options_for(source, model=model), allowed)

    assert ("retina", 0.3, "") == (
        (found := frozen("eyes", "retina")).model,
        found.threshold,
        found.refused,
    )
    assert "A sidecar says model = 'default': allowed here: sa2va, retina." == frozen("eyes", "default").refused
    assert "A sidecar says model = 'sa2va': allowed here: retina." == frozen("retina", "sa2va").refused


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profiles": {"a": {"folder": "x", "model": "retna"}}}, ["profiles.a.model = 'retna'", "default, retina"]),
        ({"profiles": {"a": {"folder": "x", "sidecar_models": ["b"]}}}, ["profiles.a.sidecar_models = 'b'"]),
        (
            {"profiles": {"a": {"folder": "x", "model": "retina", "models": ["retina", "default"]}}},
            ["profiles.a has model = 'retina' and models = ['retina', 'default']", "leave the other out"],
        ),
        ({"profiles": {"a": {"folder": "x", "models": []}}}, ["profiles.a.models = []", "no model would compute"]),
        (
            {"profiles": {"a": {"folder": "x", "models": ["retina", "b"]}}},
            ["profiles.a.models = 'b'", "default, retina"],
        ),
        (
            {"profiles": {"a": {"folder": "x", "models": ["retina", "default", "retina"]}}},
            ["profiles.a.models names 'retina' twice", "once"],
        ),
        ({"models": {"default": {}}}, ["models.default", "the model of the table [model]"]),
        ({"models": {"Default": {}}}, ["models.Default", "the model of the table [model]"]),
        ({"models": {"new-eyes": {}, "New_Eyes": {}}}, ["models.New_Eyes", "models.new-eyes", "- as _"]),
        ({"models": {"a/b": {}}}, ["models.a/b", "letters, digits"]),
        ({"models": {"a": {"segmentr": "x"}}}, ["models.a.segmentr", "there is no such key", "segmenter"]),
        ({"models": {"a": {"share": 0}}}, ["models.a.share = 0", "greater than 0"]),
        ({"models": {"a": {"sa2va": {"decode": "x"}}}}, ["models.a.sa2va.decode = 'x'", "verify"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.build({"models": {"retina": RETINA}} | values, base=tmp_path)
    for words in said:
        assert words in str(caught.value)


def test_the_environment_overrides_a_key_of_a_named_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables know neither capitals nor dashes; the file's name counts."""
    monkeypatch.setenv("WATCHERD_MODELS__NEW_EYES__THRESHOLD", "0.9")
    monkeypatch.setenv("WATCHERD_MODELS__NEW_EYES__SEMANTIC__WINDOW", "64")
    monkeypatch.setenv("WATCHERD_PROFILES__A__MODEL", "retina")
    monkeypatch.setenv("WATCHERD_PROFILES__B__MODELS", '["retina", "New-Eyes"]')
    models = {"New-Eyes": {"threshold": 0.1, "share": 2}, "retina": RETINA}
    found = build(tmp_path, models=models, profiles={"a": {"folder": "x"}, "b": {"folder": "y"}})
    assert ["New-Eyes", "retina"] == list(found.models)
    assert (0.9, 2, 64) == (
        found.models["New-Eyes"].threshold,
        found.models["New-Eyes"].share,
        found.models["New-Eyes"].semantic.window,
    )
    assert "retina" == found.options_for("x/a.png").model
    assert ("retina", "New-Eyes") == found.models_for("y/a.png")


def test_what_is_said_of_the_model_is_said_of_the_one_that_is_meant() -> None:
    said = "model.path = '/m/model.path' is away; set path in [model] or [model.sa2va], not model.safetensors"
    ours = "models.a.path = '/m/model.path' is away; set path in [models.a] or [models.a.sa2va], not model.safetensors"
    assert (said, ours) == (as_named(said, "default"), as_named(said, "a"))
    with pytest.raises(ConfigError, match=r"models\.a\.dtype") as caught, speaking_of("a"):
        raise ConfigError("model.dtype is wrong", hint="See [model].")
    assert "See [models.a]." == caught.value.hint


def test_a_reload_adds_changes_and_removes_models(both: Config, tmp_path: Path) -> None:
    fresh = build(tmp_path, models={"retina": RETINA | {"dtype": "float16"}, "new": {}}, profiles={"retina": PROFILE})
    applied, later = merged(both, fresh)
    assert (fresh.models, []) == (applied.models, later)
