"""A torchvision that does not fit torch is found, with the command that mends it, before transformers fails over it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from watcherd import config
from watcherd.config import Model
from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference import builds, segmenters
from watcherd.status import ground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    builds.misfit.cache_clear()
    yield
    builds.misfit.cache_clear()
    sys.modules.pop("torchvision", None)


def installed(folder: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that is found before any other, here and in new processes."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def found(folder: Path, segmenter: str) -> list[tuple[str, str, str]]:
    (folder / "inbox").mkdir(exist_ok=True)
    settings = config.build({"model": {"segmenter": segmenter, "path": "m"}}, base=folder)
    return [(each.level, each.text, each.todo) for each in ground._torchvision(settings)]


def test_one_that_does_not_fit_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in one of its own, with what it said."""
    installed(tmp_path, BROKEN, monkeypatch)
    for look in (builds.misfit, builds.misfit_apart):
        assert "does not fit the torch that is installed" in look()
        assert "operator torchvision::nms does not exist" in look()


def test_one_that_fits_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "", monkeypatch)
    assert ("", "") == (builds.misfit(), builds.misfit_apart())
    assert [("ok", "it fits torch", "")] == found(tmp_path, "semantic")


def test_none_is_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builds, "is_there", lambda: False)
    assert ("", "") == (builds.misfit(), builds.misfit_apart())
    assert [] == found(tmp_path, "semantic")


@pytest.mark.parametrize("segmenter", ["semantic", "sa2va"])
def test_loading_names_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: str
) -> None:
    installed(tmp_path, BROKEN, monkeypatch)
    with pytest.raises(UnavailableError, match="torchvision does not fit") as caught:
        segmenters.create(Model(segmenter=segmenter, path=tmp_path))
    assert f"{sys.executable} -m pip uninstall --yes torchvision" in caught.value.hint


def test_other_segmenters_do_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net too: it refuses the folder, not torchvision."""
    installed(tmp_path, BROKEN, monkeypatch)
    segmenters.create(Model(segmenter="vesselness"))
    with pytest.raises(WatcherdError, match="results folder"):
        segmenters.create(Model(segmenter="nnunet", path=tmp_path))


@pytest.mark.parametrize(("segmenter", "level"), [("semantic", "error"), ("vessel", "warning")])
def test_doctor_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: str, level: str) -> None:
    """An error where the model needs transformers."""
    installed(tmp_path, BROKEN, monkeypatch)
    [(said, text, todo)] = found(tmp_path, segmenter)
    assert level == said
    assert "semantic and sa2va models cannot be loaded" in text
    assert builds.MEND == todo
