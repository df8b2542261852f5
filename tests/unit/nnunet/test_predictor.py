"""Checkpoints are read safely, their trainers known, and a stand-in for nnU-Net is given what it would be given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.nnunet_folder import checkpoint, make
from watcherd.config import Model
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference.base import Placement, Volume
from watcherd.inference.segmenters.nnunet import folder as nnunet
from watcherd.inference.segmenters.nnunet import predictor as engine
from watcherd.inference.segmenters.nnunet import segmenter as whole
from watcherd.inference.segmenters.nnunet.segmenter import NnunetSegmenter
from watcherd.job import Options

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def head(folder: Path, **saved: Any) -> engine.Head:
    return engine.head(nnunet.read(Model(segmenter="nnunet", path=make(folder, saved=saved))))


@pytest.mark.parametrize(("axes", "expected"), [((0, 1, 2), (0, 1, 2)), ([1], (1,)), (None, None)])
def test_a_checkpoint_says_configuration_trainer_and_mirroring(
    tmp_path: Path, axes: Any, expected: tuple[int, ...] | None
) -> None:
    """With numbers of numpy and a device in it, none of which is made."""
    found = head(tmp_path, inference_allowed_mirroring_axes=axes)
    assert ("nnUNetTrainer", "3d_fullres", expected) == (found.trainer, found.configuration.name, found.mirroring)


def test_old_checkpoints_say_nothing_of_mirroring(tmp_path: Path) -> None:
    make(tmp_path)
    old = checkpoint()
    del old["inference_allowed_mirroring_axes"]
    torch.save(old, tmp_path / "fold_0" / "checkpoint_final.pth")
    assert engine.head(nnunet.read(Model(segmenter="nnunet", path=tmp_path))).mirroring is None


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerBN", "nnUNet_Primus_M_Trainer", "MyTrainer", "nnUNetTrainerMine", None, 3]
)
def test_a_trainer_that_is_not_known_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(UnavailableError, match=f"was trained by {name!r}"):
        head(tmp_path, trainer_name=name)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerNoMirroring", "nnUNetTrainer_250epochs"])
def test_trainers_that_leave_the_network_alone_are_known(tmp_path: Path, name: str) -> None:
    assert name == head(tmp_path, trainer_name=name).trainer


class Planted:
    """What a pickle would call."""

    def __reduce__(self) -> Any:
        return print, ("this must not be printed",)


def test_a_checkpoint_that_names_anything_else_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnavailableError, match=r"names what weights do not need, and is not read: builtins\.print"):
        head(tmp_path, logging=Planted())
    assert "" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"init_args": {}}, "does not say how it was trained"),
        ({"inference_allowed_mirroring_axes": 3}, "does not say how it was trained"),
    ],
)
def test_what_is_no_checkpoint_of_nnunets(tmp_path: Path, saved: dict[str, Any], said: str) -> None:
    with pytest.raises(UnavailableError, match=said):
        head(tmp_path, **saved)


def test_a_second_stage_is_known_from_the_checkpoint(tmp_path: Path) -> None:
    from tests.nnunet_folder import configuration

    plans = {"configurations": {"3d_cascade_fullres": configuration(previous_stage="3d_lowres")}}
    make(tmp_path, plans=plans, saved={"name": "3d_cascade_fullres"})
    with pytest.raises(ConfigError, match="second stage of a cascade"):
        engine.head(nnunet.read(Model(segmenter="nnunet", path=tmp_path)))


def test_weights_named_twice_stay_one(tmp_path: Path) -> None:
    """nnU-Net names each layer several times; and what is read is a copy, not a window onto the file."""
    shared = torch.arange(6.0)
    torch.save({"network_weights": {"a": shared, "b": shared, "c": torch.ones(2)}}, tmp_path / "a.pth")
    content = engine._opened(tmp_path / "a.pth")
    found = engine._weights(content, tmp_path / "a.pth")
    assert found["a"] is found["b"]
    assert found["a"].untyped_storage().data_ptr() != content["network_weights"]["a"].untyped_storage().data_ptr()
    with pytest.raises(UnavailableError, match="holds no network_weights"):
        engine._weights({}, tmp_path / "a.pth")


def test_networks_that_have_moved_are_named_where_they_are(tmp_path: Path) -> None:
    """nnU-Net would look for them by importing everything, the parts that need torchvision too."""
    from tests.nnunet_folder import configuration

    moved = configuration()
    moved["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
    )
    results = nnunet.read(
        Model(segmenter="nnunet", path=make(tmp_path, plans={"configurations": {"3d_fullres": moved}}))
    )
    found = engine._plans(results)["configurations"]["3d_fullres"]["architecture"]["network_class_name"]
    assert "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet" == found


class StandIn:
    """In place of `engine.Predictor`: the labels are 1 above 10 and 2 above 20."""

    def __init__(self, results: Any, device: str, *, step: float, mark: Any) -> None:
        self.device, self.step = device, step
        self.given: list[tuple[tuple[int, ...], Any, bool]] = []
        self.left = False
        mark("loading fold 0", 0.0)

    def predict(
        self, array: NDArray[np.float32], spacing: Any, *, mirroring: bool, probabilities: bool, mark: Any
    ) -> Any:
        self.given.append((array.shape, spacing, mirroring))
        labels = (array[0] > 10).astype(np.uint8) + (array[0] > 20).astype(np.uint8)
        maps = np.stack([labels == value for value in range(3)]).astype(np.float32)
        return labels, maps if probabilities else None

    def has_left_threads(self) -> bool:
        return self.left


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nnunetv2 is installed."""
    monkeypatch.setattr(nnunet, "refuse_missing_extra", lambda: None)
    monkeypatch.setattr(whole, "version", lambda _: "2.8.1")
    monkeypatch.setattr(engine, "Predictor", StandIn)
    monkeypatch.setattr(engine, "skeleton", lambda *_: torch.nn.Linear(2, 2, device="meta"))


def loaded(folder: Path, **changes: Any) -> tuple[NnunetSegmenter, StandIn]:
    segmenter = NnunetSegmenter(Model(segmenter="nnunet", path=make(folder, **changes)))
    segmenter.load(Placement(), lambda *_: None)
    assert isinstance(segmenter._predictor, StandIn)
    return segmenter, segmenter._predictor


def scan() -> Volume:
    values = np.arange(6 * 20 * 18, dtype=np.int16).reshape(6, 20, 18) % 30
    return Volume(channels=(values,), options=Options(), spacing_mm=(2.5, 0.8, 0.8))


@pytest.mark.usefixtures("installed")
def test_a_volume_is_answered_with_labels_names_and_the_likeliest_finding(tmp_path: Path) -> None:
    segmenter, stand_in = loaded(tmp_path)
    quiet = segmenter.predict_volume(scan(), lambda *_: None)
    assert ("shell", "core") == quiet.labels
    assert quiet.probability is None
    assert {0, 1, 2} == set(np.unique(quiet.mask))
    asked = replace(scan(), options=Options(outputs=("probability",), tta=True))
    found = segmenter.predict_volume(asked, lambda *_: None)
    assert found.probability is not None
    assert np.array_equal(found.mask > 0, found.probability == 1)
    assert [((1, 6, 20, 18), (2.5, 0.8, 0.8), flips) for flips in (False, True)] == stand_in.given


@pytest.mark.usefixtures("installed")
def test_regions_have_no_map_for_the_background(tmp_path: Path) -> None:
    dataset = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    segmenter, _ = loaded(tmp_path, dataset=dataset)
    maps = np.array([[[[0.2]]], [[[0.7]]]], np.float32)
    assert 0.7 == pytest.approx(float(segmenter._likeliest(maps)[0, 0, 0]))


@pytest.mark.usefixtures("installed")
def test_the_probe_is_a_tile_in_the_order_of_the_file(tmp_path: Path) -> None:
    plans = {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    segmenter, _ = loaded(tmp_path, plans=plans)
    probe = segmenter.probe_volume()
    assert (24, 24, 8) == probe.shape
    assert (0.8, 0.8, 2.5) == probe.spacing_mm
    assert np.isfinite(probe.channels[0]).all()
    assert np.array_equal(probe.channels[0], segmenter.probe_volume().channels[0])


@pytest.mark.usefixtures("installed")
def test_it_asks_for_another_process_when_a_thread_was_left(tmp_path: Path) -> None:
    segmenter, stand_in = loaded(tmp_path)
    assert "" == segmenter.worn()
    stand_in.left = True
    assert "left there" in segmenter.worn()


@pytest.mark.usefixtures("installed")
def test_the_revision_changes_with_whatever_changes_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, plans, folds, settings and the version of nnU-Net."""
    from watcherd.config import Nnunet

    def revision(**setting: Any) -> str:
        return NnunetSegmenter(Model(segmenter="nnunet", path=tmp_path, nnunet=Nnunet(**setting))).info().revision

    make(tmp_path, folds=("0", "1"))
    found = {revision(), revision(folds=(0,)), revision(step=0.25)}
    monkeypatch.setattr(whole, "version", lambda _: "2.8.2")
    found.add(revision())
    torch.save(checkpoint(network_weights={"a": torch.ones(5)}), tmp_path / "fold_1" / "checkpoint_final.pth")
    found.add(revision())
    make(tmp_path, plans={"dataset_name": "other"}, folds=())
    found.add(revision())
    assert 6 == len(found)
    assert revision() == revision()


@pytest.mark.usefixtures("installed")
def test_it_runs_in_its_own_dtype_on_one_device(tmp_path: Path) -> None:
    segmenter, _ = loaded(tmp_path)
    assert "float32" == segmenter.own_dtype() == segmenter.info().dtype
    with pytest.raises(UnavailableError, match="runs on one device, and was given 2"):
        segmenter.load(Placement(devices=("cuda:0", "cuda:1")), lambda *_: None)
    with pytest.raises(ConfigError, match='dtype = "bfloat16"'):
        NnunetSegmenter(Model(segmenter="nnunet", path=tmp_path, dtype="bfloat16"))
    assert 0 < segmenter.reserve_gib(1) < segmenter.reserve_gib(4)


@pytest.mark.usefixtures("installed")
def test_frames_are_planes(tmp_path: Path) -> None:
    """Which a network of volumes refuses."""
    from watcherd.errors import InputError
    from watcherd.inference.base import Frame

    frame = Frame(pixels=np.full((20, 18), 15, np.uint8), options=Options())
    segmenter, _ = loaded(tmp_path)
    with pytest.raises(InputError, match="single plane"):
        segmenter.predict([frame])
    flat, _ = loaded(tmp_path, saved={"name": "2d"})
    [found] = flat.predict([frame])
    assert found.mask is not None
    assert (20, 18) == found.mask.shape
