"""A replica's life over a pretended carrier: another machine, with paths of its own, and without a process."""

from __future__ import annotations

import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from watcherd.config import Log, Model
from watcherd.inference.base import ModelInfo, Placement
from watcherd.inference.messages import (
    BatchEnded,
    FromReplica,
    LoadFailed,
    Marked,
    NotSegmented,
    Outcome,
    Ready,
    ReplicaSpec,
    Segmented,
    WorkItem,
    Worn,
)
from watcherd.inference.pool import supervisor
from watcherd.inference.pool.bell import Bell
from watcherd.inference.pool.carrier import Ended, NoRoomError, SilentError
from watcherd.inference.pool.interface import Died, Phase
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.job import ErrorClass, Options

PATIENCE = 30.0
HERE, THERE = Path("/here"), Path("/there")
READY = Ready(
    info=ModelInfo(segmenter="far", model="none", revision="1", dtype="float32"),
    load_ms=1,
    batch_size=2,
    weights=(),
    host_rss_mib=None,
)


class FarMachine:
    """A carrier whose process is the test: what it was given is read from ``sent``, what it says comes by `say`."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self.starts = 0
        self.refusals = 0
        self.is_cut_off = False
        self.sent: queue.Queue[Sequence[WorkItem]] = queue.Queue()
        self.calls: queue.Queue[str] = queue.Queue()
        self.fetched: list[Path] = []
        self.silences: list[float] = []
        """Seconds that it was given for each answer."""
        self._said: deque[list[FromReplica] | Exception] = deque()
        self._word = Bell()

    def say(self, *messages: FromReplica) -> None:
        self._said.append(list(messages))
        self._word.ring()

    def fail(self, error: Exception) -> None:
        self._said.append(error)
        self._word.ring()

    def start(self) -> int:
        if self.refusals:
            self.refusals -= 1
            raise NoRoomError("no descriptors")
        self.starts += 1
        self.say(READY)
        return 1000 + self.starts

    def bring(self, items: Sequence[WorkItem]) -> Sequence[WorkItem]:
        return [replace(item, decoded=_moved(item.decoded, THERE), target=_moved(item.target, THERE)) for item in items]

    def send(self, items: Sequence[WorkItem]) -> None:
        self.sent.put(items)

    def receive(self, seconds: float, bell: Bell | None = None) -> Sequence[FromReplica] | None:
        self.silences.append(seconds)
        return self._next(bell, seconds)

    def rest(self, bell: Bell) -> None:
        assert self._next(bell, PATIENCE) is None

    def _next(self, bell: Bell | None, seconds: float) -> Sequence[FromReplica] | None:
        if not self._said:
            ready, _, _ = select.select([self._word, *filter(None, [bell])], [], [], seconds)
            if not ready:
                raise SilentError
            if self._word in ready:
                self._word.answer()
            elif bell is not None:
                bell.answer()
                return None
        if not self._said:  # a ring for what was read already
            return self._next(bell, seconds)
        said = self._said.popleft()
        if isinstance(said, Exception):
            raise said
        return said

    def fetch(self, outcome: Segmented) -> Segmented:
        self.fetched.append(outcome.mask)
        return replace(outcome, mask=_moved(outcome.mask, HERE))

    def ask_for_stack(self) -> bool:
        self.calls.put("ask_for_stack")
        return True

    def stack(self) -> str:
        return "in predict"

    def kill(self) -> None:
        self.calls.put("kill")
        self.fail(Ended("killed"))

    def join(self, seconds: float | None = None) -> None:
        self.calls.put("join")
        self._said.clear()

    def unreachable(self) -> bool:
        return self.is_cut_off

    def wait_released(self, stop: threading.Event) -> None:
        self.calls.put("wait_released")

    def end(self) -> None:
        self.calls.put("end")


def _moved(path: Path, root: Path) -> Path:
    return root / path.name


class Heard:
    """Both listeners: what the pool said, in queues."""

    def __init__(self) -> None:
        self.started: queue.Queue[int] = queue.Queue()
        self.ready: queue.Queue[int] = queue.Queue()
        self.deaths: queue.Queue[Died] = queue.Queue()
        self.unusable: queue.Queue[LoadFailed] = queue.Queue()
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.handed_back: queue.Queue[int] = queue.Queue()

    def replica_starting(self, number: int, pid: int) -> None:
        self.started.put(pid)

    def replica_ready(self, number: int, ready: Ready) -> None:
        self.ready.put(number)

    def replica_died(self, died: Died) -> None:
        self.deaths.put(died)

    def replica_stopped(self, number: int) -> None: ...

    def model_unusable(self, failed: LoadFailed) -> None:
        self.unusable.put(failed)

    def batch_taken(self) -> None: ...

    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.put(outcome)

    def scans_handed_back(self, jobs: Sequence[int]) -> None:
        for job in jobs:
            self.handed_back.put(job)


def spec(number: int = 0) -> ReplicaSpec:
    nowhere = Path("/nowhere")
    return ReplicaSpec(
        number=number, model=Model(segmenter="far"), placement=Placement(), cache=nowhere, stack=nowhere, log=Log()
    )


def item(job: int, frames: int = 1, size: tuple[int, int] = (24, 16)) -> WorkItem:
    return WorkItem(
        job_id=job,
        decoded=HERE / f"{job}.npy",
        frames=frames,
        options=Options(),
        target=HERE / str(job),
        size=size,
    )


def segmented(job: int) -> Segmented:
    return Segmented(
        job_id=job,
        mask=THERE / f"{job}-mask.npy",
        probability=None,
        classes=1,
        labels=(),
        answer=None,
        decode=None,
        note=None,
        inference_ms=1.0,
        batch_size=1,
        devices=(),
        host_peak_rss_mib=None,
    )


Life = Callable[..., tuple[ReplicaPool, FarMachine, Heard]]


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    """A pool of one replica on the far machine, started; it is killed at the end."""
    monkeypatch.setattr(supervisor, "STACK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "START_AGAIN_SECONDS", 0.0)
    pools: list[ReplicaPool] = []

    def begin(
        *, seconds: float = PATIENCE, refusals: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> tuple[ReplicaPool, FarMachine, Heard]:
        heard = Heard()
        machines: list[FarMachine] = []

        def carrier(spec: ReplicaSpec) -> FarMachine:
            machines.append(FarMachine(spec))
            machines[-1].refusals = refusals
            return machines[-1]

        pool = ReplicaPool(
            [spec()],
            heard,
            heard,
            load_seconds=PATIENCE,
            batch_seconds=seconds,
            back_off=lambda _: 0.0,
            clock=clock,
            carriers=carrier,
        )
        pools.append(pool)
        pool.start()
        return pool, machines[0], heard

    yield begin
    for pool in pools:
        pool.kill()


def test_a_batch_is_brought_there_and_its_masks_are_fetched(life: Life) -> None:
    """The replica sees paths of its own machine, and the pipeline those that it asked for."""
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1), item(2)])
    sent = machine.sent.get(timeout=PATIENCE)
    assert [(THERE / "1.npy", THERE / "1"), (THERE / "2.npy", THERE / "2")] == [
        (each.decoded, each.target) for each in sent
    ]
    refused = NotSegmented(job_id=2, error_class=ErrorClass.INPUT, error="damaged")
    machine.say(segmented(1), refused, BatchEnded())
    first = heard.outcomes.get(timeout=PATIENCE)
    assert isinstance(first, Segmented)
    assert HERE / "1-mask.npy" == first.mask
    assert refused == heard.outcomes.get(timeout=PATIENCE)
    assert [THERE / "1-mask.npy"] == machine.fetched


def test_a_death_crashes_what_was_begun_and_hands_back_the_rest(life: Life) -> None:
    """And the replica is buried, then started again in the same place."""
    pool, machine, heard = life()
    assert 1001 == heard.started.get(timeout=PATIENCE)
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1), item(2), item(3)])
    machine.sent.get(timeout=PATIENCE)
    machine.say(segmented(1))
    machine.say(Marked(stage="segmenting", jobs=(2,)))
    assert isinstance(heard.outcomes.get(timeout=PATIENCE), Segmented)
    machine.fail(Ended("the machine is gone", "in read"))
    crashed = heard.outcomes.get(timeout=PATIENCE)
    assert isinstance(crashed, NotSegmented)
    assert (2, ErrorClass.CRASH) == (crashed.job_id, crashed.error_class)
    assert "the machine is gone" in crashed.error
    assert 3 == heard.handed_back.get(timeout=PATIENCE)
    died = heard.deaths.get(timeout=PATIENCE)
    assert (1001, "the machine is gone", "in read", (2,)) == (died.pid, died.reason, died.stack, died.jobs)
    assert ["kill", "join", "wait_released"] == [machine.calls.get(timeout=PATIENCE) for _ in range(3)]
    assert 1002 == heard.started.get(timeout=PATIENCE)
    heard.ready.get(timeout=PATIENCE)
    assert 1 == pool.status()[0].restarts


def test_results_that_cannot_be_fetched_are_not_answers(life: Life) -> None:
    """The mask is lost with its machine: the scan crashed, whatever the replica said of it."""
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)

    def lost(outcome: Segmented) -> Segmented:
        raise Ended("the connection broke")

    machine.fetch = lost  # type: ignore[method-assign]
    pool.submit([item(1)])
    machine.sent.get(timeout=PATIENCE)
    machine.say(segmented(1), BatchEnded())
    crashed = heard.outcomes.get(timeout=PATIENCE)
    assert isinstance(crashed, NotSegmented)
    assert ErrorClass.CRASH is crashed.error_class


def test_a_silence_is_a_hang_that_is_asked_for_its_stack_and_killed(life: Life) -> None:
    """In this order, and before anything else is done with it."""
    pool, machine, heard = life(seconds=0.05)
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1)])
    died = heard.deaths.get(timeout=PATIENCE)
    assert ("no sign of life for 0.05 s while computing a batch", "in predict") == (died.reason, died.stack)
    assert ["ask_for_stack", "kill", "join"] == [machine.calls.get(timeout=PATIENCE) for _ in range(3)]
    assert isinstance(heard.outcomes.get(timeout=PATIENCE), NotSegmented)


def test_a_quick_replica_is_noticed_early_when_it_falls_silent(life: Life) -> None:
    """20 times its longest batch; the first of a size, and one that is more than a picture, have the whole time."""
    now = [0.0]
    pool, machine, heard = life(seconds=300.0, clock=lambda: now[0])
    heard.ready.get(timeout=PATIENCE)

    def silence_over(took: float, *items: WorkItem) -> float:
        """Seconds that the replica was given for a batch, which it then answers after these."""
        del machine.silences[:]
        pool.submit(items)
        machine.sent.get(timeout=PATIENCE)
        now[0] += took
        machine.say(*(segmented(each.job_id) for each in items), BatchEnded())
        for _ in items:
            heard.outcomes.get(timeout=PATIENCE)
        while pool.status()[0].phase is not Phase.IDLE:
            time.sleep(0.001)
        return machine.silences[0]

    assert 300 == silence_over(40, item(1))  # nothing is known of it
    assert 300 == silence_over(2, item(2))  # the first was that of its size: it is no measure
    assert 40 == silence_over(0.125, item(3))
    assert 40 == silence_over(1, item(4))  # the longest counts, not the last
    assert 300 == silence_over(30, item(5, size=(512, 512)))
    assert 300 == silence_over(60, item(6, frames=100))
    assert 300 == silence_over(3, item(7), item(8))
    assert 40 == silence_over(3, item(9), item(10), item(13))  # the third is computed by itself
    assert 60 == silence_over(0.125, item(11))
    machine.fail(Ended("killed"))
    heard.deaths.get(timeout=PATIENCE)
    heard.ready.get(timeout=PATIENCE)
    assert 300 == silence_over(1, item(12))  # another process


def test_a_silence_of_a_machine_that_is_cut_off_blames_no_scan(life: Life) -> None:
    """Nobody knows what its process was doing: the scan is tried again later, and not as one that kills."""
    pool, machine, heard = life(seconds=0.05)
    heard.ready.get(timeout=PATIENCE)
    machine.is_cut_off = True
    pool.submit([item(1)])
    lost = heard.outcomes.get(timeout=PATIENCE)
    assert isinstance(lost, NotSegmented)
    assert ErrorClass.TRANSIENT is lost.error_class


def test_a_batch_that_ends_without_all_its_answers_loses_no_scan(life: Life) -> None:
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1), item(2)])
    machine.sent.get(timeout=PATIENCE)
    machine.say(segmented(1), BatchEnded())
    assert isinstance(heard.outcomes.get(timeout=PATIENCE), Segmented)
    lost = heard.outcomes.get(timeout=PATIENCE)
    assert (2, ErrorClass.TRANSIENT) == (lost.job_id, getattr(lost, "error_class", None))
    assert "without an answer for 1 of its scans" in heard.deaths.get(timeout=PATIENCE).reason


def test_replicas_that_join_later_take_work_from_the_same_queue(life: Life) -> None:
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1)])
    machine.sent.get(timeout=PATIENCE)
    pool.grow([spec(1)])
    heard.ready.get(timeout=PATIENCE)
    assert [Phase.BUSY, Phase.IDLE] == [status.phase for status in pool.status()]
    pool.submit([item(2)])
    while pool.status()[1].jobs != (2,):
        assert pool.progressing()


def test_a_process_that_is_worn_has_answered_for_all_that_it_began(life: Life) -> None:
    """The rest is handed back and no crash, and another process is started."""
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1), item(2)])
    machine.sent.get(timeout=PATIENCE)
    machine.say(Marked(stage="segmenting", jobs=(1,)))
    machine.say(segmented(1), Worn(error="a scan is left there"))
    assert isinstance(heard.outcomes.get(timeout=PATIENCE), Segmented)
    assert 2 == heard.handed_back.get(timeout=PATIENCE)
    died = heard.deaths.get(timeout=PATIENCE)
    assert "it starts anew after an error inside its model: a scan is left there" == died.reason
    heard.ready.get(timeout=PATIENCE)
    assert heard.outcomes.empty()


def test_an_idle_process_that_ends_is_noticed(life: Life) -> None:
    """Nobody waits for the next batch to find out."""
    _pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    machine.fail(Ended("the machine is gone"))
    assert "the machine is gone" == heard.deaths.get(timeout=PATIENCE).reason
    heard.ready.get(timeout=PATIENCE)


def test_a_machine_without_room_is_asked_again(life: Life) -> None:
    """That is no death of the model's, however often it happens."""
    pool, _machine, heard = life(refusals=4)
    heard.ready.get(timeout=PATIENCE)
    assert heard.deaths.empty()
    assert (0, "") == (pool.status()[0].restarts, pool.status()[0].last_error)


def test_a_stop_hands_back_what_nobody_took_and_ends_the_process(life: Life) -> None:
    """In good order: the batch at work is answered first."""
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.submit([item(1)])
    machine.sent.get(timeout=PATIENCE)
    pool.submit([item(2)])
    stopper = threading.Thread(target=pool.stop, kwargs={"within": PATIENCE})
    stopper.start()
    assert 2 == heard.handed_back.get(timeout=PATIENCE)
    machine.say(segmented(1), BatchEnded())
    stopper.join(PATIENCE)
    assert isinstance(heard.outcomes.get(timeout=PATIENCE), Segmented)
    assert "end" == machine.calls.get(timeout=PATIENCE)
    assert heard.deaths.empty()
    assert Phase.STOPPED is pool.status()[0].phase


def test_what_comes_after_the_stop_is_handed_back_at_once(life: Life) -> None:
    """A model's replicas may go while the pipeline has a batch for them: it must not wait in a queue that nobody
    empties."""
    pool, _, heard = life()
    heard.ready.get(timeout=PATIENCE)
    pool.stop(within=PATIENCE)
    pool.submit([item(1), item(2)])
    assert [1, 2] == [heard.handed_back.get(timeout=PATIENCE) for _ in range(2)]
    assert 0 == pool.given()


def test_what_waits_and_what_is_at_hand_was_given(life: Life) -> None:
    pool, machine, heard = life()
    heard.ready.get(timeout=PATIENCE)
    assert 0 == pool.given()
    pool.submit([item(1), item(2)])
    machine.sent.get(timeout=PATIENCE)
    pool.submit([item(3)])
    assert 3 == pool.given()
