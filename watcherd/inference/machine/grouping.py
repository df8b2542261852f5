"""Which GPUs of a machine go together to carry one replica each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from watcherd.inference.machine.devices import Device

SAME_CARD_GIB = 0.25
"""GiB of room: cards that differ by less count as one kind."""
MAX_PER_REPLICA = 16
"""GPUs in the largest machines; a model that needs more does not fit one process."""

Fits = Callable[[Sequence[float]], bool]
"""Whether a replica fits on devices with these GiB for weights each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A GPU and the GiB that weights may take on it."""

    device: Device
    room: float

    @property
    def kind(self) -> int:
        """Equal for cards with about the same room."""
        return round(self.room / SAME_CARD_GIB)


def gather(cards: Sequence[Card], per_replica: Literal["auto"] | int, fits: Fits) -> list[tuple[Card, ...]]:
    """Disjoint groups of cards, each of which carries a replica: as many small groups as possible, then larger ones.
    The cards of a group are in one machine."""
    fits = _remembered(fits)
    machines = dict.fromkeys(card.device.node for card in cards)
    of_each = ([card for card in cards if card.device.node == machine] for machine in machines)
    return [group for machine in of_each for group in _gathered(machine, per_replica, fits)]


def _gathered(cards: Sequence[Card], per_replica: Literal["auto"] | int, fits: Fits) -> list[tuple[Card, ...]]:
    """`gather` on one machine."""
    left = sorted(cards, key=lambda card: (-card.kind, card.device.index))
    groups: list[tuple[Card, ...]] = []
    for size in range(1, MAX_PER_REPLICA + 1) if per_replica == "auto" else [per_replica]:
        found = _groups_of(size, left, fits)
        groups += found
        taken = {card.device.uuid for group in found for card in group}
        left = [card for card in left if card.device.uuid not in taken]
    return sorted(groups, key=lambda group: group[0].device.index)


def _remembered(fits: Fits) -> Fits:
    """The same question, answered once for equal rooms: it is asked often, and the answer takes a while."""
    known: dict[tuple[float, ...], bool] = {}

    def answer(rooms: Sequence[float]) -> bool:
        key = tuple(rooms)
        if key not in known:
            known[key] = fits(key)
        return known[key]

    return answer


def _groups_of(size: int, cards: Sequence[Card], fits: Fits) -> list[tuple[Card, ...]]:
    """As many groups of ``size`` cards as possible; of like cards only, where that gives as many.

    ``cards``: the largest first, and like ones by index.
    """
    if len(cards) < size or not fits([card.room for card in cards[:size]]):
        return []
    alike: list[tuple[Card, ...]] = []
    for _, same in groupby(cards, key=lambda card: card.kind):
        alike += _pair_off(size, list(same), fits)
    taken = {card.device.uuid for group in alike for card in group}
    alike += _pair_off(size, [card for card in cards if card.device.uuid not in taken], fits)
    mixed = _pair_off(size, list(cards), fits)
    return mixed if len(mixed) > len(alike) else alike


def _pair_off(size: int, cards: Sequence[Card], fits: Fits) -> list[tuple[Card, ...]]:
    """Give the largest card the smallest companions that suffice; for pairs this finds the most groups possible."""
    groups: list[tuple[Card, ...]] = []
    left = list(cards)
    while len(left) >= size:
        largest, *others = left
        left = others
        for candidate in range(len(others) - size + 1, -1, -1):
            if fits([card.room for card in (largest, *others[candidate : candidate + size - 1])]):
                start = _nearest(others, candidate, size - 1)
                groups.append((largest, *others[start : start + size - 1]))
                left = others[:start] + others[start + size - 1 :]
                break
    return groups


def _nearest(cards: Sequence[Card], start: int, size: int) -> int:
    """The run of like cards with the lowest indexes: neighbours are often linked."""
    kinds = [card.kind for card in cards]
    while start > 0 and kinds[start - 1 : start - 1 + size] == kinds[start : start + size]:
        start -= 1
    return start
