"""What runs on a node, without Ray: the ordinary process of a replica, with frames and masks as bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from watcherd.config import Log, Model
from watcherd.errors import UsageError
from watcherd.inference.base import Placement
from watcherd.inference.cluster import host, nodes
from watcherd.inference.cluster.host import Host, Parcel, cards_here, describe
from watcherd.inference.messages import BatchEnded, FromReplica, Ready, ReplicaSpec, Segmented, WorkItem
from watcherd.job import Options

PATIENCE = 120.0
ELSEWHERE = Path("/elsewhere")


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv(nodes.FOLDER, str(tmp_path))
    monkeypatch.setattr(host, "LISTEN_SECONDS", 0.5)
    spec = ReplicaSpec(
        number=0,
        model=Model(segmenter="fake"),
        placement=Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="float32"),
        visible=("pretended-bee-0",),
        cache=ELSEWHERE,
        stack=ELSEWHERE,
        log=Log(),
        node="bee",
    )
    made = Host(spec)
    yield made
    made.bury()
    assert not made._folder.exists()


def parcel(job: int, pixels: np.ndarray, folder: Path) -> Parcel:
    np.save(folder / "frames.npy", pixels)
    options = Options(outputs=("mask", "probability"))
    item = WorkItem(
        job_id=job, decoded=ELSEWHERE / "x.npy", frames=1, options=options, target=ELSEWHERE / f"{job}-try1"
    )
    return Parcel(item=item, decoded=np.fromfile(folder / "frames.npy", np.uint8))


def hear(replica: Host, kind: type[FromReplica]) -> tuple[dict[int, Segmented], dict[int, object]]:
    """Listen until a message of this kind has come; what was segmented meanwhile, and the files."""
    found: dict[int, Segmented] = {}
    files: dict[int, object] = {}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = replica.receive()
        assert answer.over is None, answer
        found |= {each.job_id: each for each in answer.messages if isinstance(each, Segmented)}
        files |= answer.files
        if any(isinstance(each, kind) for each in answer.messages):
            return found, files
    raise AssertionError("nothing was heard")


def test_frames_go_in_as_bytes_and_masks_come_out_as_bytes(replica: Host, tmp_path: Path) -> None:
    """Nothing is left in the node's memory then; and a process that dies says how."""
    pid = replica.start()
    hear(replica, Ready)
    pixels = np.random.default_rng(1).integers(0, 255, (2, 1, 40, 50), np.uint8)
    replica.work(0, [parcel(7, pixels[0], tmp_path), parcel(8, pixels[1], tmp_path)])
    found, files = hear(replica, BatchEnded)
    assert {7, 8} == set(found)
    for job in (7, 8):
        mask, probability = files[job]  # type: ignore[misc]
        mask.tofile(tmp_path / "mask.npy")
        assert np.array_equal(pixels[job - 7] <= 127, np.load(tmp_path / "mask.npy"))
        assert probability is not None
        assert f"{job}-try1-mask.npy" == found[job].mask.name
    assert ["stack"] == [path.name for path in replica._folder.iterdir()]
    assert replica.ask_for_stack()
    os.kill(pid, 9)
    deadline = time.monotonic() + PATIENCE
    while (answer := replica.receive()).over is None:
        assert time.monotonic() < deadline
    assert "its process ended with SIGKILL" == answer.over
    assert not answer.lost


def test_a_node_without_room_is_told_of(replica: Host, tmp_path: Path) -> None:
    """It is no death of the model's."""
    replica._folder.rmdir()
    replica.work(0, [parcel(7, np.zeros((1, 4, 4), np.uint8), tmp_path)])
    answer = replica.receive()
    assert answer.lost
    assert "the node has no room for the scans: No such file or directory" == answer.over
    replica._folder.mkdir()
    replica.start()


def test_a_machine_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nodes.PRETEND, "2x24GiB")
    found = describe("born")
    assert ("born", 2, False, "") == (found.born, len(found.cards), found.cpu, found.refused)
    assert 2 == len({card.uuid for card in found.cards})
    monkeypatch.setenv(nodes.PRETEND, "many")
    with pytest.raises(UsageError):
        cards_here()
    assert "is not a number of GPUs" in describe("born").refused
    monkeypatch.delenv(nodes.PRETEND)
    monkeypatch.setenv(nodes.CARDS, "")
    none = describe("born")
    assert none.cpu
    assert none.host_free_gib > 0
    assert nodes.on(replace(none, cards=())) == ()
