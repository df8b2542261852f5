"""Whatever is lost on the way to another machine and back, before, in or after each step: no scan is, and none is
answered twice. The real pool, carrier and bridge; the cluster is pretended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.unit.inference.cluster_faults import Bridge, FarCluster, Relay, masks_of
from watcherd.config import Log, Model
from watcherd.inference.base import Placement
from watcherd.inference.cluster import bridge, carrier
from watcherd.inference.cluster.carrier import ClusterCarrier
from watcherd.inference.messages import LoadFailed, NotSegmented, Outcome, Ready, ReplicaSpec, Segmented, WorkItem
from watcherd.inference.pool import supervisor
from watcherd.inference.pool.interface import Died
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.job import ErrorClass, Options

PATIENCE = 60.0
JOBS = 9
HANGS = 5
"""The job at which the pretended model hangs the first time."""


class Desk:
    """Both listeners, and what the pipeline does with what they hear: a job that comes back is given again, with files
    of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Condition()
        self._tries: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.classes: set[ErrorClass] = set()
        self.deaths: list[Died] = []
        self.unusable: list[LoadFailed] = []
        self.again: list[int] = []

    def item(self, job: int) -> WorkItem:
        self._tries[job] += 1
        stem = f"{job}-{self._tries[job]}"
        decoded = self._folder / f"{stem}.npy"
        masks_of(job).tofile(decoded)
        return WorkItem(job_id=job, decoded=decoded, frames=1, options=Options(), target=self._folder / stem)

    def replica_starting(self, number: int, pid: int) -> None: ...
    def replica_ready(self, number: int, ready: Ready) -> None: ...

    def replica_died(self, died: Died) -> None:
        self.deaths.append(died)

    def replica_stopped(self, number: int) -> None: ...

    def model_unusable(self, failed: LoadFailed) -> None:
        with self._lock:
            self.unusable.append(failed)
            self._lock.notify_all()

    def batch_taken(self) -> None: ...

    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            for outcome in outcomes:
                if isinstance(outcome, NotSegmented):
                    self.classes.add(outcome.error_class)
                    self.again.append(outcome.job_id)
                    continue
                assert isinstance(outcome, Segmented)
                assert self._folder / f"{outcome.job_id}-{self._tries[outcome.job_id]}-mask.npy" == outcome.mask
                assert np.array_equal(np.fromfile(outcome.mask, np.uint8), masks_of(outcome.job_id))
                self.answers[outcome.job_id] += 1
            self._lock.notify_all()

    def scans_handed_back(self, jobs: Sequence[int]) -> None:
        with self._lock:
            self.again += jobs
            self._lock.notify_all()

    def until_all_are_answered(self, pool: ReplicaPool) -> None:
        with self._lock:
            while len(self.answers) < JOBS:
                again, self.again = self.again, []
                for job in again:
                    pool.submit([self.item(job)])
                assert not self.unusable
                assert self.again or self._lock.wait_for(lambda: self.again or len(self.answers) >= JOBS, PATIENCE)


Scene = Callable[..., tuple[Desk, FarCluster, ReplicaPool]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(supervisor, "STACK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "START_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "GONE_SECONDS", 0.5)
    monkeypatch.setattr(carrier, "START_SECONDS", 0.5)
    monkeypatch.setattr(carrier, "END_SECONDS", 0.5)
    monkeypatch.setattr(bridge, "LISTEN_SECONDS", 0.02)
    ends: list[Callable[[], None]] = []

    def begin(*, socket: Path, cluster: FarCluster, seconds: float = PATIENCE) -> tuple[Desk, FarCluster, ReplicaPool]:
        desk = Desk(tmp_path)
        behind = Bridge(tmp_path / "bridge", cluster)
        ends.append(behind.end)
        pool = ReplicaPool(
            [spec()],
            desk,
            desk,
            load_seconds=seconds,
            batch_seconds=seconds,
            back_off=lambda _: 0.0,
            carriers=lambda each: ClusterCarrier(each, socket),
        )
        ends.insert(0, pool.kill)
        pool.start()
        return desk, cluster, pool

    yield begin
    for end in ends:
        end()


def spec() -> ReplicaSpec:
    nowhere = Path("/nowhere")
    return ReplicaSpec(
        number=0,
        model=Model(segmenter="far"),
        placement=Placement(),
        cache=nowhere,
        stack=nowhere,
        log=Log(),
        node="far",
    )


def compute_all(desk: Desk, pool: ReplicaPool) -> None:
    for first in range(0, JOBS, 3):
        pool.submit([desk.item(job) for job in range(first, first + 3)])
    desk.until_all_are_answered(pool)


def end_all(cluster: FarCluster, pool: ReplicaPool) -> None:
    pool.stop(within=PATIENCE)
    for replica in cluster.made:
        for _ in range(round(PATIENCE / 0.01)):
            if not replica.alive:
                break
            threading.Event().wait(0.01)
        assert not replica.alive, "a replica is left on the other machine"


STEPS = (
    "Start", "Started", "Ready", "Work", "Marked", "Segmented", "BatchEnded", "AskStack", "Kill", "Gone", "End",
)  # fmt: skip


@pytest.mark.parametrize("moment", ["before", "in", "after", "instead"])
@pytest.mark.parametrize("step", STEPS)
def test_a_message_that_is_lost_loses_no_scan_and_doubles_none(
    scene: Scene, tmp_path: Path, step: str, moment: str
) -> None:
    """Between the main process and the bridge."""
    relay = Relay(tmp_path / "relay", tmp_path / "bridge", step, moment)
    cluster = FarCluster()
    cluster.hangs = {HANGS} if step in ("AskStack", "Kill", "Gone") else set()
    desk, cluster, pool = scene(socket=tmp_path / "relay", cluster=cluster, seconds=0.5)
    try:
        compute_all(desk, pool)
        end_all(cluster, pool)
    finally:
        pool.kill()
        relay.end()
    assert relay.met.is_set(), "the message was never sent"
    assert dict.fromkeys(range(JOBS), 1) == desk.answers


@pytest.mark.parametrize(
    "fault", ["start", "work, before", "work, after", "receive, before", "receive, after", "receive, the end"]
)
def test_a_machine_that_is_lost_loses_no_scan_doubles_none_and_blames_none(
    scene: Scene, tmp_path: Path, fault: str
) -> None:
    """Between the bridge and the machine: what was computed there and did not come back is computed again, and no scan
    counts as one that kills its process."""
    desk, cluster, pool = scene(socket=tmp_path / "bridge", cluster=FarCluster(fault))
    compute_all(desk, pool)
    end_all(cluster, pool)
    assert "" == cluster.fault
    assert dict.fromkeys(range(JOBS), 1) == desk.answers
    assert ErrorClass.CRASH not in desk.classes
    assert (0 if fault == "start" else 1) == len(desk.deaths)


def test_a_model_is_not_given_up_for_a_bridge_that_falls_over_while_it_loads(scene: Scene, tmp_path: Path) -> None:
    """However often that happens: three of a model's own deaths would be its end."""
    cluster = FarCluster()
    desk, cluster, pool = scene(socket=tmp_path / "bridge", cluster=cluster)
    compute_all(desk, pool)
    for _ in range(5):
        cluster.fault = "receive, before"
        for _ in range(round(PATIENCE / 0.01)):
            if not cluster.fault:
                break
            threading.Event().wait(0.01)
        assert "" == cluster.fault
    assert not desk.unusable
