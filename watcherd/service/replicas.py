"""The replicas' life: placed, started, written into the history, and what it means when one cannot go on."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.errors import ConfigError, UnavailableError, WatcherdError
from watcherd.flights import ReplicaRecord
from watcherd.inference.machine import devices
from watcherd.inference.machine.cards import Cards
from watcherd.inference.messages import ReplicaSpec
from watcherd.inference.pool import placement
from watcherd.inference.pool.interface import Phase
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError
from watcherd.store import ModelIdentity, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.inference.machine.cards import Card
    from watcherd.inference.messages import LoadFailed, Ready
    from watcherd.inference.pool.interface import Died, Pool, ReplicaStatus
    from watcherd.inference.pool.lanes import Lane
    from watcherd.inference.pool.placement import Plan
    from watcherd.pipeline.stations import Pipeline
    from watcherd.service.ending import Ending
    from watcherd.state.run import Run
    from watcherd.store import Connection


class Replicas:
    """Starts a model's replicas, and writes their life into the history (see `inference.pool.interface.Listener`).

    The main thread starts them; each replica's thread tells of its own replica. The lock guards their rows' ids; the
    rest is set before the first replica runs.
    """

    def __init__(self, run: Run, lane: Lane[ModelIdentity], pipeline: Pipeline, ending: Ending) -> None:
        self._run = run
        self._lane = lane
        self._pipeline = pipeline
        self._ending = ending
        self._lock = threading.Lock()
        self._specs: Sequence[ReplicaSpec] = ()
        self._ids: dict[int, int] = {}
        self._pool: Pool | None = None
        self._cards = Cards(())
        self._log = get_logger()

    def start(self, scratch: Path) -> None:
        """Place the model on the machine's devices, and start its replicas. Raises `WatcherdError` for a bad plan."""
        config = self._run.config
        plan = _plan(config)
        self._log.info("model_placed", reason=plan.reason, segmenter=config.model.segmenter)
        self._specs = specs = _specs(config, plan, scratch)
        self._cards = Cards(uuid for spec in specs for uuid in spec.visible)
        self._cards.start()
        limits = config.devices
        pool = ReplicaPool(
            specs,
            self,
            self._pipeline,
            load_seconds=limits.load_seconds,
            batch_seconds=limits.batch_seconds,
        )
        self._lane.carried_by(pool)
        self._pool = pool
        pool.start()

    def status(self) -> list[ReplicaStatus]:
        """Every replica as it is now; none before they are started."""
        return self._pool.status() if self._pool else []

    def progressing(self) -> bool:
        """Whether at least one is ready for work, or shows signs of life within its deadline."""
        return self._pool is not None and self._pool.progressing()

    @property
    def cards(self) -> tuple[Card, ...]:
        """The GPUs as they were seen last."""
        return self._cards.latest

    def stop(self, *, within: float) -> None:
        """Let the batches that are being computed end, ``within`` seconds at most, unless somebody hurries us."""
        pool = self._pool
        if pool is None:
            return
        stopper = NamedThread(target=pool.stop, kwargs={"within": within}, name="stopper", daemon=True)
        stopper.start()
        while stopper.is_alive():
            stopper.join(0.1)
            if self._ending.hurry.is_set():
                pool.kill()

    # -------------------------------------------------------------------------- what the replicas tell (Listener)

    def replica_starting(self, number: int, pid: int) -> None:
        """A replica's process was started."""
        spec = self._specs[number]
        model = ModelIdentity(
            segmenter=spec.model.segmenter, model=str(spec.model.path or ""), revision="", dtype=spec.placement.dtype
        )
        placed = {
            "devices": list(spec.visible or ("cpu",)),
            "device_map": dict(spec.placement.device_map),
            "dtype": spec.placement.dtype,
        }
        replica_id = self._note(
            lambda c: runs.start_replica(
                c, run_id=self._run.id, number=number, model=model, placement=placed, pid=pid, now=datetime.now(UTC)
            )
        )
        if replica_id is not None:
            with self._lock:
                self._ids[number] = replica_id
        self._log.info("replica_starting", replica=number, pid=pid)

    def replica_ready(self, number: int, ready: Ready) -> None:
        """A replica's model is loaded and passed its checks."""
        info = ready.info
        model = ModelIdentity(segmenter=info.segmenter, model=info.model, revision=info.revision, dtype=info.dtype)
        with self._lock:
            replica_id = self._ids.get(number)
        # What a replica computes is recorded as its own model's, whatever is configured.
        self._pipeline.replica_ready(number, ReplicaRecord(id=replica_id, model=model))
        weights = {use.device: use.vram_peak_allocated_mib for use in ready.weights}
        if replica_id is not None:
            self._note(
                lambda c: runs.replica_ready(
                    c,
                    replica_id,
                    model=model,
                    weights_mib=weights,
                    host_rss_mib=ready.host_rss_mib,
                    now=datetime.now(UTC),
                )
            )
        self._log.info(
            "replica_ready", replica=number, load_ms=ready.load_ms, batch_size=ready.batch_size, dtype=info.dtype
        )
        if info.warning:
            self._log.warning("model_doubtful", replica=number, reason=info.warning)
        self._lane.became_ready(
            model, follows_runs=ready.follows_runs, takes_volumes=ready.takes_volumes, channels=ready.channels
        )
        self._ending.wake.set()

    def replica_died(self, died: Died) -> None:
        """A replica's process ended against our will."""
        self._note_end(died.number, died.reason)
        self._log.error("replica_died", replica=died.number, pid=died.pid, reason=died.reason, stack_dump=died.stack)

    def replica_stopped(self, number: int) -> None:
        """A replica ended in good order."""
        self._note_end(number, "stopped")

    def model_unusable(self, failed: LoadFailed) -> None:
        """The model cannot be loaded: without any replica there is no point in going on."""
        if any(status.phase is not Phase.STOPPED for status in self.status()):
            self._log.error("replica_unusable", error=failed.message)
            return
        kind: type[WatcherdError] = ConfigError if failed.exit_code == ConfigError.exit_code else UnavailableError
        self._ending.fail(kind(failed.message, hint=failed.hint))

    def _note_end(self, number: int, reason: str) -> None:
        with self._lock:
            replica_id = self._ids.get(number)
        if replica_id is not None:
            self._note(lambda c: runs.end_replica(c, replica_id, reason, now=datetime.now(UTC)))

    def _note(self, work: Callable[[Connection], int | None]) -> int | None:
        """Write about a replica, and wait for a disk that refuses; None when the service stops before it gives way."""
        try:
            return self._run.write(work)
        except StoppedError:
            return None


def _plan(config: Config) -> Plan:
    log = get_logger()
    found = devices.inventory(config.devices.use, warn=lambda sentence: log.warning("gpu_left_out", reason=sentence))
    if not found and config.model.path is None:
        dtype = "float32" if config.model.dtype == "auto" else config.model.dtype
        return placement.plan(None, (), dtype=dtype, replicas=config.devices.replicas)
    return placement.plan_apart(config, found)


def _specs(config: Config, plan: Plan, scratch: Path) -> list[ReplicaSpec]:
    """What each replica's process is told at its start."""
    threads = max(1, (os.cpu_count() or 1) // len(plan.replicas)) if len(plan.replicas) > 1 else 0
    return [
        ReplicaSpec(
            number=number,
            model=config.model,
            placement=replica.placement(plan.dtype),
            visible=replica.visible,
            cache=config.state.cache,
            stack=scratch / f"replica-{number}.stack",
            log=config.log,
            hidden_names=config.privacy.names == "hidden",
            threads=0 if replica.visible else threads,
        )
        for number, replica in enumerate(plan.replicas)
    ]
