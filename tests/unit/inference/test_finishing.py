"""What a computed frame still needs is done in order, beside the device, and holds it back before memory fills."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from watcherd.inference.finishing import MOST_BYTES, Finisher, Step
from watcherd.inference.messages import BatchEnded, Marked

if TYPE_CHECKING:
    from watcherd.inference.messages import FromReplica


def nothing() -> None:
    return None


def test_steps_are_finished_in_order_and_what_comes_of_them_is_sent() -> None:
    sent: list[FromReplica] = []
    finisher = Finisher(sent.append)
    for number in range(50):
        finisher.put(Step(partial(Marked, stage=str(number))))
        finisher.put(Step(nothing))
    finisher.put(Step(BatchEnded))
    finisher.drain()
    assert [*(Marked(stage=str(number)) for number in range(50)), BatchEnded()] == sent


def test_the_device_waits_while_too_much_waits_to_be_written() -> None:
    gate = threading.Event()
    finisher = Finisher(lambda message: None)

    def held_up() -> None:
        gate.wait()

    finisher.put(Step(held_up, MOST_BYTES))
    device = threading.Thread(target=finisher.put, args=(Step(nothing, 1),), daemon=True)
    device.start()
    device.join(0.2)
    assert device.is_alive()
    gate.set()
    device.join(10)
    assert not device.is_alive()


def test_a_single_step_may_be_larger_than_all_that_may_wait() -> None:
    sent: list[FromReplica] = []
    finisher = Finisher(sent.append)
    finisher.put(Step(BatchEnded, 2 * MOST_BYTES))
    finisher.drain()
    assert [BatchEnded()] == sent


def test_a_main_process_that_is_gone_does_not_stop_the_rest() -> None:
    """The replica has to end by itself then; a thread that had died would let it wait for ever."""

    def gone(message: FromReplica) -> None:
        raise BrokenPipeError

    finisher = Finisher(gone)
    finisher.put(Step(BatchEnded))
    finisher.put(Step(BatchEnded))
    finisher.drain()
