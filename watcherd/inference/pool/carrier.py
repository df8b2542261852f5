"""Where a replica runs: what its thread asks of a process, be it on this machine or on another one.

`local.LocalCarrier` is the process on this machine. A carrier for another machine implements the same methods;
nothing else has to change, neither in this package nor in front of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Event

    from watcherd.inference.messages import FromReplica, ReplicaSpec, Segmented, WorkItem
    from watcherd.inference.pool.bell import Bell


class Ended(Exception):  # noqa: N818 - not an error of ours: the end of a process, with its reason
    """The process has ended, or was killed. ``stack``: what it wrote before, if anything. ``lost``: nobody knows what
    became of it, for its machine cannot be reached: no scan and no model is blamed for that."""

    def __init__(self, reason: str, stack: str = "", *, lost: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.stack = stack
        self.lost = lost


class SilentError(Exception):
    """The process has said nothing for as long as it was given."""


class NoRoomError(Exception):
    """No process can be started at the moment: no death of the model's."""


class Carrier(Protocol):
    """Carries one replica: starts its process, talks to it, ends it, and starts it again after a death.

    The replica's own thread (`member.Member`) calls everything, in the order that each method names; `kill` may be
    called by the thread that stops the pool, too, at any time. A carrier is made by a `Carriers` with its
    `ReplicaSpec`, whose paths are this machine's.

    Paths do not cross machines: `bring` and `fetch` turn this machine's paths into the replica's and back, and copy
    what is behind them. Where both share a file system they change nothing.
    """

    def start(self) -> int:
        """Start a process that loads the model, and return its pid on its machine. Called first, and after each death.

        Does not wait for the model: `receive` says how far it is. The carrier sees to it that the model's folder and
        ``spec.cache`` are there. The process must die when this one does.

        Raises `NoRoomError` when there is no room for a process now; it is tried again then. Any other error gives the
        replica up.
        """

    def bring(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Copy the decoded scans there, and return the items with their paths there. Called just before `send`.

        Counts towards the batch's time. Raises `Ended` when the machine cannot be reached.
        """

    def send(self, items: Sequence[WorkItem]) -> None:
        """Hand over a batch that was brought, without waiting for it. Raises `Ended`."""

    def receive(self, seconds: float, bell: Bell | None = None) -> Sequence[FromReplica] | None:
        """Wait for the next messages, and return those that came together. Called while it loads or has a batch.

        Returns None when the bell rang first, which is answered then. Raises `SilentError` after ``seconds`` without
        either, and `Ended` as soon as the process has ended and all that it said before has been returned.
        """

    def rest(self, bell: Bell) -> None:
        """Wait until the bell rings, and answer it. Called while the process has no work. Raises `Ended` at once
        when the process ends meanwhile."""

    def fetch(self, outcome: Segmented) -> Segmented:
        """Copy a scan's results to this machine, and return the outcome with the paths that its `WorkItem` asked for.

        Called for each scan before anybody hears that it is segmented; what was copied there is not needed after
        that. Raises `Ended` when the results cannot be had any more: then the scan counts as not answered.
        """

    def ask_for_stack(self) -> bool:
        """Have a hung process write down what each of its threads is doing; False when there is no process to ask.
        Called before `kill`; the process gets a moment to write."""

    def stack(self) -> str:
        """What the process wrote of its stack, before or after its end; empty when there is nothing. Raises nothing."""

    def kill(self) -> None:
        """End the process now, if there is one. Does not wait. Called by any thread, any number of times."""

    def join(self, seconds: float | None = None) -> None:
        """Wait until the process is gone, at most for ``seconds``. Called after `kill`."""

    def unreachable(self) -> bool:
        """Whether its machine did not answer when the process was to be ended: a silence before was not the model's.
        Called after `join`."""

    def wait_released(self, stop: Event) -> None:
        """Wait until its devices' memory is free again, or ``stop`` is set, or it takes too long. Called after a death
        and before the next `start`."""

    def end(self) -> None:
        """End the process in good order, or by force if it does not end by itself. Called last, when it has no work;
        also when it was never started. Raises nothing."""


Carriers: TypeAlias = "Callable[[ReplicaSpec], Carrier]"
"""Makes the carrier of a replica, and so decides where it runs. Starts nothing."""
