"""What ``watcherd doctor --repair`` puts right in the history, each under its name, and what it says that it did."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from watcherd.errors import UsageError
from watcherd.file_names import show
from watcherd.outbox.deliver import Outbox, hash_file
from watcherd.store import Claim, aside, deliveries, queue, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from watcherd.config import Config
    from watcherd.store import ArrivalInfo, Connection, Database
    from watcherd.values import Intent

SHOWN = 5
"""Items that are named; the others are counted."""


def repair(what: str, config: Config, database: Database, now: datetime) -> str:
    """Put one kind of thing right; what was done, in words. Raises `UsageError` for a kind that there is not."""
    kinds: dict[str, Callable[[Any], list[str]]] = {
        "rows": lambda c: unreadable.mend(c, now=now),
        "set-aside": _release,
        "promises": lambda c: _ask_again(c, config, now),
    }
    if what not in kinds:
        raise UsageError(f"There is nothing called {what!r} to repair.", hint="The daemon may be of another version.")
    done = database.write(kinds[what])
    return in_short(done) if done else "nothing had to be done"


def in_short(items: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    rest = len(items) - SHOWN
    return "; ".join(items[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _release(connection: Connection) -> list[str]:
    found = aside.everything(connection)
    aside.forget(connection, found)
    return [f"{item.item} is tried again" for item in found.values()]


Promised = tuple["Claim | ArrivalInfo", list["Intent"]]


def broken_promises(connection: Connection, config: Config) -> Iterator[tuple[Claim | ArrivalInfo, str]]:
    """Jobs and arrivals whose promised results cannot be brought, and why."""
    outbox = Outbox(config.outbox.path, layout=config.outbox.layout)
    promised: list[Promised] = [(claim, files) for claim, files in queue.delivering_jobs(connection)]
    for arrival in deliveries.arrivals_promised(connection):
        outputs = deliveries.outputs_of(connection, arrival.id)
        promised.append((arrival, [output.intent for output in outputs if output.state == "intended"]))
    for owner, files in promised:
        for file in files:
            if reason := _obstacle(outbox, os.fsencode(config.outbox.path) + b"/" + file.final, file):
                yield owner, reason
                break


def _obstacle(outbox: Outbox, path: bytes, file: Intent) -> str:
    """Why a promised file cannot be brought; empty: it can, or it is there."""
    if hash_file(path) == file.sha256:
        return ""
    place = outbox.place(file.final)
    if place != "free":
        return f"{show(file.final)} is {'taken' if place == 'taken' else 'in a folder that cannot be'}"
    return "" if file.staged.exists() else f"{show(file.final)} is gone from staging"


def _ask_again(connection: Connection, config: Config, now: datetime) -> list[str]:
    done = []
    for owner, reason in list(broken_promises(connection, config)):
        if isinstance(owner, Claim):
            queue.finish_delivery(connection, [owner], now=now)
        else:
            deliveries.finish_redelivery(connection, [owner.id], now=now)
        queue.ask_again(connection, [owner.job_id], now=now)
        done.append(f"job {owner.job_id} is computed again: {reason}")
    return done
