"""The probe: few batches are measured, the smallest of the best is taken, once per model and card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.unit.inference.fakes import Told
from watcherd.config import Model
from watcherd.errors import UnavailableError
from watcherd.inference import probing
from watcherd.inference.base import Frame, Pending, Placement, Prediction
from watcherd.inference.probing import CPU_BATCH, MAX_BATCH, Cost, measured_reserve_gib, probe
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GPU = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="bfloat16")


class Card:
    """A GPU on which a frame takes 100 MiB, and a batch of n takes ``each`` for each of its frames, but no less than
    ``least`` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, free: float, each: float, least: float = 0.0) -> None:
        self.measured: list[int] = []
        self.sides: list[int] = []
        self.free, self.each, self.least = free, each, least
        self.fails_from = 10_000
        monkeypatch.setattr(probing, "_card", lambda gpu: "Card")
        monkeypatch.setattr(probing, "_free_mib", lambda gpus: self.free)
        monkeypatch.setattr(probing, "_cost", self.cost)

    def cost(self, segmenter: Told, frame: Frame, size: int, gpus: Sequence[str]) -> Cost:
        self.measured.append(size)
        self.sides.append(len(frame.pixels))
        if size >= self.fails_from:
            raise RuntimeError("CUDA out of memory")
        return Cost(mib=100.0 * size, seconds=max(self.least, self.each * size))


def test_a_cpu_has_a_fixed_batch_and_nothing_is_measured(tmp_path: Path) -> None:
    segmenter = Told()
    assert probe(segmenter, Model(), Placement(), tmp_path).batch_size == CPU_BATCH
    assert probe(segmenter, Model(batch=7), Placement(), tmp_path).batch_size == 7
    assert (segmenter.batches, list(tmp_path.iterdir())) == ([], [])


def test_the_batch_grows_while_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1000.0, each=0.0, least=1.0)
    found = probe(Told(), Model(), GPU, tmp_path)
    assert (found.batch_size, found.reserve_mib, found.batch_mib) == (8, 100.0, 800.0)
    assert [1, 8] == card.measured


def test_the_smallest_batch_that_is_as_good_as_the_best_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launching takes as long as computing five frames. One that takes as long as its frames is not even doubled."""
    card = Card(monkeypatch, free=1e6, each=0.02, least=0.1)
    found = probe(Told(), Model(), GPU, tmp_path)
    assert ([1, 8, 16], 8, 800.0) == (card.measured, found.batch_size, found.batch_mib)
    card = Card(monkeypatch, free=1e6, each=0.02)
    assert 1 == probe(Told(), Model(), Placement(devices=GPU.devices, dtype="float16"), tmp_path).batch_size
    assert [1, 8] == card.measured


def test_larger_batches_are_measured_as_long_as_that_promises_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch, free=1e6, each=0.002, least=0.05)
    assert 32 == probe(Told(), Model(), GPU, tmp_path).batch_size
    assert [1, 8, 16, 32, 64] == card.measured


def test_sizes_in_between_are_judged_by_their_neighbours() -> None:
    """Never as quicker than they are."""
    costs = {size: Cost(mib=10.0 + size, seconds=max(0.1, 0.02 * size)) for size in (1, 8, 16)}
    assert (8, 18.0) == probing.choose(costs)
    costs = {size: Cost(mib=10.0 + size, seconds=1.0 + 0.01 * size) for size in (1, 8, 64)}
    assert (64, 74.0) == probing.choose(costs)
    costs = {size: Cost(mib=10.0 + size, seconds=0.01 + 0.1 * size) for size in (1, 8)}
    assert (4, 14.0) == probing.choose(costs)


def test_a_batch_that_takes_long_is_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1e6, each=0.0, least=11.0)
    assert 1 == probe(Told(), Model(), GPU, tmp_path).batch_size
    assert [1] == card.measured


def test_a_model_of_tiles_is_timed_by_a_usual_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What memory is kept free, and how many may go into a batch, is that of the most demanding one."""
    card = Card(monkeypatch, free=1000.0, each=0.0, least=1.0)
    assert 8 == probe(Told(), Model(segmenter="sa2va"), GPU, tmp_path).batch_size
    assert [(1, 1024), (1, 448), (8, 448)] == list(zip(card.measured, card.sides, strict=True))


def test_the_batch_ends_at_a_memory_error_or_the_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1e9, each=0.0, least=1.0)
    assert probe(Told(), Model(), GPU, tmp_path).batch_size == MAX_BATCH
    card.fails_from = 16
    assert probe(Told(), Model(), Placement(devices=GPU.devices, dtype="float16"), tmp_path).batch_size == 8
    card.measured.clear()
    assert probe(Told(), Model(batch=100), GPU, tmp_path).batch_size == 12
    assert [1, 100, 50, 25, 12] == card.measured


def test_batches_are_timed_from_the_end_of_one_to_the_end_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next one begun before, as at work; what the first has to do besides does not count."""
    clock = iter([5.0, 6.0, 7.5])
    monkeypatch.setattr(probing.time, "perf_counter", lambda: next(clock))
    done: list[str] = []

    class Ahead(Told):
        def dispatch(self, frames: Sequence[Frame]) -> Pending:
            number = sum(each.startswith("begin") for each in done)
            done.append(f"begin {number}")

            def result() -> list[Prediction]:
                done.append(f"end {number}")
                return self.predict(frames)

            return Pending(done=lambda: True, result=result)

    frame = Frame(pixels=np.zeros((4, 4), np.uint8), options=Options())
    ends = probing._ends(Ahead(), [frame] * 2)
    assert ([5.0, 6.0, 7.5], 1.0) == (ends, probing._seconds(ends))
    assert "begin 0, begin 1, end 0, begin 2, end 1, begin 3, end 2, end 3" == ", ".join(done)


def test_it_is_measured_once_for_a_model_a_card_and_a_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(monkeypatch, free=1000.0, each=0.0, least=1.0)
    first = probe(Told(), Model(), GPU, tmp_path)
    card.measured.clear()
    assert (probe(Told(), Model(), GPU, tmp_path), card.measured) == (first, [])
    probe(Told(), Model(), Placement(devices=GPU.devices, dtype="float16"), tmp_path)
    assert card.measured


def test_a_broken_record_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=1000.0, each=0.0, least=1.0)
    first = probe(Told(), Model(), GPU, tmp_path)
    (record,) = tmp_path.iterdir()
    for broken in ("", "{}", '{"batch_size": 1, "later": 2}', "[]"):
        record.write_text(broken)
        assert probe(Told(), Model(), GPU, tmp_path) == first
    assert json.loads(record.read_text())["batch_size"] == first.batch_size


def test_planning_uses_the_largest_reserve_measured_on_such_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, free=1000.0, each=0.0, least=1.0)
    probe(Told(), Model(), GPU, tmp_path)
    assert measured_reserve_gib(tmp_path, "1", "bfloat16", {"Card", "Other"}) == 100 / 1024
    for subject in (("2", "bfloat16", {"Card"}), ("1", "float32", {"Card"}), ("1", "bfloat16", {"Other"})):
        assert measured_reserve_gib(tmp_path, *subject) is None
    assert measured_reserve_gib(tmp_path / "nowhere", "1", "bfloat16", {"Card"}) is None


def test_a_model_that_cannot_compute_one_frame_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, free=1000.0, each=0.0, least=1.0).fails_from = 1
    with pytest.raises(UnavailableError, match="cannot compute one frame"):
        probe(Told(), Model(), GPU, tmp_path)
    assert not list(tmp_path.iterdir())
