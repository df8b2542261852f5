"""Models go to a node once, piece by piece, and are what they were here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from watcherd.config import Log, Model
from watcherd.inference.base import Placement
from watcherd.inference.cluster import shipping
from watcherd.inference.cluster.shipping import Copies, File, Shipper, listing
from watcherd.inference.messages import ReplicaSpec
from watcherd.inference.pool.carrier import NoRoomError

PATIENCE = 30.0


class Node:
    """The agent of a node in its own folder, called as Ray's actors are. ``calls``: what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.copies = Copies(folder)
        self.calls: list[str] = []
        self.damage = False

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._do(name, *arguments))

    def _do(self, name: str, *arguments: Any) -> Any:
        self.calls.append(name)
        if name == "place":
            digest, file = arguments
            return str(self.copies.place(digest) / file)
        if name == "write" and self.damage:
            self.damage = False
            arguments = (*arguments[:3], np.zeros_like(arguments[3]))
        return getattr(self.copies, name)(*arguments)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda answer, timeout: answer))
    monkeypatch.setattr(shipping, "PIECE", 10)
    return Node(tmp_path / "there")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "inner" / "weights.bin").write_bytes(bytes(range(95)))
    (folder / "empty.txt").touch()
    return folder


def spec(model: Path) -> ReplicaSpec:
    nowhere = Path("/nowhere")
    table = Model(segmenter="semantic", path=model)
    return ReplicaSpec(
        number=0, model=table, placement=Placement(), cache=nowhere, stack=nowhere, log=Log(), node="bee"
    )


def until_there(shipper: Shipper, spec: ReplicaSpec, node: Node, said: Callable[[str], None] = str) -> ReplicaSpec:
    """Ask again and again, as the replica's thread does."""
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return shipper.there(spec, node, "1")
        except NoRoomError as waits:
            said(str(waits))
            time.sleep(0.01)
    raise AssertionError("it never came")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_copied_once_and_is_the_same_there(node: Node, model: Path) -> None:
    shipper, words = Shipper(), []
    there = until_there(shipper, spec(model), node, words.append)
    assert there.model.path is not None
    assert contents(model) == contents(there.model.path)
    assert "model" == there.model.path.name, "it is called so in the history"
    assert "the model is being copied to bee" in words[0]
    written = node.calls.count("write")
    assert there == until_there(shipper, spec(model), node)
    assert there == until_there(Shipper(), spec(model), node), "a bridge that was started again asks what is there"
    assert written == node.calls.count("write")


def test_a_folder_that_has_changed_is_another_copy(node: Node, model: Path) -> None:
    shipper = Shipper()
    before = until_there(shipper, spec(model), node)
    (model / "config.json").write_text('{"other": 1}')
    after = until_there(shipper, spec(model), node)
    assert before.model.path != after.model.path
    assert after.model.path is not None
    assert contents(model) == contents(after.model.path)


def test_a_copy_that_broke_off_goes_on_where_it_stopped(node: Node, model: Path) -> None:
    found = listing(model)
    content = np.frombuffer(bytes(range(40)), np.uint8)
    node.copies.write(found.digest, "model/inner/weights.bin", 0, content)
    until_there(Shipper(), spec(model), node)
    assert 1 + 6 == node.calls.count("write"), "one piece of config.json, and what was left of the weights"


def test_what_arrives_damaged_is_copied_anew(node: Node, model: Path) -> None:
    node.damage = True
    words: list[str] = []
    there = until_there(Shipper(), spec(model), node, words.append)
    assert there.model.path is not None
    assert contents(model) == contents(there.model.path)
    assert any("arrived damaged" in each for each in words)


def test_nothing_is_written_outside_of_a_copy(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    with pytest.raises(ValueError, match="outside of its folder"):
        copies.write("digest", "../other/file", 0, np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="outside of its folder"):
        copies.missing("digest", [File(name="/etc/passwd", size=1, sha256="")])
