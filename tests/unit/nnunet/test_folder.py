"""A results folder is read by its names, and what cannot be followed is refused with its name."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from tests.nnunet_folder import PLANS, configuration, make
from watcherd.config import Model, Nnunet
from watcherd.errors import ConfigError, UnavailableError, WatcherdError
from watcherd.inference import segmenters
from watcherd.inference.segmenters.nnunet import folder as nnunet
from watcherd.outputs import NNUNET

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, **setting: Any) -> nnunet.Results:
    return nnunet.read(Model(segmenter="nnunet", path=path, nnunet=Nnunet(**setting)))


def chosen(path: Path, name: str = "3d_fullres", **changes: Any) -> nnunet.Configuration:
    """A configuration that differs in this."""
    plans = {"configurations": {name: configuration(**changes)}}
    return nnunet.configuration(read(make(path, plans=plans)), name)


def test_what_a_folder_says(tmp_path: Path) -> None:
    found = read(make(tmp_path, folds=("1", "0", "all", "10")))
    assert ("0", "1", "10") == found.folds
    assert ("CT",) == found.channels
    assert ("shell", "core") == found.labels.names
    assert "SimpleITKIO" == found.reader
    assert tmp_path / "fold_10" / "checkpoint_final.pth" == found.checkpoints[2]
    full = nnunet.configuration(found, "3d_fullres")
    assert ((8, 24, 24), (2.5, 0.8, 0.8), (0, 1, 2), 4) == (full.patch, full.spacing, full.forward, full.features)
    assert full.is_3d
    assert not nnunet.configuration(found, "2d").is_3d


@pytest.mark.parametrize(
    ("folds", "wanted", "expected"),
    [
        (("0", "1"), (1,), ("1",)),
        (("0", "all"), ("all",), ("all",)),
        (("0", "1"), (1, 0), ("1", "0")),
    ],
)
def test_folds_that_are_asked_for(
    tmp_path: Path, folds: tuple[str, ...], wanted: tuple[Any, ...], expected: tuple[str, ...]
) -> None:
    assert expected == read(make(tmp_path, folds=folds), folds=wanted).folds


@pytest.mark.parametrize(
    ("folds", "setting", "said"),
    [
        (("0",), {"folds": (0, 3)}, "no checkpoint_final.pth in fold_3"),
        (("all",), {}, 'folds = ["all"]'),
        ((), {}, "no numbered fold"),
        (("0",), {"checkpoint": "best"}, "checkpoint_best.pth"),
    ],
)
def test_folds_that_are_not_there(tmp_path: Path, folds: tuple[str, ...], setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(make(tmp_path, folds=folds), **setting)
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("name", ["dataset.json", "plans.json"])
def test_a_folder_that_lacks_a_file_is_none_of_nnunets(tmp_path: Path, name: str) -> None:
    """Where the folder above is given, the one that is meant is named."""
    make(tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(ConfigError, match="is no results folder") as caught:
        read(tmp_path)
    assert "Did you mean its folder nnUNetTrainer__nnUNetPlans__2d?" in caught.value.hint
    inner = make(tmp_path / "other")
    (inner / name).unlink()
    with pytest.raises(ConfigError, match=f"has no {name}"):
        read(inner)


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (make(tmp_path) / "plans.json").write_text("{")
    with pytest.raises(UnavailableError, match=r"plans\.json cannot be read"):
        read(tmp_path)
    (tmp_path / "plans.json").write_text("[]")
    with pytest.raises(UnavailableError, match="holds no JSON object"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        ({"image_reader_writer": "NibabelIOWithReorient"}, "'NibabelIOWithReorient' as image_reader_writer"),
        ({"image_reader_writer": "os.system"}, "'os.system' as image_reader_writer"),
        ({"label_manager": "Mine"}, "'Mine' as label_manager"),
    ],
)
def test_names_in_plans_that_are_not_followed(tmp_path: Path, plans: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(make(tmp_path, plans=plans))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade"),
        ({"preprocessor_name": "Mine"}, "'Mine' as preprocessor_name"),
        ({"normalization_schemes": ["Mine"]}, "'Mine' as normalization_schemes"),
        ({"normalization_schemes": ["CTNormalization"] * 2}, "2 schemes for 1 channels"),
        ({"resampling_fn_data": "posix.system"}, "'posix.system' as resampling_fn_data"),
        ({"resampling_fn_probabilities": "mine"}, "'mine' as resampling_fn_probabilities"),
        ({"patch_size": [8, 24]}, "do not go together"),
        ({"patch_size": "none"}, "no whole configuration"),
    ],
)
def test_a_configuration_that_is_not_followed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen(tmp_path, **changes)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("network_class_name", "os.system", "'os.system' as network_class_name"),
        ("network_class_name", "dynamic_network_architectures.architectures.primus.Primus", "as network_class_name"),
        ("conv_op", "subprocess.Popen", "'subprocess.Popen' as conv_op"),
        ("norm_op", "torch.hub.load", "'torch.hub.load' as norm_op"),
        ("nonlin", "torch.nn.modules.conv.torch.hub.load", "as nonlin"),
    ],
)
def test_what_a_network_is_made_of_is_nnunets_own_or_torchs(tmp_path: Path, key: str, value: str, said: str) -> None:
    """nnU-Net would import whatever is named."""
    architecture = configuration()["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = value
    with pytest.raises(ConfigError, match=said):
        chosen(tmp_path, architecture=architecture)


def test_a_configuration_that_is_missing_or_inherits_in_a_circle(tmp_path: Path) -> None:
    found = read(make(tmp_path))
    with pytest.raises(ConfigError, match="no whole configuration '3d_lowres'"):
        nnunet.configuration(found, "3d_lowres")
    plans = {"configurations": {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}}
    with pytest.raises(ConfigError, match="inherit in a circle"):
        nnunet.configuration(read(make(tmp_path, plans=plans)), "a")


def test_what_is_inherited_counts(tmp_path: Path) -> None:
    several = PLANS["configurations"] | {"3d_lowres": {"inherits_from": "3d_fullres", "spacing": [5, 1.6, 1.6]}}
    found = nnunet.configuration(read(make(tmp_path, plans={"configurations": several})), "3d_lowres")
    assert ((5, 1.6, 1.6), (8, 24, 24)) == (found.spacing, found.patch)


def test_plans_before_2_2_have_their_network_in_other_words(tmp_path: Path) -> None:
    old = configuration(UNet_class_name="PlainConvUNet", UNet_base_num_features=32)
    del old["architecture"]
    found = read(make(tmp_path, plans={"configurations": {"3d_fullres": old}}))
    assert 32 == nnunet.configuration(found, "3d_fullres").features


def test_colours_are_one_file_and_other_channels_a_file_each(tmp_path: Path) -> None:
    three = {"channel_names": {"0": "R", "1": "G", "2": "B"}}
    assert 3 == read(make(tmp_path, dataset=three)).files_per_case
    assert 1 == read(make(tmp_path, dataset=three, plans={"image_reader_writer": "NaturalImage2DIO"})).files_per_case


def test_old_data_sets_call_channels_modality(tmp_path: Path) -> None:
    (make(tmp_path) / "dataset.json").write_text('{"modality": {"0": "CT"}, "labels": {"background": 0, "a": 1}}')
    assert ("CT",) == read(tmp_path).channels


@pytest.mark.parametrize("path", [None, "gone"])
def test_the_missing_folder_is_named_before_the_missing_extra(
    tmp_path: Path, path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the check before the start, and by whoever makes the segmenter."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    model = Model(segmenter="nnunet", path=tmp_path / path if path else None)
    for check in (segmenters.refuse_unknown, segmenters.create):
        with pytest.raises(ConfigError, match=r"model\.path"):
            check(model)


def test_the_missing_extra_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which installs by constraints only."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    model = Model(segmenter="nnunet", path=make(tmp_path))
    for check in (segmenters.refuse_unknown, segmenters.create):
        with pytest.raises(WatcherdError, match="needs nnU-Net v2") as caught:
            check(model)
        assert NNUNET.command in caught.value.hint
        assert "--constraint constraints.txt" in caught.value.hint
