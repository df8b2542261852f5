"""The memory in use on the replicas' GPUs now, for the screens: a thread of its own asks the driver.

The driver of a card that fell off the bus may never answer. Then only this thread hangs, and the figures become unknown
rather than old.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pynvml

from watcherd.inference.machine.devices import MIB, memory_of
from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LOOK_SECONDS = 5.0
STALE_SECONDS = 30.0
"""Seconds after which a driver's last answer is not shown any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One GPU. ``index``: as ``nvidia-smi`` counts. Memory is in MiB, None where the driver does not say.

    ``processes``: what each process holds, by pid; the driver leaves out those of other containers. ``node``: the
    machine that it is in; empty: this one.
    """

    uuid: str
    index: int | None = None
    name: str | None = None
    used_mib: int | None = None
    total_mib: int | None = None
    processes: Mapping[int, int | None]
    node: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What was seen, and when, as of `time.monotonic`."""

    at: float
    cards: tuple[Card, ...]


class Cards:
    """Looks at these GPUs every few seconds, from `start` on; without any it does nothing.

    Its own thread looks; any thread reads `latest`. A look is published as a whole, so that nobody sees half of it.
    """

    def __init__(self, uuids: Iterable[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._uuids = tuple(dict.fromkeys(uuids))
        self._clock = clock
        self._started = False
        self._look = _Look(at=clock(), cards=tuple(Card(uuid=uuid, processes={}) for uuid in self._uuids))

    def start(self) -> None:
        """Begin to look."""
        if self._uuids and not self._started:
            self._started = True
            NamedThread(target=self._keep_looking, name="cards", daemon=True).start()

    def watch(self, uuids: Iterable[str]) -> None:
        """Look at these too from now on. Called by one thread at a time."""
        self._uuids = tuple(dict.fromkeys((*self._uuids, *uuids)))
        self.start()

    @property
    def latest(self) -> tuple[Card, ...]:
        """The cards as they were seen last; without figures when that is too long ago."""
        look = self._look
        if self._clock() - look.at <= STALE_SECONDS:
            return look.cards
        return tuple(replace(card, used_mib=None, processes={}) for card in look.cards)

    def look(self) -> None:
        """Ask the driver now."""
        cards = tuple(_look_at(uuid) for uuid in self._uuids)
        self._look = _Look(at=self._clock(), cards=cards)

    def _keep_looking(self) -> None:
        _open_driver()  # and leave it open: opening it anew takes tens of milliseconds
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)


def _open_driver() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return


def _look_at(uuid: str) -> Card:
    nothing = Card(uuid=uuid, processes={})
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = memory_of(handle)
        card = Card(
            uuid=uuid,
            index=int(pynvml.nvmlDeviceGetIndex(handle)),
            name=str(pynvml.nvmlDeviceGetName(handle)),
            used_mib=memory.used // MIB,
            total_mib=memory.total // MIB,
            processes={},
        )
    except pynvml.NVMLError:
        return nothing
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return card
    return replace(card, processes={item.pid: _mib(item.usedGpuMemory) for item in processes})


def _mib(used: int | None) -> int | None:
    return None if used is None else used // MIB
