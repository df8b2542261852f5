"""What is wrong with a model folder is said by name, with what to do: owner and mode, a pointer, a page, a cut."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.unit.inference.semantic_folders import build
from watcherd.config import Model
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders, loading
from watcherd.inference.base import Placement
from watcherd.inference.segmenters import semantic, vessel
from watcherd.inference.segmenters.sa2va.config import read
from watcherd.inference.segmenters.vessel.segmenter import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build("segformer", tmp_path_factory.mktemp("models") / "segformer")


@pytest.fixture
def folder(original: Path) -> Iterator[Path]:
    """A folder that another user can reach, as those that pytest makes are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy = shutil.copytree(original, Path(name) / "m")
        for path in copy.iterdir():
            path.chmod(0o644)
        yield copy


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """This process without the rights of root; nothing changes where it has none."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def load(folder: Path) -> None:
    segmenter = semantic.create(Model(segmenter="semantic", path=folder))
    segmenter.load(Placement(), lambda *_: None)


def close(path: Path) -> str:
    """Take the rights away that another user has, or its owner where that is this user; gives the mode in words."""
    mode = 0o600 if os.geteuid() == 0 else 0o000
    path.chmod(mode)
    return f"{mode:04o}"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_file_that_the_services_user_may_not_read_is_named_with_user_and_mode(folder: Path, name: str) -> None:
    """safetensors writes 0600 whatever the umask, and calls a forbidden file missing."""
    mode = close(folder / name)
    with as_somebody_else(), pytest.raises(UnavailableError) as caught:
        load(folder)
    here = folders.user(os.geteuid() or NOBODY)
    owner = f"belongs to {folders.user(os.geteuid())}"
    for words in (str(folder / name), f"by the user {here}", owner, f"mode {mode}"):
        assert words in caught.value.message, words
    assert f"chmod -R a+rX {folder}" in caught.value.hint


def test_a_folder_that_the_services_user_may_not_enter_is_named(folder: Path) -> None:
    folder.chmod(0o700 if os.geteuid() == 0 else 0o000)
    makers: tuple[Any, ...] = (load, read, lambda path: vessel.create(Model(path=path)))
    try:
        for make in makers:
            with as_somebody_else(), pytest.raises(UnavailableError, match=f"{folder} may not be read by the user"):
                make(folder)
    finally:
        folder.chmod(0o755)


def test_modes_tell_what_another_user_may_read(folder: Path) -> None:
    """For root, who may read everything and asks for the service's user."""
    assert list(folders.unreadable(folder, NOBODY)) == []
    (folder / "model.safetensors").chmod(0o600)
    (fault,) = folders.unreadable(folder, NOBODY)
    assert fault.path == folder / "model.safetensors"
    assert f"by the user {folders.user(NOBODY)}" in fault.what
    folder.chmod(0o750)
    (fault,) = folders.unreadable(folder, NOBODY)
    assert fault.path == folder


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
FAULTY = {
    "pointer": (lambda good: LFS, "is a Git LFS pointer of 131 bytes", "git lfs pull"),
    "page": (lambda good: b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page", "login"),
    "cut": (lambda good: good[:-100], "is cut short", "broke off"),
    "cut in its header": (lambda good: good[:100], "is cut short", "broke off"),
    "empty": (lambda good: b"", "is empty", "broke off"),
    "longer": (lambda good: good + b"\0", "is longer than its header says", "save the model anew"),
    "another format": (lambda good: b"PK\x03\x04" + good, "is not a safetensors file", "save the model anew"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_what_is_not_the_weights_is_called_what_it_is(folder: Path, kind: str) -> None:
    """In every segmenter that reads weights, and with advice of its own."""
    change, what, todo = FAULTY[kind]
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UnavailableError, match=f"model.safetensors {what}") as caught:
        load(folder)
    assert todo in caught.value.hint
    with pytest.raises(UnavailableError, match=what):
        loading.load_into(nn.Linear(2, 2), [path], Placement())
    whole = shutil.copytree(PACKAGED, folder / "vessel", ignore=shutil.ignore_patterns("*.py"))
    shutil.copyfile(path, whole / "model.safetensors")
    with pytest.raises(UnavailableError, match=what):
        vessel.create(Model(path=whole)).load(Placement(), lambda *_: None)


def test_a_pickled_file_may_be_a_pointer_too(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(LFS)
    with pytest.raises(UnavailableError, match=r"pytorch_model\.bin is a Git LFS pointer"):
        load(folder)


def test_sound_weights_have_no_fault(folder: Path, tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    for path in (folder / "model.safetensors", tmp_path / "empty.safetensors"):
        assert folders.fault_of(path) is None
    assert [folder / "model.safetensors"] == folders.weights(folder)
    gone = folders.fault_of(folder / "other.safetensors")
    assert gone is not None
    assert "is not there" in gone.what


@pytest.mark.parametrize("names", [("adapter_config.json",), ("adapter_config.json", "adapter_model.safetensors")])
def test_an_adapter_beside_a_base_is_refused(folder: Path, names: tuple[str, ...]) -> None:
    """transformers applies it where peft is installed, and leaves it out without a word where it is not."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "use_dora": len(names) > 1}))
    for name in names[1:]:
        save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 8)}, folder / name)
    with pytest.raises(ConfigError, match="holds a base model and an adapter beside it") as caught:
        load(folder)
    assert names[-1] in caught.value.message
    assert ("DoRA" if len(names) > 1 else "LORA") in caught.value.message
    assert "merge_and_unload" in caught.value.hint


def test_weights_that_lie_there_twice_are_refused_unless_they_are_the_same_file(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors"}}))
    load(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(ConfigError, match="holds weights twice"):
        load(folder)
