"""Starts the daemon with a fault in each of its loops, for what is named after the loop: ``bad-<loop>``.

Called with the command line that would have started it without them: ``planted.py python -m watcherd run ...``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SAID = "nobody has foreseen this"


class PlantedError(Exception):
    """Not one of ours."""


def fault(owner: Any, name: str, loop: str, seen: Callable[..., object]) -> None:
    """Have a function fail where ``seen`` shows, of its arguments, something that is named after the loop."""
    real = getattr(owner, name)

    def planted(*arguments: Any, **named: Any) -> Any:
        if f"bad-{loop}" in str(seen(*arguments, **named)):
            raise PlantedError(SAID)
        return real(*arguments, **named)

    setattr(owner, name, planted)


def plant() -> None:
    from watcherd.delivery import other_names, promise, sources
    from watcherd.inbox import ingest, sidecars
    from watcherd.notify import hooks
    from watcherd.outbox import deliver
    from watcherd.pipeline import draw, feed
    from watcherd.service import job_commands

    fault(ingest._Taking, "outcome", "intake", lambda taking: taking._path)
    fault(sidecars.Sidecars, "_asked", "sidecars", lambda _self, item, *_, **__: item.candidate.path)
    fault(feed.Feed, "_decode", "decode", lambda _self, flight: flight.job.source)
    fault(feed, "arrange", "runs", lambda flights, **_: [flight.job.source for flight in flights])
    fault(draw.Draw, "render", "draw", lambda _self, flight, _segmented: flight.job.source)
    fault(promise.Promises, "_promise", "stage", lambda _self, item, *_: item.flight.job.source)
    fault(deliver.Outbox, "publish", "publish", lambda _self, files: files)
    fault(deliver.Outbox, "publish", "recover", lambda _self, files: files)
    fault(other_names.OtherNames, "_promise", "names", lambda _self, _connection, arrival, *_: arrival.source)
    fault(sources, "dispose", "dispose", lambda sources, **_: [source.path for source in sources])
    fault(hooks.Hooks, "_call", "hooks", lambda _self, _call, record: record["source"])
    real = job_commands.JobCommands.carry_out

    def carry_out(self: Any, command: Any) -> str:
        if command.verb == "prioritise":
            raise PlantedError(SAID)
        return real(self, command)

    job_commands.JobCommands.carry_out = carry_out  # type: ignore[method-assign]


if __name__ == "__main__":
    plant()
    from watcherd.cli.app import run

    sys.exit(run(sys.argv[sys.argv.index("watcherd") + 1 :]))
