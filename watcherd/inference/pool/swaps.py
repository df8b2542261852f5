"""Which models give their place to one that has work and none: a pure decision, with the clock passed in.

A place is given by a model that has had nothing to do for `Terms.idle_s`, at once; and, once the scans of the other
have waited for as long as that, by one that is busy, between two batches: else a backlog of one could starve another
for good. Nobody gives a place that it has had for less than `Terms.minimum_s`, so that models do not chase each other,
and nobody who is to be kept gives it at all. Who has work keeps its place until it has computed some of it, however
long it takes to be loaded: else two models could take turns at being loaded and nothing would ever be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Of the configuration, in seconds: ``devices.idle_minutes`` and ``devices.minimum_minutes``."""

    idle_s: float
    minimum_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A model that has a place. ``idle_s``: since it last had anything to do; 0 while it has. ``placed_s``: since it
    got its place. ``paid``: seconds that were computed for it, divided by its share. ``keep``: it is never to go.
    ``begun``: it has computed something since then, or has nothing to do."""

    name: str
    idle_s: float
    placed_s: float
    paid: float = 0.0
    keep: bool = False
    begun: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A model that has work and no place. ``waited_s``: how long the first of its scans has waited."""

    name: str
    waited_s: float


def next_in_line(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Who gets the next place: whose scans have waited longest."""
    return sorted(waiting, key=lambda each: -each.waited_s)


def who_goes(
    waiter: Waiting, placed: Sequence[Placed], terms: Terms, fits: Callable[[Collection[str]], bool]
) -> tuple[str, ...]:
    """The models that give their places to ``waiter``; none when nobody may, or when it would not suffice.

    ``fits``: whether the waiter has room once these have gone. The fewest go, those that have been idle longest first,
    then, of those that are busy, the one that has had most for its share.
    """
    ready = [each for each in placed if each.begun and not each.keep and each.placed_s >= terms.minimum_s]
    idle = sorted((each for each in ready if each.idle_s >= terms.idle_s), key=lambda each: -each.idle_s)
    busy = [each for each in ready if each.idle_s < terms.idle_s]
    if waiter.waited_s < terms.idle_s:
        busy = []
    order = [*idle, *sorted(busy, key=lambda each: (-each.idle_s, -each.paid))]
    for single in order:
        if fits([single.name]):
            return (single.name,)
    for count in range(2, len(order) + 1):
        going = tuple(each.name for each in order[:count])
        if fits(going):
            return going
    return ()
