"""``watcherd plan``: which GPUs would carry which replica. Needs no GPU, no weights, only the folder's config.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from watcherd import config as configuration
from watcherd.errors import ConfigError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.config import Config
    from watcherd.inference.cluster.nodes import Node
    from watcherd.inference.machine.devices import Device
    from watcherd.inference.pool.placement import Plan, PlannedReplica
    from watcherd.inference.pool.sharing import Shared

Dtype = Literal["auto", "float32", "bfloat16", "float16", "fp8-mlp"]
SEMANTIC = ("ForSemanticSegmentation", "ForUniversalSegmentation", "ForInstanceSegmentation")
"""How transformers names the architectures that the semantic segmenter runs."""
SAM3 = ("sam3", "sam3_video")
"""Model types of folders that the sam3 segmenter runs."""


def plan(
    model: Annotated[
        Path | None, typer.Option(help="A Hugging Face model folder; only its config.json is read.")
    ] = None,
    gpus: Annotated[str | None, typer.Option(help='A made-up machine, as "4x24GiB,2x12GiB"; else this one.')] = None,
    per_replica: Annotated[int | None, typer.Option(min=1, help="GPUs per replica; else the fewest that fit.")] = None,
    reserve_gib: Annotated[float | None, typer.Option(min=0, help="Kept free on each GPU for activations.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="The run dtype; auto: bfloat16 on GPUs that have it.")] = None,
    segmenter: Annotated[str | None, typer.Option(help="What runs the model; else guessed from config.json.")] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration file.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="All machines of the cluster, as they are now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which GPUs would carry which replica of the model, or of each of several, and why."""
    from watcherd.inference.machine import devices
    from watcherd.inference.pool import placement

    if cluster and gpus is not None:
        raise UsageError("--cluster and --gpus are two answers to one question.", hint="Leave one of them out.")
    settings = _settings(_base(config, model), model, segmenter, dtype, per_replica)
    if cluster:
        _plan_cluster(settings, as_json=as_json)
        return
    inventory = (
        devices.parse_inventory(gpus)
        if gpus is not None
        else devices.inventory(settings.devices.use, warn=lambda sentence: typer.echo(f"{sentence}.", err=True))
    )
    if settings.models:
        _plan_several(settings, inventory, reserve_gib, here=gpus is None, as_json=as_json)
        return
    try:
        if gpus is None:
            found = placement.plan_here(settings, inventory, reserve_gib=reserve_gib)
        else:
            found = placement.plan_for(settings, inventory, reserve_gib=reserve_gib)
    except UnavailableError as error:
        if not as_json:
            raise
        refused = {"replicas": [], "unused_devices": [device.index for device in inventory], "reason": str(error)}
        typer.echo(json.dumps(refused, indent=2))
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(json.dumps(_as_json(found, inventory), indent=2))
    else:
        _show(found)


def _plan_cluster(settings: Config, *, as_json: bool) -> None:
    """All models on all machines, and what is to be said of each machine. Raises `typer.Exit` when one has no place."""
    from watcherd.inference.cluster import nodes
    from watcherd.service.placing import Held, Places, placed

    if not settings.cluster.engine:
        raise ConfigError('cluster.engine is "": there is no cluster.', hint="docs/cluster.md says how to make one.")
    machines = nodes.ask(settings.state.bridge)
    usable = tuple(each for each in machines if not each.refused)
    places = Places(local=settings.cluster.local, nodes=usable, why_none="no worker has joined it")
    found = placed(settings, list(settings.model_tables), Held(), places)
    if as_json:
        seen = [_machine_as_json(each) for each in machines]
        plans = {name: _as_json(each, places.devices(settings)) for name, each in found.plans.items()}
        refused = {name: {"reason": why.message, "todo": why.hint} for name, why in found.refused.items()}
        typer.echo(json.dumps({"machines": seen, "models": plans, "without_place": refused}, indent=2))
    else:
        for each in machines:
            what = (
                f"{len(each.cards)} GPU{'s' * (len(each.cards) > 1)}"
                if each.cards
                else f"no GPU, {each.host_free_gib:.1f} GiB of memory free"
            )
            state = f"refused: {each.refused}" if each.refused else what
            typer.echo(f"{each.name} ({each.address}): {state}")
        _show_several(found)
    if found.refused:
        raise typer.Exit(UnavailableError.exit_code)


def _machine_as_json(machine: Node) -> dict[str, Any]:
    return {
        "name": machine.name,
        "address": machine.address,
        "version": machine.version,
        "cards": [
            {"uuid": card.uuid, "name": card.name, "free_gib": _rounded(card.free_gib)} for card in machine.cards
        ],
        "host_free_gib": _rounded(machine.host_free_gib),
        "refused": machine.refused or None,
    }


def _plan_several(
    settings: Config, inventory: Sequence[Device], reserve_gib: float | None, *, here: bool, as_json: bool
) -> None:
    """All models of the configuration together. Raises `typer.Exit` when one of them has no place."""
    from watcherd.inference.pool import sharing

    share = sharing.share_here if here else sharing.share_for
    found = share(settings, list(settings.model_tables), inventory, reserve_gib=reserve_gib)
    if as_json:
        plans = {name: _as_json(each, inventory) for name, each in found.plans.items()}
        refused = {name: {"reason": why.message, "todo": why.hint} for name, why in found.refused.items()}
        unused = [device.index for device in found.unused_devices]
        typer.echo(json.dumps({"models": plans, "without_place": refused, "unused_devices": unused}, indent=2))
    else:
        _show_several(found)
    if found.refused:
        raise typer.Exit(UnavailableError.exit_code)


def _show_several(found: Shared) -> None:
    for name, each in found.plans.items():
        for number, replica in enumerate(each.replicas):
            _, devices, weights, reserve, _ = _row(number, replica)
            typer.echo(f"{name}, replica {number}: {devices}; weights {weights}, reserve {reserve} on each")
        typer.echo(f"{name}: {each.reason}")
    for name, why in found.refused.items():
        typer.echo(f"{name} has no place: {why.message}")
        if why.hint:
            typer.echo(f"  {why.hint}")
    for device in found.unused_devices:
        typer.echo(f"unused: {_device(device)}")


def guess_segmenter(folder: Path) -> str:
    """The segmenter for a model folder, by the model type and the architectures in its config.json.

    Raises `UsageError` when there is no config.json or nothing here runs such a model.
    """
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", hint="Give a Hugging Face model folder."
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}.", hint="Give a Hugging Face model folder.") from error
    described = described if isinstance(described, dict) else {}
    if str(described.get("model_type", "")).startswith("sa2va"):
        return "sa2va"
    if described.get("model_type") in SAM3:
        return "sam3"
    architectures = [str(name) for name in described.get("architectures") or []]
    if any(name.endswith(SEMANTIC) for name in architectures):
        return "semantic"
    raise UsageError(
        f"{path} names {', '.join(architectures) or 'no architecture'}, which no segmenter here is known to run.",
        hint="Name one with --segmenter: sa2va, sam3, semantic or an entry point of yours.",
    )


def _base(config: Path | None, model: Path | None) -> Config:
    """The configuration, which is optional when the model is named on the command line."""
    try:
        path = configuration.find(config)
    except ConfigError:
        if config is not None or model is None:
            raise
        return configuration.build({}, base=Path.cwd())
    return configuration.load(path)


def _settings(
    base: Config, model: Path | None, segmenter: str | None, dtype: Dtype | None, per_replica: int | None
) -> Config:
    """The configuration with what the command line says in its place."""
    changes: dict[str, Any] = {}
    if model is not None:
        alone = base.model.sa2va.model_copy(update={"checkpoint": None, "sam2": None})
        changes |= {"path": model.absolute(), "segmenter": segmenter or guess_segmenter(model), "sa2va": alone}
    elif segmenter is not None:
        changes["segmenter"] = segmenter
    if dtype is not None:
        changes["dtype"] = dtype
    devices = base.devices
    if per_replica is not None:
        devices = devices.model_copy(update={"per_replica": per_replica})
    update: dict[str, Any] = {"model": base.model.model_copy(update=changes), "devices": devices}
    if model is not None or segmenter is not None:  # that one is meant, and no other
        update |= {"models": {}}
    return base.model_copy(update=update)


def _as_json(plan: Plan, inventory: Sequence[Device]) -> dict[str, Any]:
    """``devices`` are indexes into ``inventory``; ``device_map`` counts as the replica's process does, from 0."""
    return {
        "replicas": [
            {
                "devices": [device.index for device in replica.devices] or ["cpu"],
                "node": replica.node,
                "weights_gib": _rounded(replica.weights_gib),
                "reserve_gib": _rounded(replica.reserve_gib),
                "free_gib": _rounded(replica.free_gib),
                "device_map": dict(replica.device_map),
                "weights_per_device_gib": [_rounded(load) for load in replica.loads_gib],
            }
            for replica in plan.replicas
        ],
        "unused_devices": [device.index for device in plan.unused_devices],
        "reason": plan.reason,
        "dtype": plan.dtype,
        "inventory": [
            {
                "index": device.index,
                "node": device.node,
                "uuid": device.uuid,
                "name": device.name,
                "total_gib": _rounded(device.total_gib),
                "free_gib": _rounded(device.free_gib),
            }
            for device in inventory
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _show(plan: Plan) -> None:
    rows = [_row(number, replica) for number, replica in enumerate(plan.replicas)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("replica", "devices", "weights", "reserve", "free")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    else:
        for number, devices, weights, reserve, free in rows:
            typer.echo(f"replica {number}: {devices}; weights {weights}, reserve {reserve} each, free {free}")
    for device in plan.unused_devices:
        typer.echo(f"unused: {_device(device)}")
    typer.echo(plan.reason)


def _row(number: int, replica: PlannedReplica) -> tuple[str, str, str, str, str]:
    where = ", ".join(map(_device, replica.devices)) or (f"cpu of {replica.node}" if replica.node else "cpu")
    return str(number), where, _gib(replica.weights_gib), _gib(replica.reserve_gib), _gib(replica.free_gib)


def _device(device: Device) -> str:
    where = f" of {device.node}" if device.node else ""
    return f"GPU {device.index}{where} ({device.name})"


def _gib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} GiB"
