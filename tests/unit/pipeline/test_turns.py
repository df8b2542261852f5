"""Computing time is shared out by weight among models that compute on the same device, and nobody starves."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watcherd.pipeline.turns import Standing, Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

SCANS = 4
"""In a batch of these tests."""


@dataclass(slots=True)
class Model:
    """A pretended model with one replica: ``left`` of its running batch in seconds of a device of its own."""

    name: str
    share: float
    seconds: float
    devices: frozenset[str] = frozenset({"cpu"})
    backlog: int = 10**9
    waiting: int = 0
    left: float = 0.0
    running: bool = False
    wall: float = 0.0
    spent: float = 0.0
    batches: int = 0
    measured: float = 0.0
    hangs: bool = False

    @property
    def computed(self) -> float:
        """Seconds, those of the batch that runs included."""
        return self.spent + (self.wall if self.running else 0.0)

    def standing(self) -> Standing:
        return Standing(
            name=self.name,
            share=self.share,
            spent=self.spent,
            given=SCANS * (self.waiting + self.running),
            seconds_per_scan=self.measured,
            devices=self.devices,
            has_room=self.waiting < 1,
        )


class Machine:
    """Models whose batches share their device evenly while they run, and a clock that jumps from event to event."""

    def __init__(self, *models: Model, seed: int = 0) -> None:
        self.models = models
        self.turns = Turns()
        self.now = 0.0
        self.random = random.Random(seed)

    def feed(self) -> None:
        """As `Feed` does it: whoever's turn it is claims, until nobody may or has anything."""
        while True:
            order = self.turns.order([model.standing() for model in self.models], self.now)
            for name in order:
                (model,) = (each for each in self.models if each.name == name)
                self.turns.claimed(name, something=model.backlog > 0)
                if model.backlog:
                    model.backlog -= 1
                    model.waiting += 1
                    self.begin()
                    break
            else:
                return

    def begin(self) -> None:
        for model in self.models:
            if not model.running and model.waiting:
                model.waiting -= 1
                model.running, model.wall = True, 0.0
                model.left = model.seconds * self.random.uniform(0.7, 1.3)

    def step(self) -> None:
        """Until the next batch ends; a second when there is none to wait for."""
        running = [model for model in self.models if model.running and not model.hangs]
        slow = {model.name: self._company(model) for model in running}
        passes = min((model.left * slow[model.name] for model in running), default=1.0)
        self.now += passes
        for model in running:
            model.left -= passes / slow[model.name]
            model.wall += passes
            if model.left < 1e-9:
                self.end(model)
        self.begin()

    def _company(self, model: Model) -> int:
        return sum(other.running and not other.devices.isdisjoint(model.devices) for other in self.models)

    def end(self, model: Model) -> None:
        model.running = False
        model.batches += 1
        model.spent += model.wall
        per_scan = model.wall / SCANS
        model.measured = 0.8 * model.measured + 0.2 * per_scan if model.measured else per_scan

    def run(self, batches: int, *, of_each: bool = False) -> None:
        while (min if of_each else sum)(model.batches for model in self.models) < batches:
            self.feed()
            self.step()


def shares(models: Sequence[Model]) -> list[float]:
    total = sum(model.computed for model in models)
    return [model.computed / total for model in models]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (2, 1, 1)])
def test_with_backlogs_in_all_200_batches_are_shared_out_within_a_tenth(weights: tuple[int, ...]) -> None:
    models = [Model(f"m{n}", weight, 0.5) for n, weight in enumerate(weights)]
    Machine(*models).run(200)
    for share, weight in zip(shares(models), weights, strict=True):
        assert weight / sum(weights) == pytest.approx(share, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=3),
    seconds=st.lists(st.floats(min_value=0.25, max_value=1.5), min_size=3, max_size=3),
    seed=st.integers(min_value=0, max_value=1000),
)
def test_whatever_each_ones_batches_take_200_of_each_are_shared_out_within_a_tenth(
    weights: list[float], seconds: list[float], seed: int
) -> None:
    """Of each, since a single long batch may be a good part of a small share."""
    models = [Model(f"m{n}", weight, seconds[n]) for n, weight in enumerate(weights)]
    Machine(*models, seed=seed).run(200, of_each=True)
    wanted = [weight / sum(weights) for weight in weights]
    for share, want in zip(shares(models), wanted, strict=True):
        assert want == pytest.approx(share, rel=0.1)


def test_models_on_cards_of_their_own_never_wait_for_each_other() -> None:
    fast = Model("fast", 1, 0.1, frozenset({"GPU-0"}))
    slow = Model("slow", 9, 5.0, frozenset({"GPU-1"}))
    machine = Machine(fast, slow)
    machine.run(200)
    for model in (fast, slow):  # each has computed nearly all the time
        assert machine.now == pytest.approx(model.computed, rel=0.1)


def test_a_model_without_work_leaves_the_others_all_of_it_and_gets_no_credit() -> None:
    busy, idle = Model("busy", 1, 1.0), Model("idle", 1, 1.0, backlog=0)
    machine = Machine(busy, idle)
    machine.run(50)
    assert [1.0, 0.0] == shares([busy, idle])
    idle.backlog = 10**9
    before = busy.spent
    machine.run(90)
    assert busy.spent - before == pytest.approx(idle.spent, rel=0.2)


def test_a_model_that_comes_new_does_not_wait_for_a_backlog_of_another() -> None:
    old, new = Model("old", 1, 1.0), Model("new", 1, 1.0, backlog=0)
    machine = Machine(old, new)
    machine.run(100)
    new.backlog, already = 1, old.batches
    while not new.batches:
        machine.feed()
        machine.step()
    assert old.batches - already <= 3


def test_a_replica_that_hangs_does_not_hold_up_the_others() -> None:
    well, hung = Model("well", 1, 1.0), Model("hung", 1, 1.0)
    machine = Machine(well, hung)
    machine.run(20)
    hung.hangs = True
    before, began = well.batches, machine.now
    while well.batches < before + 20:
        machine.feed()
        machine.step()
    assert machine.now - began < 60


def test_the_only_model_is_never_kept_waiting() -> None:
    only = Model("default", 1, 1.0)
    assert ["default"] == Turns().order([only.standing()], 0.0)
    only.waiting = 1
    assert [] == Turns().order([only.standing()], 0.0)
