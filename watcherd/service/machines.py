"""The machines that models may go to, where there is a cluster, and which of them carry nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.inference.cluster.carrier import ClusterCarrier
from watcherd.inference.cluster.nodes import Cluster
from watcherd.inference.machine.cards import Card
from watcherd.inference.machine.devices import GIB, MIB
from watcherd.inference.pool.local import LocalCarrier
from watcherd.service.placing import Places, unused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watcherd.config import Config
    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.messages import ReplicaSpec
    from watcherd.inference.pool.carrier import Carrier

MIB_PER_GIB = GIB // MIB


class Machines:
    """This machine and the cluster's. The thread ``models`` asks what is new; any thread asks for the rest.

    ``changed``: called when machines come or go.
    """

    def __init__(self, config: Config, changed: Callable[[], None]) -> None:
        self._bridge = config.state.bridge
        self._ship = config.cluster.ship_models
        self._local = config.cluster.local or not config.cluster.engine
        self._cluster = Cluster(self._bridge if config.cluster.engine else None, changed)
        self._tried: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Begin to look at the cluster."""
        self._cluster.start()

    def stop(self) -> None:
        """Look at it no more."""
        self._cluster.stop()

    @property
    def trouble(self) -> str:
        """Why nothing is known of the cluster; empty when all is well."""
        return self._cluster.trouble

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The other machines, those that are refused too."""
        return self._cluster.nodes

    @property
    def places(self) -> Places:
        """Where models may go now."""
        refused = "; ".join(f"{node.name} is refused: {node.refused}" for node in self.nodes if node.refused)
        why = self.trouble or refused or "no worker has joined it"
        return Places(local=self._local, nodes=self._cluster.usable, why_none=why)

    def new(self, promised: Mapping[str, float]) -> Places | None:
        """The machines that have something to give that carries nothing of ours, each once after it has joined; None
        when there is none. ``promised``: what carries something."""
        places = self.places
        joined = {(node.name, node.born) for node in places.nodes}
        self._tried &= joined
        fresh = unused(places, promised)
        found = tuple(node for node in fresh.nodes if (node.name, node.born) not in self._tried)
        self._tried |= joined
        return Places(local=False, nodes=found) if found else None

    def carrier(self, spec: ReplicaSpec) -> Carrier:
        """What carries a replica to where it is to be."""
        return ClusterCarrier(spec, self._bridge, ship=self._ship) if spec.node else LocalCarrier(spec)

    @property
    def cards(self) -> tuple[Card, ...]:
        """The other machines' GPUs as they were seen last."""
        return tuple(
            Card(
                uuid=card.uuid,
                index=card.index,
                name=card.name,
                used_mib=round((card.total_gib - card.free_gib) * MIB_PER_GIB),
                total_mib=round(card.total_gib * MIB_PER_GIB),
                processes={},
                node=node.name,
            )
            for node in self._cluster.usable
            for card in node.cards
        )
