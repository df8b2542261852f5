"""The inside of a replica's process: load, check, say ready, then one batch after the other.

`main`'s thread owns the devices, and every sign of life comes from it; what a frame still needs when it is computed is
done by a second one (`finishing`), so that the devices need not wait for files.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from watcherd.errors import WatcherdError
from watcherd.inference.messages import (
    BatchEnded,
    LoadFailed,
    Marked,
    NotSegmented,
    Poisoned,
    Ready,
    ReplicaSpec,
    WorkItem,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from watcherd.inference.base import Segmenter
    from watcherd.inference.messages import FromReplica

PR_SET_PDEATHSIG = 1
SWITCH_SECONDS = 0.001
"""The thread that finishes scans gives way to the one that owns the devices after so long, not after Python's 5 ms."""


def main(spec: ReplicaSpec, connection: Connection[Any, Any]) -> None:
    """Run one replica until its connection closes or ``None`` comes through it."""
    _bind_to_parent()
    _keep_quiet_about_interrupts()
    with spec.stack.open("w") as stack:
        faulthandler.enable(stack)
        faulthandler.register(signal.SIGUSR1, stack, all_threads=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(spec.visible)
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        try:
            worker = _Worker(spec, connection)
            worker.load()
        except WatcherdError as error:
            connection.send(LoadFailed(message=error.message, hint=error.hint, exit_code=error.exit_code))
            return
        try:
            worker.serve()
        except (EOFError, BrokenPipeError):
            return  # the main process is gone, and so are we


class _Worker:
    """A loaded segmenter and the connection it answers through."""

    def __init__(self, spec: ReplicaSpec, connection: Connection[Any, Any]) -> None:
        from watcherd.inference import segmenters

        self._spec = spec
        self._connection = connection
        self._sending = threading.Lock()
        self._segmenter: Segmenter = segmenters.create(spec.model)

    def _send(self, message: FromReplica) -> None:
        with self._sending:
            self._connection.send(message)

    def mark(self, stage: str, fraction: float | None = None) -> None:
        self._send(Marked(stage=stage, fraction=fraction))

    def load(self) -> None:
        from watcherd.inference import batching, checks, vram
        from watcherd.inference.base import RunSegmenter

        began = time.monotonic()
        if self._spec.threads:
            _limit_threads(self._spec.threads)
        self._meter = vram.Meter(self._spec.placement.devices, self._spec.visible)
        self._meter.before()
        self.mark("loading the model", 0.0)
        self._segmenter.load(self._spec.placement, self.mark)
        weights = self._meter.after()
        self.mark("checking the golden image")
        checks.golden(self._segmenter, self._spec.cache)
        self.mark("measuring the batch size")
        self._probe = batching.probe(self._segmenter, self._spec.model, self._spec.placement, self._spec.cache)
        self._send(
            Ready(
                info=self._segmenter.info(),
                load_ms=round((time.monotonic() - began) * 1000),
                batch_size=self._probe.batch_size,
                weights=weights,
                host_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                follows_runs=isinstance(self._segmenter, RunSegmenter),
            )
        )

    def serve(self) -> None:
        from watcherd.inference.finishing import Finisher, Step
        from watcherd.inference.work import segment

        finisher = Finisher(self._send)
        sys.setswitchinterval(SWITCH_SECONDS)
        while (items := self._connection.recv()) is not None:
            try:
                for step in segment(self._segmenter, items, self._probe, self._meter, self._working_on):
                    finisher.put(step)
            except Exception as error:
                finisher.drain()
                self._answer_for(items, error)
            finisher.put(Step(BatchEnded))
        finisher.drain()

    def _working_on(self, jobs: tuple[int, ...]) -> None:
        self._send(Marked(stage="segmenting", jobs=jobs))

    def _answer_for(self, items: Sequence[WorkItem], error: Exception) -> None:
        """An error that belongs to no single scan: a broken device context ends the process, the rest is told."""
        from watcherd.inference import batching

        if batching.is_sticky(error):
            self._send(Poisoned(error=f"{type(error).__name__}: {error}"))
            self._connection.close()
            os._exit(70)
        for item in items:
            self._send(NotSegmented.of(item.job_id, error))


def _bind_to_parent() -> None:
    """Die with the main process, whatever ends it."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _keep_quiet_about_interrupts() -> None:
    """A Ctrl-C in the terminal reaches the whole group; the main process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
