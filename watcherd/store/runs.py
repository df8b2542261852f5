"""What the daemon writes about itself: runs, replicas, commands received, and small durable facts."""

# ruff: noqa: S608 - statements are put together from words of our own; values are always bound

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from watcherd.file_names import storable
from watcherd.store.records import ModelIdentity, milliseconds, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import Connection


def start_run(connection: Connection, *, pid: int, host: str, boot_id: str | None, version: str, now: datetime) -> int:
    """Begin a run of the daemon; its id. Earlier runs that never ended are ended as crashed, their replicas too."""
    at = stamp(now)
    for table in ("replica", "run"):
        connection.exec_driver_sql(
            f"UPDATE {table} SET ended_at = ?, end_reason = 'crashed' WHERE ended_at IS NULL",
            (at,),
        )
    sql = "INSERT INTO run (started_at, pid, host, boot_id, version) VALUES (?, ?, ?, ?, ?) RETURNING id"
    return int(connection.exec_driver_sql(sql, (at, pid, storable(host), boot_id, version)).scalar_one())


def end_run(connection: Connection, run_id: int, reason: str, *, now: datetime) -> None:
    """The run ends, for example ``stopped`` or ``finished``."""
    connection.exec_driver_sql("UPDATE run SET ended_at = ?, end_reason = ? WHERE id = ?", (stamp(now), reason, run_id))


def start_replica(
    connection: Connection,
    *,
    run_id: int,
    number: int,
    model: ModelIdentity,
    placement: Mapping[str, Any],
    pid: int | None,
    now: datetime,
) -> int:
    """A replica is being loaded; its id. ``placement`` is kept as JSON."""
    return int(
        connection.exec_driver_sql(
            "INSERT INTO replica (run_id, number, segmenter, model, model_revision, dtype, placement, pid, started_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (
                run_id,
                number,
                model.segmenter,
                model.model,
                model.revision,
                model.dtype,
                json.dumps(placement),
                pid,
                stamp(now),
            ),
        ).scalar_one()
    )


def replica_ready(
    connection: Connection,
    replica_id: int,
    *,
    model: ModelIdentity,
    weights_mib: Mapping[str, float | None],
    host_rss_mib: float | None,
    now: datetime,
) -> None:
    """A replica is loaded; only now its ``model`` is known exactly. ``weights_mib``: by device, None where unknown."""
    started = connection.exec_driver_sql("SELECT started_at FROM replica WHERE id = ?", (replica_id,)).scalar_one()
    at = stamp(now)
    connection.exec_driver_sql(
        "UPDATE replica SET ready_at = ?, load_ms = ?, weights_mib = ?, host_rss_mib = ?, segmenter = ?, model = ?, "
        "model_revision = ?, dtype = ? WHERE id = ?",
        (
            at,
            milliseconds(started, at),
            json.dumps(weights_mib),
            host_rss_mib,
            model.segmenter,
            storable(model.model),
            model.revision,
            model.dtype,
            replica_id,
        ),
    )


def end_replica(connection: Connection, replica_id: int, reason: str, *, now: datetime) -> None:
    """A replica's process is gone."""
    sql = "UPDATE replica SET ended_at = ?, end_reason = ? WHERE id = ? AND ended_at IS NULL"
    connection.exec_driver_sql(sql, (stamp(now), storable(reason), replica_id))


def receive_command(
    connection: Connection, command_id: str, verb: str, arguments: Mapping[str, Any], *, now: datetime
) -> bool:
    """Write a command down before it is carried out; False when it was received before, and must not be again."""
    sql = "INSERT INTO command (id, received_at, verb, arguments) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    return connection.exec_driver_sql(sql, (command_id, stamp(now), verb, json.dumps(arguments))).rowcount == 1


def finish_command(
    connection: Connection, command_id: str, *, outcome: str, error: str | None = None, now: datetime
) -> None:
    """How a command ended."""
    sql = "UPDATE command SET outcome = ?, error = ?, finished_at = ? WHERE id = ? AND finished_at IS NULL"
    connection.exec_driver_sql(sql, (storable(outcome), error, stamp(now), command_id))


def command(connection: Connection, command_id: str) -> dict[str, Any] | None:
    """A command as it stands; None when it has not been received."""
    row = connection.exec_driver_sql("SELECT * FROM command WHERE id = ?", (command_id,)).mappings().first()
    return dict(row) | {"arguments": json.loads(row["arguments"])} if row else None


def set_setting(connection: Connection, key: str, value: str | None) -> None:
    """Keep a small fact, or with None forget it."""
    if value is None:
        connection.exec_driver_sql("DELETE FROM setting WHERE key = ?", (key,))
        return
    connection.exec_driver_sql(
        "INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def setting(connection: Connection, key: str) -> str | None:
    """A fact that `set_setting` kept."""
    value: str | None = connection.exec_driver_sql("SELECT value FROM setting WHERE key = ?", (key,)).scalar()
    return value
