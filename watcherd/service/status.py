"""What the service says of itself: the live status in the state folder, and the line that systemd shows."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from watcherd.errors import WatcherdError
from watcherd.inference.pool.interface import Phase
from watcherd.job import State
from watcherd.state.live import LiveStatus
from watcherd.store import history

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.machine.cards import Card
    from watcherd.inference.pool.interface import ReplicaStatus
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.intake.presence import InboxState
    from watcherd.notify.systemd import Notifier
    from watcherd.service.fleet import Fleet
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity

STATUS_SECONDS = 5.0
"""Seconds between two status lines for systemd."""


class Status:
    """Shows what goes on. The main thread changes it; the metrics' thread asks for `values`, too.

    ``inbox``: the inbox's condition; ``held``: whether a person has paused the work.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        fleet: Fleet,
        notifier: Notifier,
        *,
        inbox: Callable[[], InboxState],
        held: Callable[[], bool],
        path: Path | None,
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._fleet = fleet
        self._notifier = notifier
        self._inbox = inbox
        self._held = held
        self._path = path
        self._live = LiveStatus(run.config.state.path)
        self._version = version("watcherd")  # once: it reads everything that is written about the package
        self._phase = "starting"
        self._watches = False
        self._said_at = float("-inf")

    @property
    def version(self) -> str:
        """This program's version."""
        return self._version

    def become(self, phase: str) -> None:
        """Enter another phase of the service's life, and show it."""
        self._phase = phase
        self._watches = self._watches or phase == "running"
        self.show_now()

    def show_now(self) -> None:
        """Refresh everything, before anybody is told of the change."""
        self._said_at = float("-inf")
        self.show()

    def show(self) -> None:
        """Refresh the live status, and now and then the line that systemd shows."""
        self._live.write(self.values())
        now = time.monotonic()
        if self._phase == "running" and self._notifier.listening and now - self._said_at >= STATUS_SECONDS:
            self._said_at = now
            self._notifier.status(self.line())

    def clear(self) -> None:
        """Show nothing any more: the service has ended."""
        self._live.write({})

    def values(self) -> dict[str, Any]:
        """Everything that the live status holds."""
        model = next((lane.identity for lane in self._lanes.all() if lane.is_ready), None)
        inbox = self._inbox() if self._watches else None
        return {
            "pid": os.getpid(),
            "phase": self._phase,
            "started_at": self._run.began.isoformat(timespec="seconds"),
            "version": self._version,
            "config": str(self._path) if self._path else None,
            "held": self._held(),
            "paused": self._run.pauses.reasons,
            "inbox": {name: getattr(inbox, name) for name in inbox.__slots__} if inbox else None,
            "replicas": list(map(_replica, self._fleet.status())),
            "model": {name: getattr(model, name) for name in model.__slots__} if model else None,
            "models": self._fleet.models(),
            "cards": list(map(_card, self._fleet.cards)),
            "machines": [_machine(node) for node in self._fleet.machines.nodes],
            "cluster_trouble": self._fleet.machines.trouble or None,
        }

    def line(self) -> str:
        """One line for ``systemctl status``."""
        replicas = self._fleet.status()
        up = sum(status.phase in (Phase.IDLE, Phase.BUSY) for status in replicas)
        line = f"{self._phase}; {up} of {len(replicas)} replicas ready"
        stages = [f"{s.stage} {s.fraction:.0%}" if s.fraction else s.stage for s in replicas if s.stage]
        if self._phase != "running":
            return f"{line}; {stages[0]}" if stages else line
        with contextlib.suppress(WatcherdError), self._run.database.reader() as connection:
            counts = history.counts(connection)
            rate = history.rate(connection, minutes=5, now=datetime.now(UTC))
            vram = history.vram_now(connection)
            line += f"; {counts[State.QUEUED]} queued, {counts[State.RUNNING]} running, {rate.per_minute:.1f} scans/min"
            if vram is not None:
                line += f"; {vram:.0f} MiB of VRAM at the last peak"
        for name, why in self._fleet.without_replicas().items():
            line += f"; no {name}: {why.message}"
        if trouble := self._fleet.machines.trouble:
            line += f"; {trouble}"
        for part, reason in self._run.pauses.reasons.items():
            line += f"; {part} paused: {reason}"
        return line


def _replica(status: ReplicaStatus) -> dict[str, Any]:
    return {
        "number": status.number,
        "model": status.name,
        "node": status.node,
        "phase": status.phase.value,
        "devices": list(status.devices),
        "pid": status.pid,
        "stage": status.stage,
        "fraction": status.fraction,
        "restarts": status.restarts,
        "jobs": list(status.jobs),
        "last_error": status.last_error,
        "batch_size": status.ready.batch_size if status.ready else None,
    }


def _machine(node: Node) -> dict[str, Any]:
    """One of the cluster's."""
    return {
        "name": node.name,
        "address": node.address,
        "version": node.version,
        "cards": len(node.cards),
        "refused": node.refused or None,
    }


def _card(card: Card) -> dict[str, Any]:
    values = {name: getattr(card, name) for name in card.__slots__}
    return values | {"processes": {str(pid): used for pid, used in card.processes.items()}}
