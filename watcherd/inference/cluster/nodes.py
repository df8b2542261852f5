"""The cluster's machines as the main process sees them: asked of the bridge now and then, and remembered."""

from __future__ import annotations

import pickle
import select
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from watcherd.errors import UnavailableError
from watcherd.inference.cluster import wire
from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watcherd.inference.machine.devices import Device

ANSWER_SECONDS = 10.0
"""Seconds that the bridge may take for its answer."""
LOOK_SECONDS = 2.0
"""Seconds between two looks at the cluster."""
PRETEND = "WATCHERD_PRETEND_CARDS"
"""Environment variable with made-up cards, as "2x24GiB": a node for tests, whose replicas compute on its processors."""
CARDS = "WATCHERD_WORKER_CARDS"
"""Environment variable with the UUIDs that `watcherd worker` gives away; where it is not set, every card."""
FOLDER = "WATCHERD_WORKER_FOLDER"
"""Environment variable with the folder for copied models and measured reserves."""
CARD = "watcherd-card-"
"""What a card is called among Ray's resources, with its UUID behind it: who asks for one gets that one."""
ROLE = "watcherd-role"
"""Label of a node. That of value "head" carries nothing."""
NO_BRIDGE = "the bridge to the cluster does not answer: systemctl start watcherd-bridge, or run `watcherd bridge`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine of the cluster.

    ``name``: its host's name. ``born``: another one each time that it joins. ``cards``: with what is free on them;
    ``cpu``: it has no card and carries replicas on its processors. ``refused``: why it carries nothing; empty: it may.
    """

    name: str
    address: str
    born: str
    version: str = ""
    cards: tuple[Device, ...] = ()
    cpu: bool = False
    host_free_gib: float = 0.0
    refused: str = ""


def ask(path: Path) -> tuple[Node, ...]:
    """Ask the bridge which machines there are. Raises `UnavailableError` when it does not answer."""
    try:
        channel = wire.connect(path)
    except OSError as error:
        raise _no_answer() from error
    try:
        return _asked(channel)
    finally:
        channel.close()


def _asked(channel: wire.Channel) -> tuple[Node, ...]:
    try:
        channel.send(wire.AskNodes())
        deadline = time.monotonic() + ANSWER_SECONDS
        while not channel.waiting:
            if not select.select([channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise _no_answer()
            channel.receive()
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise _no_answer() from error
    answer = channel.waiting.popleft()
    if not isinstance(answer, wire.Nodes):
        raise _no_answer()
    return answer.nodes


def _no_answer() -> UnavailableError:
    return UnavailableError(
        "The bridge to the cluster does not answer.",
        hint="Start it: systemctl start watcherd-bridge, or `watcherd bridge` in a terminal. docs/cluster.md says how.",
    )


class Cluster:
    """The machines as they were seen last. Its own thread, ``cluster``, asks; any thread reads what it found.

    ``bridge``: the socket; None where there is no cluster, and then there is never any machine.
    ``changed``: called when machines come or go.
    """

    def __init__(self, bridge: Path | None, changed: Callable[[], None] = lambda: None) -> None:
        self._bridge = bridge
        self._changed = changed
        self._stop = threading.Event()
        self._nodes: tuple[Node, ...] = ()
        self._trouble = NO_BRIDGE if bridge is not None else ""

    @property
    def wanted(self) -> bool:
        """Whether there is to be a cluster."""
        return self._bridge is not None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every machine, those that are refused too."""
        return self._nodes

    @property
    def usable(self) -> tuple[Node, ...]:
        """Those that may carry replicas."""
        return tuple(node for node in self._nodes if not node.refused)

    @property
    def trouble(self) -> str:
        """Why nothing is known of the cluster; empty when all is well."""
        return self._trouble

    def start(self) -> None:
        """Begin to look; the first look is over when this returns."""
        if self._bridge is not None:
            self.look()
            NamedThread(target=self._keep_looking, name="cluster", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Ask the bridge now; without an answer no machine is known to be there."""
        assert self._bridge is not None
        before = _present(self._nodes)
        try:
            self._nodes, self._trouble = ask(self._bridge), ""
        except UnavailableError:
            self._nodes, self._trouble = (), NO_BRIDGE
        if _present(self._nodes) != before:
            self._changed()

    def _keep_looking(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self.look()


def _present(nodes: tuple[Node, ...]) -> set[tuple[str, str]]:
    return {(node.name, node.born) for node in nodes if not node.refused}


def on(node: Node) -> tuple[Device, ...]:
    """A machine's cards, each with its machine's name."""
    return tuple(replace(card, node=node.name) for card in node.cards)
