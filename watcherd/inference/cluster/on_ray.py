"""The cluster as Ray has it: which machines there are, and a replica's process on one of them as an actor.

Ray places nothing by itself here: each actor names its node and asks for whole cards there, or for none. Nor does Ray
start anything again (``max_restarts``, ``max_task_retries`` are 0). Measured with Ray 2.60: what cannot be placed waits
without an exception, calls to a stopped node hang until Ray counts it as dead, and an array that went through the
object store is read-only. So every wait here has a limit of its own.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError
from watcherd.inference.cluster import host
from watcherd.inference.cluster.nodes import CARD, ROLE, Node
from watcherd.inference.cluster.shipping import Shipper
from watcherd.inference.pool.carrier import Ended, NoRoomError
from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.config import Config
    from watcherd.inference.cluster.host import Answer, Parcel
    from watcherd.inference.messages import ReplicaSpec

LOOK_SECONDS = 1.0
"""Seconds between two looks at Ray's nodes."""
DESCRIBE_SECONDS = 10.0
"""Seconds after which a node is asked again what is free on it."""
ANSWER_SECONDS = 30.0
"""Seconds after which a node that has not described itself is refused; a first answer starts a Python there."""
START_SECONDS = 90.0
"""Seconds for an actor to be placed and its process to be started, with what is imported before it is forked."""
WAIT_SECONDS = 1.0
"""Seconds that `Remote.receive` waits at most."""
BURY_SECONDS = 12.0
"""Seconds for a process on a node to be gone and its memory free."""
STACK_SECONDS = 1.0


def connect(config: Config) -> None:
    """Connect this process to the cluster. Raises `UnavailableError` when that cannot be."""
    token = config.cluster_token
    if not token.is_file():
        raise UnavailableError(
            f"There is no token at {token}.", hint="`watcherd head` makes one; or copy the file from where the head is."
        )
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    try:
        ray.init(
            address=config.cluster.address,
            namespace="watcherd",
            log_to_driver=False,
            configure_logging=False,
            include_dashboard=False,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnavailableError(
            f"Ray cannot be reached at {config.cluster.address!r}: {first}",
            hint="Is `watcherd head` running, and is it the same token? A wrong one looks like a head that is away.",
        ) from error


@dataclass(kw_only=True, slots=True)
class _Watched:
    """A node of Ray's. ``asked``: a description that is under way, since ``since`` (of `time.monotonic`)."""

    agent: Any
    node: Node
    port: int
    asked: Any = None
    since: float = 0.0
    described: bool = False


class Ray:
    """See `bridge.Engine`. Its own thread looks at the nodes; the sessions' threads start replicas.

    ``local``: the main process uses this machine's cards itself, so the node here carries nothing.
    """

    def __init__(self, *, local: bool) -> None:
        import ray

        self._ray = ray
        self._local = local
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._resources: dict[str, dict[str, float]] = {}
        self._former: set[str] = set()
        self._shipper = Shipper()
        self._here = ray.get_runtime_context().get_node_id()
        self._log = get_logger()

    # ------------------------------------------------------------------------------------------------------- machines

    def nodes(self) -> tuple[Node, ...]:
        """Every machine as it was seen last, but the head and, where the main process uses it, this one."""
        with self._lock:
            return tuple(sorted((each.node for each in self._watched.values()), key=lambda node: node.name))

    def watch(self, stop: threading.Event) -> None:
        """Look at the nodes until ``stop`` is set. Raises what Ray raises when it cannot be asked any more."""
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """See which nodes there are now, and ask them about themselves when that is due."""
        alive = {each["NodeID"]: each for each in self._ray.nodes() if each["Alive"]}
        for born in [born for born in self._watched if born not in alive]:
            self._log.warning("node_left", node=self._watched[born].node.name)
            with self._lock:
                del self._watched[born]
        for born, found in alive.items():
            if self._carries(born, found):
                self._resources[born] = dict(found["Resources"])
                self._see(born, found)

    def _carries(self, born: str, found: dict[str, Any]) -> bool:
        is_head = found.get("Labels", {}).get(ROLE) == "head"
        return not is_head and born not in self._former and not (self._local and born == self._here)

    def _see(self, born: str, found: dict[str, Any]) -> None:
        watched = self._watched.get(born)
        if watched is None:
            name, address = found["NodeManagerHostname"], found["NodeManagerAddress"]
            node = Node(name=name, address=address, born=born, refused="it has not said yet what it has")
            watched = _Watched(agent=self._agent(born), node=node, port=int(found["NodeManagerPort"]))
            with self._lock:
                self._watched[born] = watched
        now = time.monotonic()
        if watched.asked is None and (not watched.described or now - watched.since >= DESCRIBE_SECONDS):
            watched.asked, watched.since = watched.agent.describe.remote(born), now
        if watched.asked is not None:
            self._hear(watched, now)

    def _agent(self, born: str) -> Any:
        agent = self._ray.remote(num_cpus=0, max_restarts=0, max_concurrency=4)(host.Agent)
        return agent.options(scheduling_strategy=self._only_on(born)).remote()

    def _hear(self, watched: _Watched, now: float) -> None:
        """Take a node's description of itself, if it is there."""
        ready, _ = self._ray.wait([watched.asked], timeout=0)
        before = watched.node
        if ready:
            node = self._described(watched)
            watched.asked, watched.described = None, True
        elif now - watched.since > ANSWER_SECONDS:
            node = replace(before, refused=f"it has not answered for {ANSWER_SECONDS:g} s")
        else:
            return
        with self._lock:
            watched.node = node
        if node.refused and node.refused != before.refused:
            self._log.error("node_refused", node=node.name, reason=node.refused)
        elif before.refused and not node.refused:
            self._log.info("node_joined", node=node.name, address=node.address, cards=len(node.cards))

    def _described(self, watched: _Watched) -> Node:
        before = watched.node
        try:
            found: Node = self._ray.get(watched.asked)
        except Exception as error:  # of a node with another watcherd, or with none: anything
            first = (str(getattr(error, "cause", None) or error).strip().splitlines() or [""])[-1]
            return replace(before, refused=f"watcherd cannot be used there: {first}")
        node = replace(found, address=before.address)
        self._forget_former(node, watched.port)
        node = replace(node, name=self._name(node, watched.port))
        if node.version != version("watcherd"):
            here = version("watcherd")
            return replace(node, refused=f"it has watcherd {node.version}, and this machine {here}: install the same")
        return node

    def _forget_former(self, node: Node, port: int) -> None:
        """A machine that came back before Ray has noticed that it was away is there once."""
        here = (node.address, port)
        former = [each for each in self._watched.values() if (each.node.address, each.port) == here]
        for each in former:
            if each.node.born != node.born:
                self._former.add(each.node.born)
                with self._lock:
                    del self._watched[each.node.born]

    def _name(self, node: Node, port: int) -> str:
        """The host's name; with its address behind it where another machine has the same one, and with its port where
        two nodes are on one machine."""
        others = {each.node.name for each in self._watched.values() if each.node.born != node.born}
        names = (node.name, f"{node.name}@{node.address}", f"{node.name}@{node.address}-{port}")
        return next((name for name in names if name not in others), names[-1])

    def _only_on(self, born: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(born, soft=False)

    # ------------------------------------------------------------------------------------------------------- replicas

    def start(self, spec: ReplicaSpec, *, ship: bool) -> Actor:
        """An actor on the node, with the process beside it. All its cards are on one machine, since one actor asks for
        them. Raises `NoRoomError`."""
        found = self._node_for(spec)
        born = found.node.born
        if ship:
            spec = self._shipper.there(spec, found.agent, born)
        owned = {f"{CARD}{uuid}": 1 for uuid in spec.visible}
        known = self._resources.get(born, {})
        actor = self._ray.remote(host.Host).options(
            num_cpus=0,
            num_gpus=len(spec.visible),
            resources={name: count for name, count in owned.items() if name in known},
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=8,
            scheduling_strategy=self._only_on(born),
        )
        from ray.exceptions import GetTimeoutError, RayError

        handle = None
        try:
            handle = actor.remote(spec)
            pid = self._ray.get(handle.start.remote(), timeout=START_SECONDS)
        except (RayError, ValueError) as error:
            if handle is not None:
                kill(handle)
            if isinstance(error, GetTimeoutError):
                raise NoRoomError(f"Ray found no room on {spec.node} within {START_SECONDS:g} s") from None
            raise NoRoomError(f"{spec.node}: {last_line(error)}") from None
        return Actor(handle, pid)

    def _node_for(self, spec: ReplicaSpec) -> _Watched:
        """The machine that has the replica's cards, or, for one on processors, its name. Raises `NoRoomError`."""
        cards = set(spec.visible)
        with self._lock:
            watched = list(self._watched.values())
        if cards:
            found = [each for each in watched if cards <= {card.uuid for card in each.node.cards}]
        else:
            found = [each for each in watched if each.node.name == spec.node]
        if not found:
            refused = [each.node.refused for each in watched if each.node.name == spec.node]
            why = f"is refused: {refused[0]}" if any(refused) else "has not these cards" if refused else "is not there"
            raise NoRoomError(f"the machine {spec.node} {why}")
        if found[0].node.refused:
            raise NoRoomError(f"the machine {spec.node} is refused: {found[0].node.refused}")
        return found[0]


class Actor:
    """See `bridge.Remote`."""

    def __init__(self, handle: Any, pid: int) -> None:
        self.pid = pid
        self._handle = handle
        self._sent = 0
        self._asked: Any = None

    def work(self, parcels: Sequence[Parcel]) -> None:
        """Through the object store. Raises `Ended` when it has no room, or the node is lost."""
        from ray.exceptions import RayError

        try:
            self._handle.work.remote(self._sent, parcels)
        except RayError as error:
            raise Ended(last_line(error), lost=True) from None
        self._sent += 1

    def receive(self) -> Answer | None:
        """Ask it, or wait for the answer to what was asked. Raises `Ended` when the node or the actor is lost."""
        import ray
        from ray.exceptions import RayError

        try:
            if self._asked is None:
                self._asked = self._handle.receive.remote()
            ready, _ = ray.wait([self._asked], timeout=WAIT_SECONDS)
            if not ready:
                return None
            answered, self._asked = self._asked, self._handle.receive.remote()
            answer: Answer = ray.get(answered, timeout=START_SECONDS)
        except RayError as error:
            raise Ended(last_line(error), lost=True) from None
        return answer

    def ask_for_stack(self) -> None:
        """See `bridge.Remote`."""
        self._ask(self._handle.ask_for_stack, STACK_SECONDS)

    def bury(self) -> str | None:
        """See `bridge.Remote`."""
        stack: str | None = self._ask(self._handle.bury, BURY_SECONDS)
        kill(self._handle)
        return stack

    def end(self) -> None:
        """See `bridge.Remote`."""
        self._ask(self._handle.end, BURY_SECONDS)
        kill(self._handle)

    def _ask(self, method: Any, seconds: float) -> Any:
        """What the node says, or None when it says nothing in time or is lost: nothing is left to be done about it."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(method.remote(), timeout=seconds)
        except RayError:
            return None


def kill(handle: Any) -> None:
    """End an actor, and with it the process that it started; one on a lost node ends when the node comes back."""
    import ray
    from ray.exceptions import RayError

    try:
        ray.kill(handle)
    except (RayError, ValueError):
        return


def last_line(error: Exception) -> str:
    """What Ray says, without the pages in front of it."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"
