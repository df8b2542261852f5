"""Whose turn it is, when several models wait for the same device: by the computing time that each has had.

Weighted fair queueing. Each model has an account of the seconds that were computed for it, divided by its share. The
one that is furthest behind claims first, and one that is ahead of another waits, if that other has work and computes on
the same device. Models on devices of their own never wait for one another. Who had nothing to do gets no credit for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One model as it is now.

    ``share``: its weight. ``spent``: seconds that were computed for it, ever. ``given``: scans that its replicas have
    and have not answered for. ``seconds_per_scan``: 0 while unknown. ``devices``: those that it computes on.
    ``has_room``: whether its replicas would take another batch.
    """

    name: str
    share: float
    spent: float
    given: int
    seconds_per_scan: float
    devices: frozenset[str]
    has_room: bool


@dataclass(slots=True)
class _Account:
    """``paid``: seconds divided by the share. ``seen``: how much of `Standing.spent` is in it. ``moved_at``: when
    something of what it was given was last answered for. ``hungry``: whether its last claim found something."""

    paid: float
    seen: float
    given: int = 0
    moved_at: float = 0.0
    hungry: bool = False


class Turns:
    """The accounts. For the thread that claims; times are of a clock that only goes forward."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def order(self, standings: Sequence[Standing], now: float) -> list[str]:
        """Who may claim now, who is furthest behind first."""
        if len(standings) == 1:
            return [each.name for each in standings if each.has_room]
        tags = {each.name: self._tag(each, now) for each in standings}
        free = [each for each in standings if each.has_room and not self._must_wait(each, standings, tags)]
        return [each.name for each in sorted(free, key=lambda each: tags[each.name])]

    def claimed(self, name: str, *, something: bool) -> None:
        """What a claim has come to. A model that has had nothing to do begins where the others are."""
        account = self._accounts.get(name)
        if account is None:
            return
        if something and not account.hungry:
            busy = [other.paid for key, other in self._accounts.items() if key != name and other.hungry]
            account.paid = max(account.paid, min(busy, default=account.paid))
        account.hungry = something

    def _tag(self, standing: Standing, now: float) -> float:
        """The account as it will be when everything has been computed that the replicas have."""
        account = self._accounts.setdefault(standing.name, _Account(paid=0.0, seen=standing.spent, moved_at=now))
        if standing.spent != account.seen or standing.given != account.given:
            account.moved_at = now
        account.paid += (standing.spent - account.seen) / standing.share
        account.seen, account.given = standing.spent, standing.given
        if not standing.given:
            return account.paid
        # One that hangs, or is slower than it was, must not hold up the others: what it takes counts as it passes.
        expected = max(standing.given * standing.seconds_per_scan, now - account.moved_at)
        return account.paid + expected / standing.share

    def _must_wait(self, one: Standing, standings: Sequence[Standing], tags: dict[str, float]) -> bool:
        """Whether another one that shares a device with it has work and is behind it."""
        return any(
            other.name != one.name
            and self._accounts[other.name].hungry
            and not one.devices.isdisjoint(other.devices)
            and tags[other.name] < tags[one.name]
            and (other.has_room or other.given)
            for other in standings
        )
