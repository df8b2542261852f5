"""Puts the service together: every part is finished, with all that it needs, before anything runs."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watcherd.delivery.delivery import Delivery
from watcherd.imaging.pool import ImagingPool
from watcherd.inbox.expected import Expected
from watcherd.inbox.requests import IntakeRequests
from watcherd.inbox.spool import Spool
from watcherd.inference.pool.lanes import Lanes
from watcherd.intake.intake import Intake
from watcherd.intake.refetch import Refetch
from watcherd.notify.exporter import Exporter
from watcherd.outbox.deliver import Outbox
from watcherd.outbox.owner import Owner
from watcherd.pipeline.places import Places
from watcherd.pipeline.stations import Pipeline
from watcherd.service.clock import ClockFollower
from watcherd.service.commands import Commands, Reload
from watcherd.service.fleet import Fleet, lane_for
from watcherd.service.job_commands import JobCommands
from watcherd.service.pulse import Pulse
from watcherd.service.status import Status

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.notify.hooks import Hooks
    from watcherd.notify.systemd import Notifier
    from watcherd.service.ending import Ending
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of one run of the service. Frozen: who works with whom is settled when they start."""

    lanes: Lanes[ModelIdentity]
    fleet: Fleet
    imaging: ImagingPool
    spool: Spool
    outbox: Outbox
    delivery: Delivery
    pipeline: Pipeline
    intake: Intake
    requests: IntakeRequests
    status: Status
    exporter: Exporter
    pulse: Pulse
    clock: ClockFollower
    commands: Commands
    reload: Reload


def assemble(
    run: Run, *, ending: Ending, notifier: Notifier, hooks: Hooks, scratch: Path, path: Path | None, once: bool
) -> Parts:
    """The parts, none of which has been started. ``path``: of the configuration, if it came from a file."""
    config = run.config
    lanes = Lanes(*(lane_for(name, table) for name, table in config.model_tables.items()))
    requests, expected, bell = IntakeRequests(), Expected(), threading.Event()
    spool = Spool(config.state.spool)
    owner = Owner.here(config.state.path).short
    outbox = Outbox(
        config.outbox.path, layout=config.outbox.layout, owner=owner, beside=lambda: run.config.models_beside
    )
    imaging = ImagingPool(
        workers=_workers(config.limits.workers, len(os.sched_getaffinity(0))),
        memory_mib=config.limits.worker_memory_mib,
    )
    delivery = Delivery(run, outbox, requests, bell, hooks.wake)
    refetch = Refetch(config, run.database, spool)
    places = Places(scratch=scratch, spool_path=spool.path, bring_back=refetch.bring_back)
    pipeline = Pipeline(run, lanes, imaging, delivery, requests, expected, places, bell)
    intake = Intake(run, spool, lanes, requests, expected, pipeline.queued, once=once)
    fleet = Fleet(run, lanes, pipeline, ending)
    status = Status(
        run,
        lanes,
        fleet,
        notifier,
        inbox=lambda: intake.state,
        held=pipeline.held.is_set,
        path=path,
    )
    exporter = Exporter(
        config, run.database, status.values, hook_calls=lambda: hooks.made, set_aside=lambda: run.set_aside.counts
    )
    reload = Reload(run, path, requests, hooks, exporter, fleet)
    jobs = JobCommands(run.settings, run.database, spool)
    return Parts(
        lanes=lanes,
        fleet=fleet,
        imaging=imaging,
        spool=spool,
        outbox=outbox,
        delivery=delivery,
        pipeline=pipeline,
        intake=intake,
        requests=requests,
        status=status,
        exporter=exporter,
        pulse=Pulse(run, intake, fleet),
        clock=ClockFollower(run, expected, pipeline.queued),
        commands=Commands(run, requests, pipeline, jobs, status, reload),
        reload=reload,
    )


def _workers(setting: int | str, cores: int) -> int:
    """Imaging workers: as many as cores, and where there are many, room for the replicas and for the main process."""
    if not isinstance(setting, str):
        return setting
    return min(64, max(2, min(cores, 16), cores * 3 // 4))
