"""The inside of a replica's process: load, check, say ready, then compute one batch after the other.

A single thread does everything, so every sign of life comes from the thread that owns the devices: see `work`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, NoReturn

from watcherd.errors import UnavailableError, WatcherdError
from watcherd.inference.messages import LoadFailed, Marked, Poisoned, Ready, ReplicaSpec
from watcherd.inference.replica import imports
from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from watcherd.inference.base import Segmenter
    from watcherd.inference.messages import FromReplica, WorkItem
    from watcherd.inference.replica.work import Work

PR_SET_PDEATHSIG = 1
REST_SECONDS = 5.0
"""Seconds without work after which the last batches' memory goes back to the kernel."""
LOOK_SECONDS = 0.001
"""Seconds between two checks whether the devices are done, while there is nothing else to do."""


def main(spec: ReplicaSpec, connection: Connection[Any, Any]) -> None:
    """Run one replica until its connection closes or ``None`` comes through it."""
    _bind_to_parent()
    _keep_quiet_about_interrupts()
    with spec.stack.open("w") as stack:
        faulthandler.enable(stack)
        faulthandler.register(signal.SIGUSR1, stack, all_threads=True)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(spec.visible)
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        # What torch compiles is kept with what else a start need not find out again.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(spec.cache / "compiled"))
        if spec.visible:
            # Threads of OpenMP that have nothing to do should not look for it: beside a GPU they take whole cores.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if spec.visible and _is_forked() and not imports.gpu_works():
            os._exit(imports.NO_GPU)  # one that is started anew may, or says what is wrong
        try:
            worker = _Worker(spec, connection)
            worker.load()
        except WatcherdError as error:
            connection.send([LoadFailed(message=error.message, hint=error.hint, exit_code=error.exit_code)])
            return
        try:
            worker.serve()
        except (EOFError, BrokenPipeError):
            return  # the main process is gone, and so are we


class _Worker:
    """A segmenter and the connection through which it answers. Owned by the process's only thread."""

    def __init__(self, spec: ReplicaSpec, connection: Connection[Any, Any]) -> None:
        from watcherd.inference import segmenters

        self._spec = spec
        self._connection = connection
        self._segmenter: Segmenter = segmenters.create(spec.model)

    def _send(self, messages: Sequence[FromReplica]) -> None:
        self._connection.send(messages)

    def mark(self, stage: str, fraction: float | None = None) -> None:
        self._send([Marked(stage=stage, fraction=fraction)])

    def load(self) -> None:
        from watcherd.inference import checks
        from watcherd.inference.base import RunSegmenter, VolumeSegmenter
        from watcherd.inference.replica import batching, vram

        began = time.monotonic()
        if self._spec.threads:
            _limit_threads(self._spec.threads)
        self._meter = vram.Meter(self._spec.placement.devices, self._spec.visible)
        self._meter.before()
        self.mark("loading the model", 0.0)
        revision = self._segmenter.info().revision
        self._segmenter.load(self._spec.placement, self.mark)
        self._check_folder(revision)
        weights = self._meter.after()
        self.mark("checking the golden image")
        checks.golden(self._segmenter, self._spec.cache)
        self.mark("measuring the batch size")
        self._probe = batching.probe(self._segmenter, self._spec.model, self._spec.placement, self._spec.cache)
        volumes = self._segmenter if isinstance(self._segmenter, VolumeSegmenter) else None
        ready = Ready(
            info=self._segmenter.info(),
            load_ms=round((time.monotonic() - began) * 1000),
            batch_size=self._probe.batch_size,
            weights=weights,
            host_rss_mib=self._meter.host_peak_rss_mib(),
            follows_runs=isinstance(self._segmenter, RunSegmenter),
            takes_volumes=volumes is not None,
            channels=volumes.files_per_case() if volumes else 1,
        )
        self._send([ready])

    def _check_folder(self, revision: str) -> None:
        """Raise `UnavailableError` if the model's files changed while they were read: no revision describes that."""
        from watcherd.inference import segmenters

        if segmenters.create(self._spec.model).info().revision != revision:
            raise UnavailableError(
                "The model's files changed while they were loaded.",
                hint="Wait until the folder is written completely, then start again.",
            )

    def serve(self) -> None:
        from watcherd.inference.replica import batching, host_memory
        from watcherd.inference.replica.work import Work

        host_memory.keep_freed()  # only now: memory that loading freed is not needed again
        work = Work(self._segmenter, self._probe, self._meter, self._send, self._working_on)
        while (items := self._next()) is not None:
            try:
                work.take(items)
                self._rest_or_more(work)
            except Exception as error:
                if batching.is_sticky(error):
                    self._end_poisoned(error)
                work.give_up(error)
            if work.worn:
                self._end_worn()

    def _next(self) -> list[WorkItem] | None:
        """Wait for work."""
        from watcherd.inference.replica import host_memory

        if not self._connection.poll(REST_SECONDS):
            host_memory.give_back()
        items: list[WorkItem] | None = self._connection.recv()
        return items

    def _rest_or_more(self, work: Work) -> None:
        """While the devices compute the last batch, wait for the next: it is begun before the last one is finished."""
        while not self._connection.poll(0 if work.computed() else LOOK_SECONDS):
            if work.computed():
                work.rest()
                return

    def _working_on(self, jobs: tuple[int, ...]) -> None:
        self._send([Marked(stage="segmenting", jobs=jobs)])

    def _end_poisoned(self, error: Exception) -> NoReturn:
        """The device context is broken: this process must give no further result."""
        self._send([Poisoned(error=f"{type(error).__name__}: {error}")])
        self._connection.close()
        os._exit(70)

    def _end_worn(self) -> NoReturn:
        """An error inside the model may have left threads, scans and settings behind, so that nothing that follows can
        be relied on. `Work` has said so; what was not answered for is given to another process."""
        self._connection.close()
        os._exit(70)


def _bind_to_parent() -> None:
    """Die with the main process, whatever ends it."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    if _is_forked() and (main := parent_process()) is not None:  # the kernel tells of the fork server's end
        NamedThread(target=_end_with, args=(main.sentinel,), name="main-watch", daemon=True).start()


def _is_forked() -> bool:
    """Whether this process was forked from the one that has the imports done (`pool.prepared`)."""
    main = parent_process()
    return main is not None and main.pid != os.getppid()


def _end_with(sentinel: int) -> None:
    """Wait for the main process's end, without Python's lock. The fork server outlives it as long as we live."""
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _keep_quiet_about_interrupts() -> None:
    """Ignore Ctrl-C, which reaches the whole process group: the main process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
