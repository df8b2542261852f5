"""The bridge: the one process that talks to the cluster, and so needs a network, which the main process has not.

It forks nothing: a process that is connected to Ray and forks mixes up values between parent and child. Each connection
is one replica, or somebody who asks for the machines. When a connection ends, its replica is ended; when the bridge
ends, Ray ends all of them. It decides nothing: deadlines, retries and starts after a death are the main process's.
"""

from __future__ import annotations

import contextlib
import select
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from watcherd.inference.cluster import wire
from watcherd.inference.cluster.host import Parcel
from watcherd.inference.messages import NotSegmented, Segmented
from watcherd.inference.pool.carrier import Ended, NoRoomError
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from watcherd.inference.cluster.host import Answer
    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.messages import FromReplica, ReplicaSpec, WorkItem


LISTEN_SECONDS = 0.5
"""Seconds between two looks whether the bridge is to stop."""


class Remote(Protocol):
    """A replica's process on a node. One thread calls `receive`, another one all the rest."""

    pid: int

    def work(self, parcels: Sequence[Parcel]) -> None:
        """Hand over a batch, without waiting for it. Raises `Ended`."""

    def receive(self) -> Answer | None:
        """Wait for what it says, for a second at most. Raises `Ended` when it can be asked no more."""

    def ask_for_stack(self) -> None:
        """Have it write down what its threads are doing; a while is waited for an answer."""

    def bury(self) -> str | None:
        """End it now, wait for a while until it is gone, and return what it wrote of its stack; None when its machine
        did not answer. Raises nothing."""

    def end(self) -> None:
        """End it in good order, or as `bury` does. Raises nothing."""


class Engine(Protocol):
    """What the bridge needs of a cluster: `on_ray.Ray`, or a pretended one in the tests. Any thread calls it."""

    def nodes(self) -> tuple[Node, ...]:
        """Every machine, as it was seen last."""

    def start(self, spec: ReplicaSpec, *, ship: bool) -> Remote:
        """Start a replica's process on the node that ``spec`` names. Raises `NoRoomError` when it cannot be now."""


def serve(listener: socket.socket, engine: Engine, stop: threading.Event) -> None:
    """Take connections until ``stop`` is set, each in a thread of its own; then close the listener."""
    listener.settimeout(LISTEN_SECONDS)
    with listener:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            session = Session(wire.Channel(connection, trusting=True), engine)
            NamedThread(target=session.run, name="session", daemon=True).start()


class Session:
    """One connection of the main process. Its own thread reads; a second one passes on what the replica says."""

    def __init__(self, channel: wire.Channel, engine: Engine) -> None:
        self._channel = channel
        self._engine = engine
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._asked: dict[int, WorkItem] = {}

    def run(self) -> None:
        """Answer until the connection ends."""
        try:
            while (message := self._next()) is not None:
                if isinstance(message, wire.AskNodes):
                    self._channel.send(wire.Nodes(nodes=self._engine.nodes()))
                elif isinstance(message, wire.Start):
                    self._carry(message)
                    return
        except OSError:
            return  # whoever asked has gone
        finally:
            self._channel.close()

    def _next(self) -> object | None:
        """The next message; None at the end of the connection."""
        while not self._channel.waiting:
            try:
                select.select([self._channel], [], [])
                self._channel.receive()
            except (EOFError, OSError):
                return None
        message: object = self._channel.waiting.popleft()
        return message

    def _carry(self, start: wire.Start) -> None:
        log = get_logger()
        try:
            remote = self._engine.start(start.spec, ship=start.ship)
        except NoRoomError as error:
            self._channel.send(wire.NoRoom(reason=str(error)))
            return
        log.info("bridge_started", replica=start.spec.number, node=start.spec.node, pid=remote.pid)
        listener = NamedThread(target=self._listen, args=(remote,), name="listen", daemon=True)
        in_order = False
        try:
            self._channel.send(wire.Started(pid=remote.pid))
            listener.start()
            in_order = self._obey(remote)
        finally:
            self._over.set()
            stack: str | None = ""
            if in_order:
                remote.end()
            else:
                stack = remote.bury()
            log.info("bridge_ended", replica=start.spec.number, node=start.spec.node, pid=remote.pid)
            with contextlib.suppress(OSError):
                self._channel.send(wire.Gone(stack=stack or "", lost=stack is None))

    def _obey(self, remote: Remote) -> bool:
        """Do what the main process says, until the replica is to end; whether in good order."""
        while (message := self._next()) is not None:
            if isinstance(message, wire.Work):
                self._work(remote, message.items)
            elif isinstance(message, wire.AskStack):
                remote.ask_for_stack()
            elif isinstance(message, wire.Kill | wire.End):
                return isinstance(message, wire.End)
        return False

    def _work(self, remote: Remote, items: Sequence[WorkItem]) -> None:
        with self._lock:
            self._asked |= {item.job_id: item for item in items}
        try:
            remote.work([_packed(item) for item in items])
        except Ended as end:
            self._tell_over(wire.Over(reason=end.reason, stack=end.stack, lost=end.lost))
        except OSError as error:
            self._tell_over(wire.Over(reason=f"a decoded scan cannot be read: {error}", lost=True))

    def _listen(self, remote: Remote) -> None:
        """Pass on what the replica says, once the results are where they were asked for."""
        try:
            while not self._over.is_set():
                answer = remote.receive()
                if answer is None:
                    continue
                if messages := tuple(each for each in map(partial(self._ours, answer), answer.messages) if each):
                    self._channel.send(wire.Said(messages=messages))
                if answer.over is not None:
                    self._tell_over(wire.Over(reason=answer.over, stack=answer.stack, lost=answer.lost))
                    return
        except Ended as end:
            self._tell_over(wire.Over(reason=end.reason, stack=end.stack, lost=end.lost))
        except OSError as error:
            self._tell_over(wire.Over(reason=f"the results cannot be written: {error}", lost=True))

    def _ours(self, answer: Answer, message: FromReplica) -> FromReplica | None:
        """The message with this machine's paths; None for an answer to what was not asked, or not in this attempt."""
        if not isinstance(message, Segmented | NotSegmented):
            return message
        with self._lock:
            item = self._asked.get(message.job_id)
            if item is None or (isinstance(message, Segmented) and message.mask.name != f"{item.target.name}-mask.npy"):
                return None
            del self._asked[message.job_id]
        return self._put(message, item.target, answer) if isinstance(message, Segmented) else message

    def _put(self, outcome: Segmented, target: Path, answer: Answer) -> Segmented:
        """Write a scan's results, under the paths that the main process gave. No other attempt has the same ones."""
        mask, probability = answer.files[outcome.job_id]
        mask_path = target.with_name(target.name + "-mask.npy")
        mask.tofile(mask_path)
        probability_path = None
        if probability is not None:
            probability_path = target.with_name(target.name + "-probability.npy")
            probability.tofile(probability_path)
        return replace(outcome, mask=mask_path, probability=probability_path)

    def _tell_over(self, over: wire.Over) -> None:
        if not self._over.is_set():
            with contextlib.suppress(OSError):
                self._channel.send(over)


def _packed(item: WorkItem) -> Parcel:
    volume = None if item.volume is None else np.fromfile(item.volume.path, np.uint8)
    return Parcel(item=item, decoded=np.fromfile(item.decoded, np.uint8), volume=volume)
