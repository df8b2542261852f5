"""What other threads tell the intake's: each thing is taken once, and who waits for an answer gets one."""

from __future__ import annotations

import threading

import pytest

from watcherd.errors import UnavailableError
from watcherd.inbox.requests import IntakeRequests


@pytest.fixture
def requests() -> IntakeRequests:
    return IntakeRequests()


def test_what_was_asked_for_is_taken_once_and_wakes_the_intake(requests: IntakeRequests) -> None:
    requests.sweep()
    assert requests.wake.is_set()
    assert [True, False] == [requests.take_sweep(), requests.take_sweep()]
    requests.source_left(b"a/1.png")
    requests.source_left(b"a/2.png")
    assert [[b"a/1.png", b"a/2.png"], []] == [requests.take_left(), requests.take_left()]


def test_scans_that_finish_wake_the_intake_once_until_it_has_looked(requests: IntakeRequests) -> None:
    """Else it would turn for each of them."""
    requests.scans_finished()
    assert requests.wake.is_set()
    requests.wake.clear()
    requests.scans_finished()
    assert not requests.wake.is_set()
    assert requests.finished
    assert requests.take_finished()
    assert not requests.finished
    requests.scans_finished()
    assert requests.wake.is_set()


def the_intake(requests: IntakeRequests) -> threading.Thread:
    """Does one thing that it is asked for."""

    def turn() -> None:
        requests.wake.wait(30)
        errand = requests.take_errand()
        assert errand is not None
        errand()

    thread = threading.Thread(target=turn)
    thread.start()
    return thread


def test_work_is_done_in_the_intakes_thread_and_its_answer_returned(requests: IntakeRequests) -> None:
    thread = the_intake(requests)
    assert thread.ident == requests.do(threading.get_ident, within=30)
    thread.join()
    assert not requests.waiting


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
def test_what_the_work_raises_is_raised_where_it_was_asked_for(
    requests: IntakeRequests, error: type[Exception]
) -> None:
    """A `TimeoutError` of its own too: it does not pass for an intake that does not answer."""

    def fails() -> None:
        raise error("the work's own")

    thread = the_intake(requests)
    with pytest.raises(error, match="the work's own"):
        requests.do(fails, within=30)
    thread.join()


def test_an_intake_that_does_not_answer_is_not_waited_for_for_ever(requests: IntakeRequests) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        requests.do(lambda: None, within=0)
    assert requests.waiting
