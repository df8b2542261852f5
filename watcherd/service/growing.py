"""Models that have replicas get more of them on machines that have come and carry nothing yet. For the thread
``models``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from watcherd.inference.pool.sharing import holds
from watcherd.logs import get_logger
from watcherd.service.placing import Held, placed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.config import Config
    from watcherd.inference.messages import ReplicaSpec
    from watcherd.inference.pool.placement import Plan
    from watcherd.service.machines import Machines
    from watcherd.service.seats import Seat, Seats


def grow(
    seats: Seats,
    machines: Machines,
    config: Config,
    specs: Callable[[Config, str, Plan, int], Sequence[ReplicaSpec]],
) -> None:
    """Look which machines have come, and give the models their cards. ``specs``: what a plan's replicas are told."""
    able = {name: seat for name, seat in seats.now().items() if seat.replicas is not None}
    promised: Counter[str] = Counter()
    for seat in able.values():
        promised.update(seat.holds)
    new = machines.new(promised) if able else None
    if new is None:
        return
    for name, found in placed(config, list(able), Held(), new).plans.items():
        seat = able[name]
        plan = replace(found, replicas=found.replicas[: _room(seat, found, config)])
        if plan.dtype != seat.dtype:
            reason = f"they would compute in {plan.dtype}, and the others do in {seat.dtype}: set model.dtype"
            get_logger().warning("machines_left_out", model_name=name, reason=reason)
        elif plan.replicas and seat.replicas is not None:
            get_logger().info("model_grows", model_name=name, reason=plan.reason)
            seats.has_more(name, seat.replicas, holds(plan))
            seat.replicas.grow(specs(config, name, plan, 0))


def _room(seat: Seat, plan: Plan, config: Config) -> int:
    """How many more replicas the configuration allows; on processors it speaks of each machine."""
    most = config.devices.replicas
    if most == "auto" or not plan.replicas[0].devices:
        return len(plan.replicas)
    return max(0, most - seat.count)
