"""A replica on another machine, as the main process carries it: a connection to the bridge, which does the rest.

Nothing here knows Ray. What a local process's pipe and sentinel are, the connection is here: its end is the replica's.
"""

from __future__ import annotations

import pickle
import select
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from watcherd.inference.cluster import nodes, wire
from watcherd.inference.messages import NotSegmented, Ready, Segmented
from watcherd.inference.pool.carrier import Ended, NoRoomError, SilentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from threading import Event

    from watcherd.inference.messages import FromReplica, ReplicaSpec, WorkItem
    from watcherd.inference.pool.bell import Bell
    from watcherd.values import DeviceUse

START_SECONDS = 120.0
"""Seconds for a process to be there, on a node that has room for it; its model is loaded after that."""
END_SECONDS = 30.0
"""Seconds for the bridge to say that a process is gone. It has limits of its own, which are shorter."""


class ClusterCarrier:
    """A process on the node that its `ReplicaSpec` names (see `Carrier`). Only `kill` is called by other threads than
    the replica's own.

    ``bridge``: its socket. ``ship``: copy the model's folder there first.
    """

    def __init__(self, spec: ReplicaSpec, bridge: Path, *, ship: bool = False) -> None:
        self._spec = spec
        self._bridge = bridge
        self._ship = ship
        self._channel: wire.Channel | None = None
        self._runs = False
        self._unreachable = False
        self._stack = ""

    def start(self) -> int:
        """Have the bridge start a process there. Raises `NoRoomError` while the bridge, the node or room on it is
        missing, or the model is being copied."""
        self._close()
        self._stack, self._unreachable = "", False
        try:
            self._channel = wire.connect(self._bridge)
            self._channel.send(wire.Start(spec=self._spec, ship=self._ship))
            answer = self._next(time.monotonic() + START_SECONDS)
        except SilentError:
            raise self._away(f"the bridge has not answered for {START_SECONDS:g} s") from None
        except Ended as end:
            raise self._away(end.reason) from None
        except OSError:
            raise self._away(nodes.NO_BRIDGE) from None
        if isinstance(answer, wire.Started):
            self._runs = True
            return answer.pid
        raise self._away(answer.reason if isinstance(answer, wire.NoRoom | wire.Over) else "it was not started")

    def bring(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Nothing to do: the bridge reads the files, which are on its machine, and sends what is in them."""
        return items

    def send(self, items: Sequence[WorkItem]) -> None:
        """Through the bridge. Raises `Ended` when it is gone."""
        self._tell(wire.Work(items=tuple(items)))

    def receive(self, seconds: float, bell: Bell | None = None) -> Sequence[FromReplica] | None:
        """What the bridge passes on; what it has said before its end, or the replica's, is read before that counts."""
        message = self._next(time.monotonic() + seconds, bell)
        if message is None:
            return None
        if isinstance(message, wire.Said):
            return [self._ours(each) for each in message.messages]
        raise self._over(message)

    def rest(self, bell: Bell) -> None:
        """Sleep until the bell rings. Raises `Ended` when the process, its node or the bridge ends first."""
        while (message := self._next(None, bell)) is not None:
            if not isinstance(message, wire.Said):  # a last mark of the batch before is no end
                raise self._over(message)

    def fetch(self, outcome: Segmented) -> Segmented:
        """Nothing to do: the bridge has put the results where they were asked for before it told of them."""
        return outcome

    def ask_for_stack(self) -> bool:
        """Through the bridge; False when it is gone."""
        try:
            self._tell(wire.AskStack())
        except Ended:
            return False
        return True

    def stack(self) -> str:
        """What came with the process's end."""
        return self._stack

    def kill(self) -> None:
        """Through the bridge; one that does not take the order ends the process when the connection ends."""
        channel = self._channel
        if channel is None:
            return
        if not self._runs:  # it is being started, and the bridge reads nothing before that is done
            channel.shut()
            return
        try:
            channel.send(wire.Kill())
        except OSError:
            channel.shut()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the bridge says that the process is gone, or is gone itself."""
        deadline = time.monotonic() + (END_SECONDS if seconds is None else seconds)
        try:
            while not isinstance(message := self._next(deadline), wire.Gone):
                if isinstance(message, wire.Over):
                    self._stack = message.stack or self._stack
            self._stack, self._unreachable = message.stack or self._stack, message.lost
        except SilentError:
            self._unreachable = True
            if seconds is not None:
                return
        except Ended:
            self._unreachable = True
        self._close()

    def unreachable(self) -> bool:
        """Whether the node did not say that the process is gone."""
        return self._unreachable

    def wait_released(self, stop: Event) -> None:
        """Nothing to do: the bridge has said that all is gone when the memory was free."""

    def end(self) -> None:
        """Ask the bridge to end it, and wait until it has."""
        if self._channel is None:
            return
        try:
            self._channel.send(wire.End())
        except OSError:
            self._channel.shut()
        self.join()

    # ----------------------------------------------------------------------------------------------------------------

    def _tell(self, message: object) -> None:
        if self._channel is None:
            raise self._lost()
        try:
            self._channel.send(message)
        except OSError:
            raise self._lost() from None

    def _next(self, deadline: float | None, bell: Bell | None = None) -> Any:
        """The next message; None when the bell rang first. Raises `SilentError` at the deadline, `Ended` at the end."""
        channel = self._channel
        if channel is None:
            raise self._lost()
        sources: list[Any] = [channel] if bell is None else [channel, bell]
        while not channel.waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                ready, _, _ = select.select(sources, [], [], left)
                if not ready:
                    raise SilentError
                if channel in ready:
                    channel.receive()
                elif bell is not None:
                    bell.answer()
                    return None
            except (EOFError, OSError, ValueError):
                raise self._lost() from None
            except pickle.UnpicklingError as error:
                channel.shut()
                raise Ended(f"the bridge to the cluster cannot be understood: {error}", lost=True) from None
        return channel.waiting.popleft()

    def _over(self, message: object) -> Ended:
        if isinstance(message, wire.Over):
            self._stack = message.stack
            return Ended(message.reason, message.stack, lost=message.lost)
        return Ended("it was ended", self._stack)

    def _lost(self) -> Ended:
        return Ended("the bridge to the cluster has ended", self._stack, lost=True)

    def _away(self, reason: str) -> NoRoomError:
        self._close()
        return NoRoomError(reason)

    def _close(self) -> None:
        channel, self._channel, self._runs = self._channel, None, False
        if channel is not None:
            channel.close()

    def _ours(self, message: FromReplica) -> FromReplica:
        """The message with this machine's path of the model in it, and the node's name in front of its devices."""
        if isinstance(message, Segmented | NotSegmented):
            return replace(message, devices=self._named(message.devices))
        if isinstance(message, Ready):
            path = self._spec.model.path
            info = message.info
            if self._ship and path is not None and info.model.startswith("/"):
                info = replace(info, model=str(path))
            return replace(message, info=info, weights=self._named(message.weights))
        return message

    def _named(self, uses: Sequence[DeviceUse]) -> tuple[DeviceUse, ...]:
        return tuple(replace(use, device=f"{self._spec.node}:{use.device}") for use in uses)
