"""Runs watcherd as on a machine without a GPU that has memory for one of its models at a time.

Only what is said of the memory is made up, and it looks for models to swap more often than every five seconds. Replicas
are real processes, and so is all else. Called as
``python room_for_one.py python -m watcherd ...``; the environment variable ``ROOM_FOR_ONE_KILLED`` names the moment of
a swap at which the service kills itself: ``ended``, when the model that goes has ended, or ``begun``, when the process
of the one that comes has been started.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from watcherd.cli.app import run
from watcherd.inference.pool.sharing import Demand, Limits, Shared, share_out
from watcherd.service import fleet, placing
from watcherd.service.replicas import Replicas

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOM_GIB = 15.0
NEED_GIB = 10.0
KILLED = os.environ.get("ROOM_FOR_ONE_KILLED", "")

begun = 0


class Counted(Replicas):
    """A model's replicas, of which it is known when they begin and end."""

    def start(self, specs: Any) -> None:
        global begun  # noqa: PLW0603 - one process, one fleet
        super().start(specs)
        begun += 1
        if begun > 1:
            die_at("begun")

    def stop(self, *, within: float) -> None:
        super().stop(within=within)
        die_at("ended")


def die_at(moment: str) -> None:
    if moment == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)


def share_apart(
    config: Any, names: Sequence[str], _devices: Any, *, taken: Any = (), more_host_gib: float = 0.0
) -> Shared:
    """In the host's memory, of which these models take next to nothing: all that they were promised is to come."""
    assert not taken, "there is no card that anybody could have taken"
    tables = [config.model_called(name) for name in names]
    demands = [
        Demand(name=name, sizes=None, dtype="float32", reserve_gib=NEED_GIB, share=table.share)
        for name, table in zip(names, tables, strict=True)
    ]
    return share_out(demands, (), Limits(replicas=1, host_gib=ROOM_GIB + more_host_gib))


def share(config: Any, names: Sequence[str], found: Any, held: placing.Held, freed: Any = None) -> Shared:
    return share_apart(config, names, found, more_host_gib=(freed or {}).get("", 0.0) - held.to_come.get("", 0.0))


if __name__ == "__main__":
    setattr(fleet, "Replicas", Counted)  # noqa: B010 - for mypy it is a class and not a variable
    fleet.LOOK_SECONDS = 0.2
    placing._share = share
    sys.exit(run(sys.argv[4:]))
