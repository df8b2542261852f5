"""On two real cards: replicas on each, a model split over both, one that dies and one that stands still.

python -m pytest tests/gpu/test_two_cards.py
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import watcherd
from benchmarks.running import Running
from tests.sa2va_folder import write_model
from tests.sa2va_golden import arrays, frames_of, loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
    pytest.mark.timeout(900),
]

SPLITS = {
    "SAM2 on a card of its own": {"": "cuda:0", "sam2": "cuda:1"},
    "between the layers": {
        "": "cuda:0",
        "language.model.layers.1": "cuda:1",
        "language.model.norm": "cuda:1",
        "language.lm_head": "cuda:1",
        "text_hidden_fcs": "cuda:1",
        "sam2": "cuda:1",
    },
}
COPIES = 40
DEMO = Path(watcherd.__file__).parent / "demo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_a_split_model_gives_the_same_maps_bit_for_bit_with_two_batches_under_way(
    folder: Path, split: dict[str, str]
) -> None:
    """The second batch is launched before the first is read, as a replica does it."""
    frames = frames_of(arrays("sizes"), "image_0", "image_0")
    whole = loaded(folder, {"": "cuda:0"}, "bfloat16").predict(frames)
    segmenter = loaded(folder, split, "bfloat16")
    launched = [segmenter.dispatch(frames) for _ in range(2)]
    for pending in launched:
        for one, other in zip(whole, pending.result(), strict=True):
            assert one.probability is not None
            assert other.probability is not None
            np.testing.assert_array_equal(one.probability, other.probability)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """The bundled model on both cards, one replica each; a batch that takes longer than 20 s is held to hang."""
    running = Running(
        tmp_path,
        inbox={"path": str(tmp_path / "inbox")},
        outbox={"path": str(tmp_path / "outbox")},
        archive={"path": str(tmp_path / "archive")},
        state={"path": str(tmp_path / "state")},
        devices={"use": [0, 1], "batch_seconds": 20.0},
        model={"batch": 2},
    )
    running.start()
    running.wait(lambda: len(ready(running)) == 2, 300)
    yield running
    running.end()


def ready(running: Running) -> list[dict[str, Any]]:
    """Replicas that can work."""
    found: list[dict[str, Any]] = running.live().get("replicas", [])
    return [replica for replica in found if replica.get("phase") in {"idle", "busy"}]


def drop(running: Running, count: int, name: str) -> None:
    """Copies of a bundled scan, no two of the same bytes."""
    first = DEMO / "angiogram-1.jpg"
    for number in range(count):
        copy = running.inbox / f"{name}-{number}{first.suffix}"
        shutil.copyfile(first, copy)
        with copy.open("ab") as file:
            file.write(f"{name}{number}".encode())


def succeeded(running: Running) -> int:
    return running.totals().get("job.succeeded", 0)


def cards_on_record(running: Running) -> set[str]:
    """Devices that the history names for jobs."""
    with closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True)) as history:
        return {device for (device,) in history.execute("SELECT DISTINCT device FROM attempt_device")}


def test_both_cards_work_and_are_on_the_record(daemon: Running) -> None:
    drop(daemon, COPIES, "a")
    daemon.wait(lambda: succeeded(daemon) == COPIES, 300)
    assert cards_on_record(daemon) == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "held"])
def test_a_replica_that_ends_or_stands_still_costs_no_scan(daemon: Running, how: signal.Signals) -> None:
    """The other card goes on, and the replica comes back."""
    drop(daemon, COPIES, how.name)
    daemon.wait(lambda: succeeded(daemon) > 0, 300)
    os.kill(ready(daemon)[0]["pid"], how)
    daemon.wait(lambda: succeeded(daemon) == COPIES, 300)
    assert daemon.totals().get("job.failed", 0) == 0
    daemon.wait(lambda: len(ready(daemon)) == 2, 300)
