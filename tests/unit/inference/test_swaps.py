"""Models come and go: nobody starves, nobody is swapped back and forth, no card is promised twice."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from watcherd.inference.pool.swaps import Placed, Terms, Waiting, next_in_line, who_goes

TERMS = Terms(idle_s=600, minimum_s=300)
LOAD = 60.0
"""Seconds that each pretended model takes to load."""
CARDS = 4
CARD_GIB = 24.0


def placed(name: str, idle: float = 0, since: float = 10**6, paid: float = 0, *, keep: bool = False) -> Placed:
    return Placed(name=name, idle_s=idle, placed_s=since, paid=paid, keep=keep)


def anybody(_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("waited", "others", "expected"),
    [
        (0, [placed("a", 700), placed("b", 900)], ("b",)),
        (0, [placed("a", 500)], ()),
        (0, [placed("a", 700, keep=True)], ()),
        (0, [placed("a", 700, since=200)], ()),
        (599, [placed("a")], ()),
        (600, [placed("a", paid=1), placed("b", paid=2)], ("b",)),
        (600, [placed("a", 10, paid=1), placed("b", paid=2)], ("a",)),
        (10**6, [placed("a", keep=True), placed("b", since=299)], ()),
    ],
)
def test_who_gives_a_place(waited: float, others: list[Placed], expected: tuple[str, ...]) -> None:
    assert expected == who_goes(Waiting(name="w", waited_s=waited), others, TERMS, anybody)


def test_the_fewest_go_and_nobody_goes_in_vain() -> None:
    others = [placed("a", 900), placed("b", 800), placed("c", 700)]
    waiter = Waiting(name="w", waited_s=0)
    assert ("b",) == who_goes(waiter, others, TERMS, lambda names: "b" in names)
    assert ("a", "b") == who_goes(waiter, others, TERMS, lambda names: len(names) >= 2)
    assert () == who_goes(waiter, others, TERMS, lambda _: False)


def test_whose_scans_have_waited_longest_is_next() -> None:
    line = [Waiting(name="a", waited_s=1), Waiting(name="b", waited_s=2)]
    assert ["b", "a"] == [each.name for each in next_in_line(line)]


@dataclass(slots=True)
class Model:
    """A pretended model. ``gib``: of one replica on each of ``width`` cards. ``seconds``: of a scan."""

    name: str
    gib: float
    width: int
    seconds: float
    queue: deque[float] = field(default_factory=deque)
    cards: tuple[int, ...] = ()
    placed_at: float = 0.0
    ready_at: float = 0.0
    free_at: float = 0.0
    worked_at: float = 0.0
    spent: float = 0.0
    moves: list[float] = field(default_factory=list)


class Machine:
    """Four cards of 24 GB, and a clock that jumps by a second."""

    def __init__(self, models: list[Model]) -> None:
        self.models = models
        self.free = [CARD_GIB] * CARDS
        self.now = 0.0
        self.waits: list[tuple[float, float]] = []
        for model in models:
            self.place(model)

    def places(self, model: Model, gone: list[Model]) -> tuple[int, ...]:
        free = list(self.free)
        for other in gone:
            for card in other.cards:
                free[card] += other.gib
        roomy = sorted((card for card in range(CARDS) if free[card] >= model.gib), key=lambda card: -free[card])
        return tuple(roomy[: model.width]) if len(roomy) >= model.width else ()

    def place(self, model: Model) -> None:
        model.cards = self.places(model, [])
        for card in model.cards:
            self.free[card] -= model.gib
        if model.cards:
            model.placed_at = model.worked_at = self.now
            model.ready_at = self.now + LOAD
            model.moves.append(self.now)
        assert all(-1e-9 <= free <= CARD_GIB for free in self.free)  # no card is promised twice

    def leave(self, model: Model) -> None:
        assert self.now >= model.free_at  # never in the middle of a batch
        for card in model.cards:
            self.free[card] += model.gib
        model.cards = ()

    def turn(self) -> None:
        for model in self.models:
            if model.cards and self.now >= model.ready_at and self.now >= model.free_at and model.queue:
                arrived = model.queue.popleft()
                model.free_at = model.worked_at = self.now + model.seconds
                model.spent += model.seconds
                self.waits.append((arrived, self.now))
        self.swap()
        self.now += 1

    def swap(self) -> None:
        by_name = {model.name: model for model in self.models}
        waiting = [
            Waiting(name=model.name, waited_s=self.now - model.queue[0])
            for model in self.models
            if not model.cards and model.queue
        ]
        for waiter in next_in_line(waiting):
            who = by_name[waiter.name]
            if self.places(who, []):
                self.place(who)
                continue
            standing = [
                Placed(
                    name=model.name,
                    idle_s=0.0 if model.queue or self.now < model.free_at else self.now - model.worked_at,
                    placed_s=self.now - model.placed_at,
                    paid=model.spent,
                )
                for model in self.models
                if model.cards and self.now >= model.free_at
            ]
            going = who_goes(
                waiter, standing, TERMS, lambda names, who=who: bool(self.places(who, [by_name[n] for n in names]))
            )
            for name in going:
                self.leave(by_name[name])
            if going:
                self.place(who)


@settings(max_examples=15, deadline=None)
@example(sizes=[(20.0, 2)] * 3, seed=1, pace=5.0)
@example(sizes=[(20.0, 2)] * 3, seed=2, pace=60.0)
@given(
    sizes=st.lists(st.sampled_from([(4.0, 1), (13.0, 1), (20.0, 1), (13.0, 2), (20.0, 2)]), min_size=3, max_size=3),
    seed=st.integers(min_value=0, max_value=10_000),
    pace=st.sampled_from([5.0, 20.0, 60.0]),
)
def test_1000_arrivals_of_three_models_over_four_cards(sizes: list[tuple[float, int]], seed: int, pace: float) -> None:
    """No scan waits longer than the pause, one load and what is ahead of it; and swaps stay under the limit."""
    dice = random.Random(seed)
    models = [Model(f"m{n}", gib, width, dice.uniform(0.2, 3.0)) for n, (gib, width) in enumerate(sizes)]
    machine = Machine(models)
    arrivals, at = [], 0.0
    weights = [dice.random() ** 2 + 0.01 for _ in models]
    for _ in range(1000):
        at += dice.expovariate(1 / pace) if dice.random() > 0.005 else 2000
        arrivals.append((at, dice.choices(models, weights)[0]))
    ahead = 0
    while len(machine.waits) < 1000:
        while ahead < 1000 and arrivals[ahead][0] <= machine.now:
            arrivals[ahead][1].queue.append(arrivals[ahead][0])
            ahead += 1
        machine.turn()
        assert machine.now < at + 10**5
    for arrived, begun in machine.waits:
        ahead = sum(other <= arrived <= its_turn for other, its_turn in machine.waits)
        batches = 4.0 * ahead  # each takes at most 3 seconds, and is looked at every second
        assert begun - arrived <= TERMS.idle_s + LOAD + batches
    if sizes == [(20.0, 2)] * 3:  # only two of them have room at a time
        assert sum(len(model.moves) for model in models) > 3
    for model in models:
        for earlier, later in zip(model.moves, model.moves[1:], strict=False):
            assert later - earlier >= TERMS.minimum_s
