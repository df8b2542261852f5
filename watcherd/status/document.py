"""What is going on, put together for `status` and `top`: read from the database and the state folder, nothing asked.

Any user may read it who may read the state folder, with the daemon up, down, hanging or killed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.inbox import mounts
from watcherd.job import State
from watcherd.state import live
from watcherd.state.mailbox import PAUSED_SINCE
from watcherd.store import aside, history, moment, overview, reader, runs

if TYPE_CHECKING:
    from watcherd.config import Config
    from watcherd.store import Connection

RATE_MINUTES = 10.0
SHORTEST_RATE = 1.0
"""Minutes that a rate is taken over, at least; usually the last ten, or those since the start."""
FAILURES = 3
LOW_TIMES = 4
"""Multiple of `limits.min_free_mib` below which a disk is called low."""
SMALL_SHARE = 0.02
"""Part of a small disk that is room enough, as in `pauses.SMALL_SHARE`."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def gather(settings: Config, *, now: datetime | None = None, count_today: bool = True) -> dict[str, Any]:
    """Everything about this moment, as JSON would have it.

    ``count_today``: how many jobs ended since midnight, which takes a look at each of them.

    Raises `StoreError` without a readable history and `UnavailableError` when the state folder may not be read.
    """
    now = now or datetime.now(UTC)
    daemon = live.read(settings.state.path, settings.state.lock)
    with reader(settings.state.database) as connection:
        counts = history.counts(connection)
        rate = history.rate(connection, minutes=rate_minutes(daemon, now), now=now)
        answer: dict[str, Any] = {
            "at": now.isoformat(timespec="seconds"),
            "alive": daemon is not None,
            "daemon": daemon,
            "paused_since": runs.setting(connection, PAUSED_SINCE),
            "jobs": {state.value: count for state, count in counts.items()},
            "today": overview.today(connection) if count_today else {},
            "arrivals": history.fates(connection),
            "queue": overview.queue(connection, now=now),
            "queued_by_model": overview.queued_by_model(connection),
            "per_minute": round(rate.per_minute, 2),
            "rate_minutes": round(rate.minutes, 1),
            "oldest_queued": history.oldest_queued(connection),
            "active": history.active(connection),
            "last_run": _last_run(connection),
            "last_event_at": overview.last_event_at(connection),
            "failures": history.failures(connection, FAILURES),
            "set_aside": [
                asdict(item) | {"left_alone": item.left_alone} for item in aside.everything(connection).values()
            ],
        }
    waiting = counts[State.QUEUED] + counts[State.RUNNING]
    answer["backlog_seconds"] = round(60 * waiting / rate.per_minute) if waiting and rate.per_minute else None
    answer["disks"] = disks(settings)
    return answer


def rate_minutes(daemon: dict[str, Any] | None, now: datetime) -> float:
    """Over how long to look: a daemon that has just begun has not been idle before."""
    if daemon is None or "started_at" not in daemon:
        return RATE_MINUTES
    up = (now - datetime.fromisoformat(daemon["started_at"])).total_seconds() / 60
    return min(RATE_MINUTES, max(SHORTEST_RATE, up))


def _last_run(connection: Connection) -> dict[str, Any] | None:
    """The daemon's last run; ``rebooted``: the machine was started anew since it began."""
    last = next(iter(history.runs(connection, 1)), None)
    if last is None:
        return None
    try:
        rebooted = last["boot_id"] is not None and last["boot_id"] != BOOT_ID.read_text().strip()
    except OSError:
        rebooted = False
    return last | {"rebooted": rebooted}


def disks(settings: Config) -> list[dict[str, Any]]:
    """The room for the state folder and the outbox; a share that does not answer would hang us, so none on those."""
    found = []
    for name, folder in (("state", settings.state.path), ("outbox", settings.outbox.path)):
        mount = mounts.mount_at(folder)
        if mount is not None and mount.is_network:
            continue
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        wanted = min(settings.limits.min_free_mib << 20, int(usage.total * SMALL_SHARE))
        found.append(
            {
                "folder": name,
                "path": str(folder),
                "free_mib": usage.free >> 20,
                "total_mib": usage.total >> 20,
                "state": "full" if usage.free < max(wanted, 1 << 16) else "low" if _low(usage.free, wanted) else "ok",
            }
        )
    return found


def _low(free: int, wanted: int) -> bool:
    return free < LOW_TIMES * wanted


def seconds_since(stamp: str, now: datetime) -> float:
    """Since a stored time; never negative."""
    return max(0.0, (now - moment(stamp)).total_seconds())
