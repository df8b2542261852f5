"""Batches: frames of one shape together, smaller after a memory error, one by one after a bad frame."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.unit.inference.fakes import Told, frame
from watcherd.errors import InputError, JobError, OutOfMemoryError, TransientError
from watcherd.inference.base import Frame, Pending, Prediction
from watcherd.inference.replica import batching
from watcherd.inference.replica.batching import FrameOutcome, Probe
from watcherd.inference.replica.vram import Meter
from watcherd.job import Options
from watcherd.values import DeviceUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(segmenter: Told, frames: Sequence[Frame], size: int = 4, probe: Probe | None = None) -> list[FrameOutcome]:
    """Outcomes in the order of the frames."""
    limits = probe or Probe(batch_size=size)
    found = dict(batching.run(segmenter, frames, limits, Meter(("cpu",))))
    assert set(range(len(frames))) == set(found)
    return [found[position] for position in range(len(frames))]


def value(outcome: FrameOutcome) -> float:
    assert isinstance(outcome.result, Prediction)
    assert outcome.result.probability is not None
    return round(float(outcome.result.probability.max()) * 255)


def fails_above(size: int, error: Callable[[], Exception]) -> Callable[[Sequence[Frame]], None]:
    def before(frames: Sequence[Frame]) -> None:
        if len(frames) > size:
            raise error()

    return before


def oom() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_frames_of_one_shape_share_batches_up_to_the_probes_size() -> None:
    segmenter = Told()
    frames = [frame(number, (4, 6) if number % 2 else (5, 5)) for number in range(9)]
    outcomes = run(segmenter, frames)
    assert segmenter.batches == [4, 1, 4]
    assert [value(outcome) for outcome in outcomes] == list(range(9))
    assert [outcome.batch_size for outcome in outcomes] == [4, 4, 4, 4, 4, 4, 4, 4, 1]


def test_a_memory_error_halves_the_batch_and_every_frame_still_gets_its_answer() -> None:
    segmenter = Told(fails_above(2, oom))
    outcomes = run(segmenter, [frame(number) for number in range(8)], size=8)
    assert segmenter.batches == [8, 4, 2, 2, 2, 2]
    assert [value(outcome) for outcome in outcomes] == list(range(8))


def test_the_smaller_batch_is_remembered_for_that_shape_only() -> None:
    probe = Probe(batch_size=8)
    segmenter = Told(fails_above(2, oom))
    run(segmenter, [frame() for _ in range(8)], probe=probe)
    segmenter.before = lambda frames: None
    segmenter.batches.clear()
    run(segmenter, [*(frame() for _ in range(4)), *(frame(shape=(9, 9)) for _ in range(8))], probe=probe)
    assert segmenter.batches == [2, 2, 8]


def test_a_frame_that_does_not_fit_alone_fails_with_the_figures_and_the_others_do_not() -> None:
    def before(frames: Sequence[Frame]) -> None:
        if any(each.pixels.max() == 3 for each in frames):
            raise oom()

    outcomes = run(Told(before), [frame(number) for number in range(6)])
    failed = outcomes[3].result
    assert isinstance(failed, OutOfMemoryError)
    assert "MiB at its peak" in failed.message
    assert "2.00 GiB" in failed.message
    assert [value(outcome) for number, outcome in enumerate(outcomes) if number != 3] == [0, 1, 2, 4, 5]


def test_the_failed_batchs_tensors_are_gone_before_the_next_try() -> None:
    """A traceback holds the tensors of every frame that it names; halving while it lives fails for nothing."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive_at_retry: list[bool] = []

    def before(frames: Sequence[Frame]) -> None:
        alive_at_retry.extend(reference() is not None for reference in held)
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        if len(frames) > 1:
            try:
                raise ValueError("inner")
            except ValueError as inner:
                raise oom() from inner

    gc.disable()
    try:
        run(Told(before), [frame(), frame()], size=2)
    finally:
        gc.enable()
    assert alive_at_retry
    assert not any(alive_at_retry)


def test_a_bad_frame_does_not_fail_the_others_of_its_batch() -> None:
    def before(frames: Sequence[Frame]) -> None:
        if any(each.pixels.max() == 1 for each in frames):
            raise InputError("this one is bad")

    segmenter = Told(before)
    outcomes = run(segmenter, [frame(number) for number in range(4)])
    assert segmenter.batches == [4, 1, 1, 1, 1]
    assert isinstance(outcomes[1].result, InputError)
    assert [value(outcomes[number]) for number in (0, 2, 3)] == [0, 2, 3]


def test_a_fault_of_the_segmenter_is_the_frames_failure_and_may_be_tried_again() -> None:
    (outcome,) = run(Told(fails_above(0, lambda: KeyError("weights"))), [frame()])
    assert isinstance(outcome.result, TransientError)
    assert "KeyError" in outcome.result.message


def test_a_frame_without_a_batch_key_fails_alone() -> None:
    class Picky(Told):
        def batch_key(self, frame: Frame) -> object:
            if frame.pixels.max() == 1:
                raise InputError("no such shape")
            return super().batch_key(frame)

    outcomes = run(Picky(), [frame(number) for number in range(3)])
    assert isinstance(outcomes[1].result, InputError)
    assert [value(outcomes[0]), value(outcomes[2])] == [0, 2]


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [Prediction(probability=np.zeros((6, 4), np.float32))],
        [Prediction(probability=np.zeros((4, 6), np.float32), mask=np.zeros((2, 2), np.uint8))],
        [Prediction(probability=np.full((4, 6), np.nan, np.float32))],
    ],
)
def test_an_answer_that_cannot_be_the_frames_never_becomes_a_mask(answer: list[Prediction]) -> None:
    """NaN is the quiet one: it is not greater than any threshold, and would be an empty mask."""

    class Wrong(Told):
        def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
            return answer

    (outcome,) = run(Wrong(), [frame()])
    assert isinstance(outcome.result, JobError)


def test_a_frame_without_a_mask_is_an_answer_too() -> None:
    class Silent(Told):
        def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
            return [Prediction(probability=None, answer="I see no vessel.") for _ in frames]

    (outcome,) = run(Silent(), [frame()])
    assert isinstance(outcome.result, Prediction)
    assert outcome.result.answer == "I see no vessel."


def test_probabilities_may_be_left_out_beside_a_mask_unless_they_were_asked_for() -> None:
    class Terse(Told):
        def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
            return [Prediction(probability=None, mask=np.zeros((4, 6), np.uint8)) for _ in frames]

    asking = replace(frame(), options=Options(outputs=("mask", "probability")))
    quiet, asked = run(Terse(), [frame(), asking])
    assert isinstance(quiet.result, Prediction)
    assert isinstance(asked.result, JobError)
    assert "asked for" in asked.result.message


STICKY = [
    RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
]
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", STICKY)
def test_a_broken_device_context_is_seen_and_goes_through(error: Exception) -> None:
    """The process must end: another result from it would be worthless."""
    assert batching.is_sticky(error)
    assert not batching.is_memory_error(error)
    with pytest.raises(RuntimeError):
        run(Told(fails_above(0, lambda: error)), [frame(), frame()])


@pytest.mark.parametrize("error", MEMORY)
def test_memory_errors_of_every_library_are_seen_and_are_not_sticky(error: Exception) -> None:
    assert batching.is_memory_error(error)
    assert not batching.is_sticky(error)


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("shape mismatch"), InputError("x")])
def test_other_errors_are_neither(error: Exception) -> None:
    assert not batching.is_memory_error(error)
    assert not batching.is_sticky(error)


def test_the_frames_shares_add_up_to_the_batchs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5])
    monkeypatch.setattr(batching, "clock", lambda: next(times))
    outcomes = run(Told(), [frame() for _ in range(4)])
    assert sum(outcome.inference_ms for outcome in outcomes) == pytest.approx(500.0)


class Metered(Meter):
    """Figures of a device that grow with every look."""

    looks = 0

    def after(self) -> tuple[DeviceUse, ...]:
        self.looks += 1
        peak = 100.0 * self.looks
        return (DeviceUse(device="cuda:0", vram_before_mib=peak - 90, vram_peak_allocated_mib=peak),)


@pytest.mark.parametrize("again", [False, True])
def test_the_figures_of_a_batch_that_worked_again_hold_that_too(again: bool) -> None:
    """What it needed when it was started, or more of it later: the higher peak, and what was there at first."""

    class Guesses(Told):
        def dispatch(self, frames: Sequence[Frame]) -> Pending:
            found = self.predict(frames)
            return Pending(done=lambda: True, result=lambda: found, worked_again=lambda: again)

    (outcome,) = dict(batching.run(Guesses(), [frame()], Probe(batch_size=1), Metered(("cpu",)))).values()
    (use,) = outcome.devices
    assert (10.0, 200.0 if again else 100.0) == (use.vram_before_mib, use.vram_peak_allocated_mib)
