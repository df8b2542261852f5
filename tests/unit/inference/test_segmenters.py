"""Segmenters by name: built-in ones, and others' through the entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.sa2va_folder import DATA
from tests.unit.inference.fakes import Told
from watcherd.config import Log, Model
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import segmenters
from watcherd.inference.base import Placement, RunSegmenter
from watcherd.inference.messages import ReplicaSpec
from watcherd.inference.replica.process import _Worker

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.inference.base import Segmenter


def told(model: Model) -> Segmenter:
    return Told()


def broken(model: Model) -> Segmenter:
    raise KeyError("weights")


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points that seem to be installed."""
    here = __name__
    installed = [
        EntryPoint("told", f"{here}:told", segmenters.GROUP),
        EntryPoint("broken", f"{here}:broken", segmenters.GROUP),
        EntryPoint("gone", "no_such_package:create", segmenters.GROUP),
        EntryPoint("semantic", f"{here}:told", segmenters.GROUP),
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [entry for entry in installed if entry.group == group and name in (None, entry.name)]

    monkeypatch.setattr(segmenters, "entry_points", entry_points)
    return installed


def test_an_entry_point_gives_a_segmenter(plugged_in: object) -> None:
    assert segmenters.create(Model(segmenter="told")).info().segmenter == "told"


def test_a_built_in_name_cannot_be_taken(plugged_in: object) -> None:
    with pytest.raises(ConfigError, match=r"model\.path is empty"):
        segmenters.create(Model(segmenter="semantic"))


def test_an_unknown_name_is_refused_with_those_that_there_are(plugged_in: object) -> None:
    with pytest.raises(ConfigError) as caught:
        segmenters.create(Model(segmenter="vesels"))
    for name in (*segmenters.BUILT_IN, "told"):
        assert name in caught.value.message


def test_a_name_that_two_packages_claim_is_refused(plugged_in: list[EntryPoint]) -> None:
    plugged_in.append(EntryPoint("told", "other:create", segmenters.GROUP))
    with pytest.raises(ConfigError, match="claimed by several"):
        segmenters.create(Model(segmenter="told"))


@pytest.mark.parametrize(("name", "said"), [("broken", "KeyError"), ("gone", "cannot be imported")])
def test_a_plug_in_that_fails_is_told_from_a_fault_of_ours(plugged_in: object, name: str, said: str) -> None:
    with pytest.raises(UnavailableError, match=said):
        segmenters.create(Model(segmenter=name))


def test_which_follow_runs_is_known_without_loading_any() -> None:
    """`watcherd config check` warns of ``group_frames`` by this list."""
    from watcherd.inference.segmenters.nnunet.segmenter import NnunetSegmenter
    from watcherd.inference.segmenters.sam3.segmenter import Sam3Segmenter
    from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter

    made: dict[str, object] = {
        name: segmenters.create(Model(segmenter=name)) for name in segmenters.BUILT_IN.keys() - segmenters.NEED_FOLDER
    }
    made["sa2va"] = segmenters.create(Model(segmenter="sa2va", path=DATA / "layer-norm"))
    following = {name for name, segmenter in made.items() if isinstance(segmenter, RunSegmenter)}
    assert segmenters.FOLLOW_RUNS == following
    assert not any(hasattr(kind, "predict_run") for kind in (NnunetSegmenter, Sam3Segmenter, SemanticSegmenter))


def test_a_model_whose_files_changed_while_they_were_read_is_refused(tmp_path: Path) -> None:
    """No revision would fit it: neither that of before nor that of after."""
    placement = Placement()
    spec = ReplicaSpec(
        number=0, model=Model(segmenter="fake"), placement=placement, cache=tmp_path, stack=tmp_path / "s", log=Log()
    )
    worker = _Worker(spec, cast("Any", None))
    worker._check_folder("1")
    with pytest.raises(UnavailableError, match="changed while they were loaded"):
        worker._check_folder("0")
