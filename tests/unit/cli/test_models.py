"""The commands that look at models and make folders of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import sa2va_training as training
from tests.sa2va_tiny import TRUNK
from watcherd.cli.app import run
from watcherd.config import Model, build
from watcherd.inference.segmenters import create
from watcherd.status.doctor import _model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sa2va_training import Training


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    training.small_sam2(monkeypatch, TRUNK)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Training:
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        return training.write_training(tmp_path_factory.mktemp("parts"))


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_checkpoint_is_exported_and_its_folder_inspected(
    parts: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is what the segmenter then loads; a second export under the name is refused (78)."""
    ask = ("export-model", parts.checkpoint, "--base", parts.base, "--sam2", parts.sam2, "--out", tmp_path / "out")
    code, out, err = said(capsys, *ask, "--json")
    assert (0, "") == (code, err)
    assert training.digest(tmp_path / "out")[0] == json.loads(out)["tensors"]
    assert 78 == said(capsys, *ask)[0]
    code, out, _ = said(capsys, "inspect-model", tmp_path / "out", "--json")
    found = json.loads(out)
    assert (0, "a Sa2VA model folder", None) == (code, found["what"], found["refused"])
    assert create(Model(segmenter="sa2va", path=tmp_path / "out")).info().revision == found["revision"]


def test_inspecting_says_the_revision_of_the_configured_model(
    parts: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start's own; relative paths begin at the configuration."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[model]\nsegmenter = "sa2va"\npath = "{parts.base}"\n'
        f'[model.sa2va]\ncheckpoint = "{parts.checkpoint}"\nsam2 = "{parts.sam2}"\n'
    )
    code, out, _ = said(capsys, "inspect-model", "--config", config, "--json")
    revision = create(Model(segmenter="sa2va", path=parts.base, sa2va=parts.settings)).info().revision
    assert (0, revision) == (code, json.loads(out)["revision"])
    code, out, _ = said(capsys, "inspect-model", parts.checkpoint)
    assert 0 == code
    assert "iteration         20" in out
    assert 64 == said(capsys, "inspect-model", tmp_path / "gone")[0]
    assert 64 == said(capsys, "inspect-model", parts.base, "--sam2", parts.sam2)[0]


def test_paths_of_the_checkpoint_begin_where_the_configuration_lies(tmp_path: Path) -> None:
    sa2va: dict[str, Any] = {"checkpoint": "iter_1.pth", "sam2": "../sam2.pt"}
    model = build({"model": {"path": "base", "sa2va": sa2va}}, base=tmp_path).model
    assert (tmp_path / "iter_1.pth", tmp_path.parent / "sam2.pt") == (model.sa2va.checkpoint, model.sa2va.sam2)
    empty = build({"model": {"sa2va": {"checkpoint": "", "sam2": ""}}}, base=tmp_path).model.sa2va
    assert (None, None) == (empty.checkpoint, empty.sam2)


def test_a_doubtful_base_is_warned_of_by_doctor_and_the_commands(
    parts: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "InternVL2_5-8B"
    other.symlink_to(parts.base)
    _, out, err = said(capsys, "inspect-model", parts.checkpoint, "--base", other, "--sam2", parts.sam2, "--json")
    assert "warning: " not in err
    warning = json.loads(out)["warning"]
    assert "its base here is called InternVL2_5-8B" in warning
    ask = ("export-model", parts.checkpoint, "--base", other, "--sam2", parts.sam2, "--out", tmp_path / "out")
    assert f"warning: {warning}" in said(capsys, *ask)[2]
    for base, levels in ((parts.base, ["ok"]), (other, ["ok", "warning"])):
        values = {"segmenter": "sa2va", "path": str(base), "sa2va": parts.settings.model_dump()}
        findings = list(_model(build({"model": values}, base=tmp_path)))
        assert levels == [finding.level for finding in findings]
    assert warning == findings[-1].text
