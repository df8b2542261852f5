"""What a reload applies, and what needs a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config.tables import Config, Model


def merged(old: Config, fresh: Config) -> tuple[Config, list[str]]:
    """The configuration that can be applied without a restart, and the tables that need one to change."""
    model = with_what_needs_no_load(old.model, fresh.model)
    inbox = fresh.inbox.model_copy(
        update={name: getattr(old.inbox, name) for name in ("path", "archive_path", "events", "settle_seconds")}
    )
    outbox = fresh.outbox.model_copy(update={"path": old.outbox.path, "layout": old.outbox.layout})
    limits = fresh.limits.model_copy(
        update={name: getattr(old.limits, name) for name in ("workers", "worker_memory_mib")}
    )
    update = {
        "state": old.state,
        "cluster": old.cluster,
        "devices": old.devices.model_copy(
            update={name: getattr(fresh.devices, name) for name in ("idle_minutes", "minimum_minutes")}
        ),
        "model": model,
        "inbox": inbox,
        "outbox": outbox,
        "limits": limits,
    }
    applied = fresh.model_copy(update=update)
    later = [name for name in update if getattr(applied, name) != getattr(fresh, name)]
    return applied, later


def with_what_needs_no_load(old: Model, fresh: Model) -> Model:
    """The old table with what can change of a model that stays loaded. Equal to the fresh one: it need not be loaded
    anew."""
    sa2va = fresh.sa2va.model_copy(
        update={name: getattr(old.sa2va, name) for name in ("max_new_tokens", "checkpoint", "sam2")}
    )
    sam3 = fresh.sam3.model_copy(update={name: getattr(old.sam3, name) for name in ("presence", "score")})
    of_each_scan = {name: getattr(fresh, name) for name in ("threshold", "tta", "share", "keep")}
    return old.model_copy(update={"sa2va": sa2va, "sam3": sam3, **of_each_scan})
