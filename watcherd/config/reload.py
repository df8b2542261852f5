"""What a reload applies, and what needs a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config.tables import Config


def merged(old: Config, fresh: Config) -> tuple[Config, list[str]]:
    """The configuration that can be applied without a restart, and the tables that need one to change."""
    sa2va = fresh.model.sa2va.model_copy(
        update={name: getattr(old.model.sa2va, name) for name in ("max_new_tokens", "checkpoint", "sam2")}
    )
    sam3 = fresh.model.sam3.model_copy(update={name: getattr(old.model.sam3, name) for name in ("presence", "score")})
    speech = {"sa2va": sa2va, "sam3": sam3}
    model = old.model.model_copy(update={"threshold": fresh.model.threshold, "tta": fresh.model.tta, **speech})
    inbox = fresh.inbox.model_copy(
        update={name: getattr(old.inbox, name) for name in ("path", "archive_path", "events", "settle_seconds")}
    )
    outbox = fresh.outbox.model_copy(update={"path": old.outbox.path, "layout": old.outbox.layout})
    limits = fresh.limits.model_copy(
        update={name: getattr(old.limits, name) for name in ("workers", "worker_memory_mib")}
    )
    update = {
        "state": old.state,
        "devices": old.devices,
        "model": model,
        "inbox": inbox,
        "outbox": outbox,
        "limits": limits,
    }
    applied = fresh.model_copy(update=update)
    later = [name for name in update if getattr(applied, name) != getattr(fresh, name)]
    return applied, later
