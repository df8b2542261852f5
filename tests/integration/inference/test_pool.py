"""Replicas as real processes: started, fed, killed when they hang, started again, and what becomes of their scans."""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from watcherd.config import Log, Model
from watcherd.inference.base import Placement
from watcherd.inference.fake import VARIABLE, marked
from watcherd.inference.messages import LoadFailed, NotSegmented, Outcome, Ready, ReplicaSpec, Segmented, WorkItem
from watcherd.inference.pool import local, supervisor
from watcherd.inference.pool.interface import Died, Phase
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.job import ErrorClass, Options

PATIENCE = 60.0


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.ready: queue.Queue[int] = queue.Queue()
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.deaths: queue.Queue[Died] = queue.Queue()
        self.unusable: queue.Queue[LoadFailed] = queue.Queue()
        self.handed_back: queue.Queue[int] = queue.Queue()

    def replica_starting(self, number: int, pid: int) -> None: ...

    def replica_ready(self, number: int, ready: Ready) -> None:
        self.ready.put(number)

    def replica_died(self, died: Died) -> None:
        self.deaths.put(died)

    def replica_stopped(self, number: int) -> None: ...

    def batch_taken(self) -> None: ...

    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.put(outcome)

    def scans_handed_back(self, jobs: Sequence[int]) -> None:
        for job in jobs:
            self.handed_back.put(job)

    def model_unusable(self, failed: LoadFailed) -> None:
        self.unusable.put(failed)


Start = Callable[..., tuple[ReplicaPool, Notes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a pool of fakes; it is killed at the end."""
    pools: list[ReplicaPool] = []

    def begin(count: int = 1, *, segmenter: str = "fake", seconds: float = PATIENCE) -> tuple[ReplicaPool, Notes]:
        notes = Notes()
        specs = [
            ReplicaSpec(
                number=number,
                model=Model(segmenter=segmenter),
                placement=Placement(),
                cache=tmp_path,
                stack=tmp_path / f"stack-{number}",
                log=Log(),
            )
            for number in range(count)
        ]
        pool = ReplicaPool(specs, notes, notes, load_seconds=PATIENCE, batch_seconds=seconds, back_off=lambda _: 0.01)
        pools.append(pool)
        pool.start()
        return pool, notes

    yield begin
    for pool in pools:
        pool.kill()


def item(folder: Path, job: int, *, fault: str | None = None, frames: int = 1, **options: Any) -> WorkItem:
    """A scan whose left half is dark."""
    pixels = np.full((frames, 8, 8), 200, np.uint8)
    pixels[:, :, :4] = 10
    if fault:
        pixels = np.stack([marked(frame, fault) for frame in pixels])
    np.save(folder / f"{job}.npy", pixels)
    return WorkItem(
        job_id=job,
        decoded=folder / f"{job}.npy",
        frames=frames,
        options=Options(**options),
        target=folder / str(job),
    )


def outcomes(notes: Notes, count: int) -> dict[int, Outcome]:
    found = [notes.outcomes.get(timeout=PATIENCE) for _ in range(count)]
    return {outcome.job_id: outcome for outcome in found}


def test_a_batch_is_answered_scan_by_scan(start: Start, tmp_path: Path) -> None:
    """Masks lie where they were asked for, with what was measured; unknown memory is None, not 0."""
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 1), item(tmp_path, 2, frames=3, outputs=("mask", "probability"))])
    answers = outcomes(notes, 2)
    one, three = answers[1], answers[2]
    assert isinstance(one, Segmented)
    assert isinstance(three, Segmented)
    assert one.probability is None
    assert three.probability is not None
    mask = np.load(three.mask)
    assert (3, 8, 8) == mask.shape
    assert np.array_equal(mask[0], np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0))
    assert np.uint16 == np.load(three.probability).dtype
    assert [(None, None)] == [(use.vram_before_mib, use.vram_peak_allocated_mib) for use in one.devices]
    assert one.host_peak_rss_mib is not None
    assert one.host_peak_rss_mib > 10


def test_a_bad_frame_fails_its_own_scan_only(start: Start, tmp_path: Path) -> None:
    """Whatever one scan does to the segmenter, the others of its batch get their masks."""
    pool, notes = start()
    pool.submit([item(tmp_path, 1), item(tmp_path, 2, fault="input"), item(tmp_path, 3, fault="no-mask")])
    answers = outcomes(notes, 3)
    assert isinstance(answers[1], Segmented)
    refused, silent = answers[2], answers[3]
    assert isinstance(refused, NotSegmented)
    assert isinstance(silent, NotSegmented)
    assert (ErrorClass.INPUT, ErrorClass.NO_MASK) == (refused.error_class, silent.error_class)
    assert silent.answer
    assert notes.deaths.empty()


def test_an_answer_without_a_mask_is_an_empty_one_only_when_asked_for(start: Start, tmp_path: Path) -> None:
    """no_mask = "empty", and the record says so."""
    pool, notes = start()
    pool.submit([item(tmp_path, 1, fault="no-mask", no_mask="empty")])
    answer = outcomes(notes, 1)[1]
    assert isinstance(answer, Segmented)
    assert 0 == np.load(answer.mask).max()
    assert answer.note
    assert "no mask" in answer.note


@pytest.mark.parametrize("fault", ["exit", "kill"])
def test_a_scan_that_ends_the_process_is_a_crash_and_the_replica_comes_back(
    start: Start, tmp_path: Path, fault: str
) -> None:
    """The dead process answers for nothing more, another takes its place and works."""
    pool, notes = start()
    pool.submit([item(tmp_path, 1, fault=fault)])
    crashed = outcomes(notes, 1)[1]
    assert isinstance(crashed, NotSegmented)
    assert ErrorClass.CRASH is crashed.error_class
    assert "exit code 3" in crashed.error if fault == "exit" else "SIGKILL" in crashed.error
    pool.submit([item(tmp_path, 2)])
    assert isinstance(outcomes(notes, 1)[2], Segmented)
    assert 1 == pool.status()[0].restarts


def test_a_hang_is_ended_within_its_deadline_with_its_stack(start: Start, tmp_path: Path) -> None:
    """Silence for longer than the deadline is a hang: the stack is kept, the process killed."""
    pool, notes = start(seconds=2.0)
    notes.ready.get(timeout=PATIENCE)
    began = time.monotonic()
    pool.submit([item(tmp_path, 1, fault="hang")])
    crashed = outcomes(notes, 1)[1]
    died = notes.deaths.get(timeout=PATIENCE)
    assert time.monotonic() - began < 2.0 + 5.0
    assert isinstance(crashed, NotSegmented)
    assert "no sign of life for 2 s" in died.reason
    assert "in predict" in died.stack


def test_a_stopped_process_is_a_hang_too(start: Start, tmp_path: Path) -> None:
    """SIGSTOP: the process is there and does nothing."""
    pool, notes = start(seconds=2.0)
    notes.ready.get(timeout=PATIENCE)
    pid = pool.status()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    pool.submit([item(tmp_path, 1)])
    assert isinstance(outcomes(notes, 1)[1], NotSegmented)
    assert pid == notes.deaths.get(timeout=PATIENCE).pid


def test_a_broken_device_context_gives_no_further_result(start: Start, tmp_path: Path) -> None:
    """After a sticky error the process exits at once, and the scans behind it are computed by another."""
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pid = pool.status()[0].pid
    pool.submit([item(tmp_path, 1, fault="sticky")])
    assert isinstance(outcomes(notes, 1)[1], NotSegmented)
    died = notes.deaths.get(timeout=PATIENCE)
    assert pid == died.pid
    assert "device context" in died.reason


def test_an_idle_replica_that_dies_is_noticed(start: Start) -> None:
    """Nobody waits for the next batch to find out."""
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pid = pool.status()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert pid == notes.deaths.get(timeout=PATIENCE).pid
    notes.ready.get(timeout=PATIENCE)
    assert pid != pool.status()[0].pid


def test_a_replica_that_waits_for_work_sleeps(start: Start, tmp_path: Path) -> None:
    """It is woken by work, by its process's end and by a stop (see the others), and by nothing else."""
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 1)])
    outcomes(notes, 1)
    thread = next(thread for thread in threading.enumerate() if thread.name == "replica-0" and thread.is_alive())
    status = Path(f"/proc/self/task/{thread.native_id}/status")
    while pool.status()[0].phase is not Phase.IDLE:
        time.sleep(0.01)
    time.sleep(0.2)
    before = status.read_text()
    time.sleep(1.5)
    switches = "voluntary_ctxt_switches:"
    assert before[before.index(switches) :] == status.read_text()[before.index(switches) :]


def test_all_replicas_take_part(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work goes to whoever is free."""
    monkeypatch.setenv(VARIABLE, json.dumps({"seconds": 0.3}))
    pool, notes = start(3)
    for _ in range(3):
        notes.ready.get(timeout=PATIENCE)
    for job in range(6):
        pool.submit([item(tmp_path, job)])
    busy = 0
    while notes.outcomes.qsize() < 6:
        busy = max(busy, sum(status.phase is Phase.BUSY for status in pool.status()))
        time.sleep(0.01)
    assert 3 == busy


@pytest.mark.parametrize(("load", "said"), [("unavailable", "cannot be loaded"), ("kill", "3 times while loading")])
def test_a_model_that_cannot_load_is_given_up_with_its_reason(
    start: Start, monkeypatch: pytest.MonkeyPatch, load: str, said: str
) -> None:
    """No restart loop: what is wrong with the model stays wrong."""
    monkeypatch.setenv(VARIABLE, json.dumps({"load": load}))
    pool, notes = start()
    failed = notes.unusable.get(timeout=PATIENCE)
    assert said in failed.message
    assert Phase.STOPPED is pool.status()[0].phase
    assert not pool.progressing()


def test_a_model_that_answers_wrongly_never_becomes_ready(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden image is checked before anybody is told that it is ready."""
    monkeypatch.setenv(VARIABLE, json.dumps({"golden": "wrong"}))
    _pool, notes = start()
    assert "golden" in notes.unusable.get(timeout=PATIENCE).message.lower()
    assert notes.ready.empty()


def test_an_unknown_segmenter_is_a_mistake_in_the_configuration(start: Start) -> None:
    """With the exit code for it, and the names that there are."""
    _pool, notes = start(segmenter="vesselnes")
    failed = notes.unusable.get(timeout=PATIENCE)
    assert 78 == failed.exit_code
    assert "vesselness" in failed.message + failed.hint


def test_stop_lets_the_batch_end_and_hands_back_the_others(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being computed is answered, what waits goes back untouched."""
    monkeypatch.setenv(VARIABLE, json.dumps({"seconds": 1.0}))
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 1)])
    while pool.status()[0].phase is not Phase.BUSY:
        time.sleep(0.01)
    pool.submit([item(tmp_path, 2)])
    pool.stop(within=PATIENCE)
    assert isinstance(outcomes(notes, 1)[1], Segmented)
    assert 2 == notes.handed_back.get(timeout=PATIENCE)
    assert notes.deaths.empty()


def test_a_stop_that_takes_too_long_hands_the_batch_back(start: Start, tmp_path: Path) -> None:
    """A hang does not outlive its daemon, and is not held against the scan."""
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 1, fault="hang")])
    while not pool.status()[0].jobs:
        time.sleep(0.01)
    pool.stop(within=0.2)
    assert 1 == notes.handed_back.get(timeout=PATIENCE)
    assert notes.outcomes.empty()


def test_a_quick_replica_has_its_next_batch_at_hand(start: Start, tmp_path: Path) -> None:
    """When it hangs, only what it had begun counts as crashed; the batch at hand goes back, and none is blamed."""
    pool, notes = start(seconds=3.0)
    pool.submit([item(tmp_path, 1)])
    assert isinstance(outcomes(notes, 1)[1], Segmented)
    pool.submit([item(tmp_path, 2, fault="hang")])
    pool.submit([item(tmp_path, 3), item(tmp_path, 4)])
    answer = outcomes(notes, 1)[2]
    assert isinstance(answer, NotSegmented)
    assert ErrorClass.CRASH is answer.error_class
    assert {3, 4} == {notes.handed_back.get(timeout=PATIENCE) for _ in range(2)}


def test_a_replica_that_is_not_known_to_be_quick_is_given_nothing_ahead(start: Start, tmp_path: Path) -> None:
    """Another replica may be free sooner: the batch stays in the queue."""
    pool, notes = start(seconds=3.0)
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 2, fault="hang")])
    pool.submit([item(tmp_path, 3), item(tmp_path, 4)])
    answers = outcomes(notes, 3)
    assert isinstance(answers[2], NotSegmented)
    assert [Segmented, Segmented] == [type(answers[job]) for job in (3, 4)]
    assert notes.handed_back.empty()


def test_an_end_that_another_thread_is_about_to_note_still_has_its_code() -> None:
    """As when a process is started elsewhere at that moment: to `join` the child is gone, and its code not there."""

    class Noted:
        codes = iter([None, None, -9])
        exitcode = property(lambda self: next(self.codes, -9))

        def join(self, _seconds: float) -> None: ...

    assert local._exit_code(cast("Any", Noted())) == -9


def test_a_process_for_which_there_is_no_room_is_started_when_there_is(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors or memory have run out: that is no death of the model's, however often it happens."""
    errors = [OSError(errno.EMFILE, "Too many open files")] * 4
    launch = get_context("spawn").Process.start

    def refuse(process: Any) -> None:
        if errors:
            raise errors.pop()
        launch(process)

    monkeypatch.setattr(supervisor, "START_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(get_context("spawn").Process, "start", refuse)
    pool, notes = start()
    notes.ready.get(timeout=PATIENCE)
    pool.submit([item(tmp_path, 1)])
    assert isinstance(outcomes(notes, 1)[1], Segmented)
    assert notes.deaths.empty()
    assert 0 == pool.status()[0].restarts


def test_a_replica_whose_thread_fails_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the service would only look alive."""

    def refuse(_process: Any) -> None:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(get_context("spawn").Process, "start", refuse)
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    pool, notes = start()
    assert "The thread of replica 0 failed" in notes.unusable.get(timeout=PATIENCE).message
    assert Phase.STOPPED is pool.status()[0].phase
