"""One model's replicas: started, ended, and their life written into the history. Which model, and where: `fleet`."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from watcherd.flights import ReplicaRecord
from watcherd.inference.pool.interface import Phase
from watcherd.inference.pool.local import LocalCarrier
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError
from watcherd.store import ModelIdentity, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.inference.messages import LoadFailed, Ready, ReplicaSpec
    from watcherd.inference.pool.carrier import Carriers
    from watcherd.inference.pool.interface import Died, Pool, ReplicaStatus
    from watcherd.inference.pool.lanes import Lane
    from watcherd.pipeline.stations import Pipeline
    from watcherd.state.run import Run
    from watcherd.store import Connection


class Replicas:
    """Starts a model's replicas, and writes their life into the history (see `inference.pool.interface.Listener`).

    ``ready``: called when one has loaded the model. ``unusable``: called when none can, and none lives any more.
    ``carriers``: decides where each runs.
    Each replica's thread tells of its own replica. The lock guards their rows' ids; the rest is set before the first
    replica runs.
    """

    def __init__(
        self,
        run: Run,
        lane: Lane[ModelIdentity],
        pipeline: Pipeline,
        *,
        ready: Callable[[], None],
        unusable: Callable[[LoadFailed], None],
        carriers: Carriers = LocalCarrier,
    ) -> None:
        self._run = run
        self._lane = lane
        self._pipeline = pipeline
        self._ready = ready
        self._unusable = unusable
        self._carriers = carriers
        self._lock = threading.Lock()
        self._specs: dict[int, ReplicaSpec] = {}
        self._ids: dict[int, int] = {}
        self._pool: Pool | None = None
        self._log = get_logger()

    def start(self, specs: Sequence[ReplicaSpec]) -> None:
        """Start these replicas; they carry the lane's model from now on."""
        limits = self._run.config.devices
        self._specs = {spec.number: spec for spec in specs}
        pool = ReplicaPool(
            specs,
            self,
            self._pipeline,
            load_seconds=limits.load_seconds,
            batch_seconds=limits.batch_seconds,
            carriers=self._carriers,
        )
        self._pool = pool
        self._lane.carried_by(pool)
        pool.start()

    def grow(self, specs: Sequence[ReplicaSpec]) -> None:
        """Start further replicas beside those that run."""
        assert self._pool is not None
        self._specs = self._specs | {spec.number: spec for spec in specs}
        self._pool.grow(specs)

    def status(self) -> list[ReplicaStatus]:
        """Every replica as it is now; none before they are started."""
        return self._pool.status() if self._pool else []

    def progressing(self) -> bool:
        """Whether at least one is ready for work, or shows signs of life within its deadline."""
        return self._pool is not None and self._pool.progressing()

    def stop(self, *, within: float) -> None:
        """Let the batches that are being computed end, ``within`` seconds at most."""
        if self._pool is not None:
            self._pool.stop(within=within)

    def kill(self) -> None:
        """End them now."""
        if self._pool is not None:
            self._pool.kill()

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
            "model_name": spec.name,
        }
        if spec.node:
            placed["node"] = spec.node
        replica_id = self._note(
            lambda c: runs.start_replica(
                c, run_id=self._run.id, number=number, model=model, placement=placed, pid=pid, now=datetime.now(UTC)
            )
        )
        if replica_id is not None:
            with self._lock:
                self._ids[number] = replica_id
        where = {"node": spec.node} if spec.node else {}
        self._log.info("replica_starting", replica=number, pid=pid, model_name=spec.name, **where)

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
        self._ready()

    def replica_died(self, died: Died) -> None:
        """A replica's process ended against our will."""
        self._note_end(died.number, died.reason)
        self._log.error("replica_died", replica=died.number, pid=died.pid, reason=died.reason, stack_dump=died.stack)

    def replica_stopped(self, number: int) -> None:
        """A replica ended in good order."""
        self._note_end(number, "stopped")

    def model_unusable(self, failed: LoadFailed) -> None:
        """The model cannot be loaded: without any replica there is no point in going on with it."""
        if any(status.phase is not Phase.STOPPED for status in self.status()):
            self._log.error("replica_unusable", error=failed.message)
            return
        self._unusable(failed)

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
