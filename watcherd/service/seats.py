"""The seats of the fleet: a value for each model, and the register of them all."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from watcherd.errors import ConfigError, UnavailableError, WatcherdError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watcherd.config import Model
    from watcherd.inference.pool.sharing import Refused
    from watcherd.service.replicas import Replicas

AGAIN_SECONDS = 60.0
"""Seconds until a model that has no replicas is tried again; doubled with each try, up to `LONGEST_SECONDS`."""
LONGEST_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A model of the configuration. ``table``: what it was loaded from, or is to be. ``why``: there are no replicas,
    and this is the reason. ``tries``: in a row without success; ``due``: when the next is; ``since``: when it got its
    place, both of `time.monotonic`. ``holds``: GiB of each device, see `inference.pool.sharing.holds`. ``dtype``: of
    its replicas' weights."""

    table: Model
    replicas: Replicas | None = None
    since: float = 0.0
    holds: Mapping[str, float] = field(default_factory=dict)
    dtype: str = ""
    why: Refused | None = None
    tries: int = 0
    due: float = 0.0

    @property
    def count(self) -> int:
        """How many replicas it has."""
        return len(self.replicas.status()) if self.replicas is not None else 0


class Seats:
    """All of them. Behind one lock: the main thread, the thread ``models`` and replicas' threads use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seats: dict[str, Seat] = {}
        self._leaving: list[Replicas] = []

    def now(self) -> dict[str, Seat]:
        """Every model's seat, by its name."""
        with self._lock:
            return dict(self._seats)

    def put(self, name: str, seat: Seat) -> None:
        """This is the model's seat from now on."""
        with self._lock:
            self._seats[name] = seat

    def take_away(self, name: str) -> Seat:
        """The model goes; its replicas are still there until `gone` is said of them."""
        with self._lock:
            seat = self._seats.pop(name)
            if seat.replicas is not None:
                self._leaving.append(seat.replicas)
            return seat

    def gone(self, replicas: Replicas) -> None:
        """These have ended."""
        with self._lock:
            self._leaving.remove(replicas)

    def begin(self, name: str, change: Callable[[Seat], Seat | None], start: Callable[[], None]) -> None:
        """Give a model its replicas, and start them, unless it has no seat any more or ``change`` gives none. Whoever
        asks for `replicas` sees both or neither."""
        with self._lock:
            seat = self._seats.get(name)
            changed = change(seat) if seat is not None else None
            if changed is not None:
                self._seats[name] = changed
                start()

    def has_more(self, name: str, replicas: Replicas, held: Mapping[str, float]) -> None:
        """These have got further devices."""
        with self._lock:
            seat = self._seats.get(name)
            if seat is not None and seat.replicas is replicas:
                self._seats[name] = replace(seat, holds={**seat.holds, **held})

    def is_ready(self, name: str, replicas: Replicas) -> None:
        """These have loaded the model: its next failure is a first one."""
        with self._lock:
            seat = self._seats.get(name)
            if seat is not None and seat.replicas is replicas:
                self._seats[name] = replace(seat, tries=0)

    def refuse(self, name: str, why: Refused, now: float, *, replicas: Replicas | None = None) -> Refused | None:
        """The model has no replicas, for this reason, until it is tried again; what was said of it before, or
        ``why`` itself where that was nothing. ``replicas``: only if it has these; None then for one that has others.
        """
        with self._lock:
            seat = self._seats.get(name)
            if seat is None or (replicas is not None and seat.replicas is not replicas):
                return None
            due = now + min(LONGEST_SECONDS, AGAIN_SECONDS * 2.0**seat.tries)
            self._seats[name] = replace(seat, replicas=None, why=why, tries=seat.tries + 1, due=due)
            return seat.why or why

    def replicas(self) -> list[Replicas]:
        """Those of all models, and those that are ending."""
        with self._lock:
            return [*(seat.replicas for seat in self._seats.values() if seat.replicas is not None), *self._leaving]

    def hopeless(self) -> WatcherdError | None:
        """What ends the service: no model can do anything."""
        reasons = [seat.why for seat in self.now().values()]
        first = reasons[0] if reasons else None
        if first is None or None in reasons or any(why is not None and why.waits for why in reasons):
            return None
        kind: type[WatcherdError] = ConfigError if first.exit_code == ConfigError.exit_code else UnavailableError
        return kind(first.message, hint=first.hint)
