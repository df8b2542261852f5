"""A pretended cluster behind the real bridge, and a relay in front of it that loses what a test names."""

from __future__ import annotations

import pickle
import queue
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from watcherd.inference.base import ModelInfo
from watcherd.inference.cluster import bridge, wire
from watcherd.inference.cluster.host import Answer, Parcel
from watcherd.inference.cluster.nodes import Node
from watcherd.inference.messages import BatchEnded, Marked, Ready, ReplicaSpec, Segmented
from watcherd.inference.pool.carrier import Ended, NoRoomError

READY = Ready(
    info=ModelInfo(segmenter="far", model="/far/model", revision="1", dtype="float32"),
    load_ms=1,
    batch_size=4,
    weights=(),
    host_rss_mib=None,
)


def masks_of(job: int) -> np.ndarray:
    """What the pretended model computes for a job: another mask for each."""
    return np.full(64, job % 251, np.uint8)


def segmented(job: int, mask: Path) -> Segmented:
    return Segmented(
        job_id=job, mask=mask, probability=None, classes=1, labels=(), answer=None, decode=None, note=None,
        inference_ms=1.0, batch_size=1, devices=(), host_peak_rss_mib=None,
    )  # fmt: skip


class FarReplica:
    """See `bridge.Remote`: answers at once, but for jobs of ``cluster.hangs``, at which it hangs, once each."""

    def __init__(self, cluster: FarCluster, pid: int) -> None:
        self.pid = pid
        self.alive = True
        self._hangs = False
        self._cluster = cluster
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._answers.put(Answer(messages=(READY,), files={}))

    def work(self, parcels: Sequence[Parcel]) -> None:
        self._cluster.break_at("work, before")
        jobs = [parcel.item.job_id for parcel in parcels]
        self._answers.put(Answer(messages=(Marked(stage="segmenting", jobs=tuple(jobs)),), files={}))
        hang = self._cluster.hangs & set(jobs)
        self._cluster.hangs -= hang
        self._hangs = self._hangs or bool(hang)
        if not self._hangs:
            for parcel in parcels:
                job, name = parcel.item.job_id, parcel.item.target.name
                assert np.array_equal(parcel.decoded, masks_of(job)), "another scan's frames"
                outcome = segmented(job, Path(f"/far/{name}-mask.npy"))
                self._answers.put(Answer(messages=(outcome,), files={job: (parcel.decoded, None)}))
            self._answers.put(Answer(messages=(BatchEnded(),), files={}))
        self._cluster.break_at("work, after")

    def receive(self) -> Answer | None:
        self._cluster.break_at("receive, before")
        try:
            answer = self._answers.get(timeout=0.02)
        except queue.Empty:
            return None
        if any(isinstance(each, Segmented) for each in answer.messages):
            self._cluster.break_at("receive, after")
        if any(isinstance(each, BatchEnded) for each in answer.messages):
            self._cluster.break_at("receive, the end")
        return answer

    def ask_for_stack(self) -> None:
        """It writes nothing."""

    def bury(self) -> str:
        self.alive = False
        return "in predict"

    def end(self) -> None:
        self.alive = False


class FarCluster:
    """See `bridge.Engine`: one machine. ``fault``: where its connection to the bridge breaks, once."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.hangs: set[int] = set()
        self.made: list[FarReplica] = []
        self._lock = threading.Lock()

    def nodes(self) -> tuple[Node, ...]:
        return (Node(name="far", address="10.0.0.2", born="1", cpu=True),)

    def start(self, spec: ReplicaSpec, *, ship: bool) -> FarReplica:
        assert spec.node == "far"
        self.break_at("start")
        self.made.append(FarReplica(self, 1000 + len(self.made)))
        return self.made[-1]

    def break_at(self, point: str) -> None:
        with self._lock:
            if self.fault != point:
                return
            self.fault = ""
        if point == "start":
            raise NoRoomError("the machine far is not there")
        raise Ended("the machine far cannot be reached", lost=True)


class Bridge:
    """The real bridge over a pretended cluster, listening at ``path``."""

    def __init__(self, path: Path, cluster: FarCluster) -> None:
        self._stop = threading.Event()
        listener = wire.listen(path)
        self._thread = threading.Thread(target=bridge.serve, args=(listener, cluster, self._stop), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(10)


class Relay:
    """Passes messages on between the main process and the bridge, until one of the class ``kind`` (the name of a
    message, or of what a `wire.Said` holds) is met: then, once, as ``moment`` says

    before: the connection breaks, and it is not passed on     in: it breaks in the middle of the message
    after: it breaks when the message has been passed on       instead: the message vanishes, the connection stays
    """

    def __init__(self, path: Path, behind: Path, kind: str, moment: str) -> None:
        self._behind = behind
        self._kind, self._moment = kind, moment
        self._lock = threading.Lock()
        self.met = threading.Event()
        self._listener = wire.listen(path)
        self._listener.settimeout(0.02)
        self._over = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._take, daemon=True)]
        self._threads[0].start()

    def end(self) -> None:
        self._over.set()
        self._threads[0].join(10)
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(10)
        for end in (self._listener, *self._ends):
            end.close()

    def _take(self) -> None:
        while not self._over.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            near.setblocking(True)
            far = socket.socket(socket.AF_UNIX)
            with wire.short(self._behind) as name:
                far.connect(name)
            self._ends += [near, far]
            for source, target in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._pass, args=(source, target), daemon=True))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (frame := _frame(source)) is not None:
                moment = self._now(frame)
                if moment in ("", "after"):
                    target.sendall(frame)
                elif moment == "in":
                    target.sendall(frame[: len(frame) // 2])
                if moment in ("before", "in", "after"):
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _now(self, frame: bytes) -> str:
        message = pickle.loads(frame[4:])  # noqa: S301 - of this test
        names = {type(message).__name__, *(type(each).__name__ for each in getattr(message, "messages", ()))}
        with self._lock:
            if self._kind not in names or self.met.is_set():
                return ""
            self.met.set()
            return self._moment


def _frame(source: socket.socket) -> bytes | None:
    head = _exactly(source, 4)
    if head is None:
        return None
    body = _exactly(source, struct.unpack("!I", head)[0])
    return None if body is None else head + body


def _exactly(source: socket.socket, count: int) -> bytes | None:
    found = b""
    while len(found) < count:
        piece = source.recv(count - len(found))
        if not piece:
            return None
        found += piece
    return found
