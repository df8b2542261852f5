"""The probe: batches are doubled while that fits and pays, measured once per model and card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.unit.inference.fakes import Told
from watcherd.config import Model
from watcherd.errors import UnavailableError
from watcherd.inference import probing
from watcherd.inference.base import Placement
from watcherd.inference.probing import CPU_BATCH, MAX_BATCH, Cost, measured_reserve_gib, probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watcherd.inference.base import Frame

GPU = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="bfloat16")


class Card:
    """A GPU on which a frame takes 100 MiB, and a batch of n takes (overhead + n * each) seconds, ``launch`` of them
    until the host is free again."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, free: float, overhead: float, each: float, launch: float = 0.0
    ) -> None:
        self.measured: list[int] = []
        self.free, self.overhead, self.each, self.launch = free, overhead, each, launch
        self.fails_from = 10_000
        monkeypatch.setattr(probing, "_card", lambda gpu: "Card")
        monkeypatch.setattr(probing, "_free_mib", lambda gpus: self.free)
        monkeypatch.setattr(probing, "_cost", self.cost)

    def cost(self, segmenter: Told, frame: Frame, size: int, gpus: Sequence[str]) -> Cost:
        self.measured.append(size)
        if size >= self.fails_from:
            raise RuntimeError("CUDA out of memory")
        return Cost(mib=100.0 * size, seconds=self.overhead + self.each * size, launch_seconds=self.launch)


def test_a_cpu_has_a_fixed_batch_and_nothing_is_measured(tmp_path: Path) -> None:
    segmenter = Told()
    assert probe(segmenter, Model(), Placement(), tmp_path).batch_size == CPU_BATCH
    assert probe(segmenter, Model(batch=7), Placement(), tmp_path).batch_size == 7
    assert (segmenter.batches, list(tmp_path.iterdir())) == ([], [])


def test_the_batch_grows_while_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=1000.0, overhead=1.0, each=0.0)
    found = probe(Told(), Model(), GPU, tmp_path)
    assert (found.batch_size, found.reserve_mib, found.batch_mib) == (8, 100.0, 800.0)


def test_the_batch_grows_only_while_that_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1e6, overhead=0.01, each=0.05)
    assert probe(Told(), Model(), GPU, tmp_path).batch_size == 2
    assert card.measured == [1, 2, 4]


def test_the_batch_grows_until_the_host_has_time_for_more_than_launching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, free=1e6, overhead=0.0, each=0.002, launch=0.03)
    assert probe(Told(), Model(), GPU, tmp_path).batch_size == MAX_BATCH
    Card(monkeypatch, free=1e6, overhead=0.0, each=0.008, launch=0.03)
    assert probe(Told(), Model(batch="auto"), Placement(devices=GPU.devices), tmp_path).batch_size == 16


def test_a_slower_batch_is_not_taken_for_the_sake_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1e6, overhead=-0.08, each=0.1, launch=1.0)
    assert probe(Told(), Model(), GPU, tmp_path).batch_size == 1
    assert card.measured == [1, 2]


def test_the_batch_ends_at_a_memory_error_or_the_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1e9, overhead=1.0, each=0.0)
    assert probe(Told(), Model(), GPU, tmp_path).batch_size == MAX_BATCH
    card.fails_from = 8
    assert probe(Told(), Model(batch=100), GPU, tmp_path).batch_size == 4


def test_it_is_measured_once_for_a_model_a_card_and_a_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1000.0, overhead=1.0, each=0.0)
    first = probe(Told(), Model(), GPU, tmp_path)
    card.measured.clear()
    assert (probe(Told(), Model(), GPU, tmp_path), card.measured) == (first, [])
    probe(Told(), Model(), Placement(devices=GPU.devices, dtype="float16"), tmp_path)
    assert card.measured


def test_a_broken_record_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=1000.0, overhead=1.0, each=0.0)
    first = probe(Told(), Model(), GPU, tmp_path)
    (record,) = tmp_path.iterdir()
    for broken in ("", "{}", '{"batch_size": 1, "later": 2}', "[]"):
        record.write_text(broken)
        assert probe(Told(), Model(), GPU, tmp_path) == first
    assert json.loads(record.read_text())["batch_size"] == first.batch_size


def test_planning_uses_the_largest_reserve_measured_on_such_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, free=1000.0, overhead=1.0, each=0.0)
    probe(Told(), Model(), GPU, tmp_path)
    assert measured_reserve_gib(tmp_path, "1", "bfloat16", {"Card", "Other"}) == 100 / 1024
    for subject in (("2", "bfloat16", {"Card"}), ("1", "float32", {"Card"}), ("1", "bfloat16", {"Other"})):
        assert measured_reserve_gib(tmp_path, *subject) is None
    assert measured_reserve_gib(tmp_path / "nowhere", "1", "bfloat16", {"Card"}) is None


def test_a_model_that_cannot_compute_one_frame_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=1000.0, overhead=1.0, each=0.0).fails_from = 1
    with pytest.raises(UnavailableError, match="cannot compute one frame"):
        probe(Told(), Model(), GPU, tmp_path)
    assert not list(tmp_path.iterdir())
