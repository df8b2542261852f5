"""Where models go on this machine, and why one of them cannot go anywhere: what is wrong with one costs that one."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from watcherd.config import speaking_of
from watcherd.errors import ConfigError, WatcherdError
from watcherd.inference.machine import devices
from watcherd.inference.pool.sharing import Demand, Limits, Refused, Shared, share_apart, share_out
from watcherd.inference.segmenters import refuse_unknown
from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from watcherd.config import Config, Model


def placed(config: Config, names: Sequence[str], held: Mapping[str, float]) -> Shared:
    """These models on what is free now of the devices that the configuration lets us use.

    ``held``: GiB that other models of ours hold already of each device (by UUID; of the host: by an empty name).
    """
    refused, able = {}, []
    for name in names:
        try:
            with speaking_of(name):
                refuse_unknown(config.model_called(name))
        except WatcherdError as error:
            refused[name] = Refused.of(error)
        else:
            able.append(name)
    shared = _on_devices(config, able, held) if able else Shared(plans={})
    return replace(shared, refused={**refused, **shared.refused})


def _on_devices(config: Config, names: Sequence[str], held: Mapping[str, float]) -> Shared:
    log = get_logger()
    try:
        found = devices.inventory(
            config.devices.use, warn=lambda sentence: log.warning("gpu_left_out", reason=sentence)
        )
        return _share(config, names, _within_limits(config, found, held), _taken(held))
    except WatcherdError as error:
        return Shared(plans={}, refused=dict.fromkeys(names, Refused.of(error)))
    except BrokenExecutor as error:
        why = Refused(message=f"The process that plans where models go has died: {error}")
        return Shared(plans={}, refused=dict.fromkeys(names, why))


def fits_when_free(config: Config, name: str, freed: Mapping[str, float], held: Mapping[str, float]) -> bool:
    """Whether a model has room once so many GiB of each device are free, while others hold what they hold; both as
    ``held`` of `placed`."""
    try:
        found = [
            replace(each, free_gib=min(each.total_gib, each.free_gib + freed.get(each.uuid, 0.0)))
            for each in devices.inventory(config.devices.use)
        ]
        found = _within_limits(config, found, held)
        return name in share_apart(config, [name], found, more_host_gib=freed.get("", 0.0), taken=_taken(held)).plans
    except (WatcherdError, BrokenExecutor):
        return False


def _taken(held: Mapping[str, float]) -> frozenset[str]:
    return frozenset(filter(None, held))


def _within_limits(config: Config, found: Sequence[devices.Device], held: Mapping[str, float]) -> list[devices.Device]:
    """The devices with what `devices.max_memory_gib` leaves of them: it is for all our models together."""
    most = config.devices.max_memory_gib or float("inf")
    return [replace(each, free_gib=min(each.free_gib, max(0.0, most - held.get(each.uuid, 0.0)))) for each in found]


def _share(
    config: Config, names: Sequence[str], found: Sequence[devices.Device], taken: Collection[str] = ()
) -> Shared:
    """Where these models go; without a GPU and without a folder there is nothing that torch has to be imported for."""
    tables = [config.model_called(name) for name in names]
    if found or any(table.path is not None for table in tables):
        return share_apart(config, names, found, taken=taken)
    demands = [
        Demand(
            name=name,
            sizes=None,
            dtype="float32" if table.dtype == "auto" else table.dtype,
            reserve_gib=0.0,
            share=table.share,
        )
        for name, table in zip(names, tables, strict=True)
    ]
    return share_out(demands, (), Limits(replicas=config.devices.replicas))


def refuse_all_unknown(tables: Mapping[str, Model]) -> None:
    """Raise the first model's `ConfigError` when there is nothing to load behind any of them."""
    errors = []
    for name, table in tables.items():
        try:
            with speaking_of(name):
                refuse_unknown(table)
        except ConfigError as error:
            errors.append(error)
        else:
            return
    raise errors[0]
