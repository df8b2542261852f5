"""Made-up moments in a daemon's life, as `watcherd.status.document.gather` would tell of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)


def ago(**how_long: float) -> str:
    """A stored time so long before `NOW`."""
    return (NOW - timedelta(**how_long)).isoformat(timespec="milliseconds")[:-6] + "Z"


def replica(number: int, phase: str = "idle", **changes: Any) -> dict[str, Any]:
    """A replica with a card of its own."""
    return {
        "number": number,
        "phase": phase,
        "devices": [f"GPU-{number}aaaaaaaaaa"],
        "pid": 500 + number,
        "stage": "",
        "fraction": None,
        "restarts": 0,
        "jobs": [],
        "last_error": "",
    } | changes


def card(number: int, used_mib: int | None = 20_000) -> dict[str, Any]:
    """The card of replica ``number``."""
    processes = {str(500 + number): 18_432} if used_mib else {}
    return {
        "uuid": f"GPU-{number}aaaaaaaaaa",
        "index": number,
        "name": "Made-up GPU",
        "used_mib": used_mib,
        "total_mib": 81_920,
        "processes": processes,
    }


def daemon(**changes: Any) -> dict[str, Any]:
    """A daemon at work with two replicas."""
    return {
        "pid": 42,
        "phase": "running",
        "started_at": ago(hours=2, minutes=5),
        "held": False,
        "paused": {},
        "inbox": {
            "online": True,
            "reason": "",
            "filesystem": "ext4",
            "sweep_seconds": 60.0,
            "swept_at": ago(seconds=30),
        },
        "replicas": [replica(0, "busy", stage="segmenting", jobs=[7, 8]), replica(1)],
        "model": {"segmenter": "vessel", "model": "vessel", "revision": "1", "dtype": "float32"},
        "cards": [card(0), card(1)],
    } | changes


def answer(alive: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """What is found when ``alive`` is what the daemon wrote last; None: no daemon holds the lock."""
    return {
        "alive": alive is not None,
        "daemon": alive,
        "paused_since": None,
        "jobs": dict.fromkeys(("queued", "running", "delivering", "succeeded", "failed", "quarantined", "cancelled"), 0)
        | {"queued": 100, "running": 2, "succeeded": 5000},
        "today": {"succeeded": 1234},
        "arrivals": {"settling": 1, "ignored": 0, "duplicate": 2},
        "queue": {"ready": 99, "later": 1, "next_try": ago(minutes=-2), "oldest": ago(minutes=3)},
        "per_minute": 10.0,
        "rate_minutes": 10.0,
        "active": [{"id": 7}, {"id": 8}],
        "backlog_seconds": 612,
        "last_run": {"pid": 42, "started_at": ago(hours=2), "ended_at": None, "end_reason": None, "rebooted": False},
        "last_event_at": ago(minutes=1),
        "failures": [],
        "disks": [],
    } | changes
