"""When a model gives its place to another one: what `inference.pool.swaps` decides, asked of the running service."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from watcherd.errors import StoreError
from watcherd.inference.pool.swaps import Placed, Terms, Waiting, next_in_line, who_goes
from watcherd.store import overview

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from watcherd.inference.pool.lanes import Lane, Lanes
    from watcherd.service.seats import Seat
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

AGAIN_SECONDS = 60.0
"""Seconds until it is looked again whether a model would fit, after it would not: that costs seconds of a processor."""


class Swapping:
    """Knows since when each model has had nothing to do, or has waited. For the thread ``models``; times are of
    `time.monotonic`.

    ``fits``: where a model would go once others have gone; None where it has no room then.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        fits: Callable[[str, Collection[str]], object | None],
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._fits = fits
        self._worked: dict[str, tuple[float, float]] = {}
        self._at_first: dict[str, tuple[float | None, float]] = {}
        self._waits: dict[str, float] = {}
        self._in_vain: dict[str, float] = {}

    def decide(self, seats: Mapping[str, Seat], now: float) -> tuple[str, tuple[str, ...]] | None:
        """Who is to get a place, and who is to give it; None when nobody is."""
        if len(seats) < 2:
            return None
        try:
            with self._run.database.reader() as connection:
                queued = overview.queued_by_model(connection)
        except StoreError:  # who has work is not known: nobody goes, and nobody's wait begins anew
            return None
        for name, seat in seats.items():
            self._note_place(name, seat)
        placed = [self._placed(name, seat, queued, now) for name, seat in seats.items() if seat.replicas is not None]
        devices = self._run.config.devices
        terms = Terms(idle_s=60 * devices.idle_minutes, minimum_s=60 * devices.minimum_minutes)
        for waiter in next_in_line(self._waiting(seats, queued, now)):
            if now - self._in_vain.get(waiter.name, float("-inf")) < AGAIN_SECONDS:
                continue
            if going := who_goes(waiter, placed, terms, partial(self._would_fit, waiter.name, now)):
                return waiter.name, going
        return None

    def _would_fit(self, name: str, now: float, gone: Collection[str]) -> bool:
        if self._fits(name, gone) is not None:
            return True
        self._in_vain[name] = now
        return False

    def _note_place(self, name: str, seat: Seat) -> None:
        """What had been computed for a model when it got its place, and since when it has it; None: it has none."""
        since = seat.since if seat.replicas is not None else None
        before, spent = self._at_first.get(name, (None, 0.0))
        if since is None:
            spent = self._lanes.get(name).spent
        if since != before or since is None:
            self._at_first[name] = since, spent

    def _placed(self, name: str, seat: Seat, queued: Mapping[str, int], now: float) -> Placed:
        lane = self._lanes.get(name)
        worked_at, spent = self._worked.get(name, (now, lane.spent))
        has_work = bool(queued.get(name)) or _has_work(lane)
        if has_work or lane.spent != spent:
            worked_at = now
        worked_at = max(worked_at, seat.since)
        self._worked[name] = worked_at, lane.spent
        return Placed(
            name=name,
            idle_s=now - worked_at,
            placed_s=now - seat.since,
            paid=lane.spent / lane.share,
            keep=seat.table.keep,
            begun=not has_work or lane.spent > self._at_first[name][1],
        )

    def _waiting(self, seats: Mapping[str, Seat], queued: Mapping[str, int], now: float) -> list[Waiting]:
        names = [name for name, seat in seats.items() if seat.why and seat.why.fits_alone and queued.get(name)]
        self._waits = {name: self._waits.get(name, now) for name in names}
        return [Waiting(name=name, waited_s=now - since) for name, since in self._waits.items()]


def _has_work(lane: Lane[ModelIdentity]) -> bool:
    try:
        return lane.pool.given() > 0
    except LookupError:  # its replicas have gone
        return False
