"""Who waits for whom, and no longer than it is good for."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.runs import a_run
from tests.unit.pipeline.test_stations import pipeline
from watcherd.delivery.delivery import Delivery
from watcherd.inbox.requests import IntakeRequests
from watcherd.new_files_first import LONGEST, NewFilesFirst

if TYPE_CHECKING:
    from collections.abc import Callable

    from watcherd.pipeline.stations import Pipeline

NOTHING = cast("Any", None)


def waits(new_files_first: NewFilesFirst) -> bool:
    """Whether somebody who gives way is still waiting after a moment."""
    thread = threading.Thread(target=new_files_first.give_way, daemon=True)
    thread.start()
    thread.join(0.05)
    return thread.is_alive()


@pytest.fixture
def standing() -> NewFilesFirst:
    """For which no time passes."""
    return NewFilesFirst(clock=lambda: 0.0)


def test_nobody_waits_for_nobody(standing: NewFilesFirst) -> None:
    assert not waits(standing)


def test_others_wait_while_somebody_goes_first(monkeypatch: pytest.MonkeyPatch, standing: NewFilesFirst) -> None:
    monkeypatch.setattr("watcherd.new_files_first.LONGEST", 30.0)
    with standing.first():
        thread = threading.Thread(target=standing.give_way, daemon=True)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()


def test_who_goes_first_and_fails_is_waited_for_no_longer(standing: NewFilesFirst) -> None:
    with pytest.raises(OSError, match="gone"), standing.first():
        raise OSError("gone")
    assert not standing.is_taken


@pytest.mark.parametrize("how", [lambda f: f.set_result(None), lambda f: f.set_exception(OSError()), Future.cancel])
def test_others_wait_until_something_is_done(how: Callable[[Future[object]], object], standing: NewFilesFirst) -> None:
    """Or has failed, or will not be done."""
    done: Future[object] = Future()
    with standing.first():
        standing.until(done)
    assert standing.is_taken
    how(done)
    assert not standing.is_taken


def test_others_wait_for_all_who_go_first(standing: NewFilesFirst) -> None:
    with standing.first():
        with standing.first():
            pass
        assert standing.is_taken
    assert not standing.is_taken


def test_who_takes_long_is_not_waited_for() -> None:
    """A share that does not answer must not stop the work; nor may those who come while it does not."""
    now = 0.0
    new_files_first = NewFilesFirst(clock=lambda: now)
    with new_files_first.first():
        now = LONGEST
        assert not waits(new_files_first)
        with new_files_first.first():
            assert not waits(new_files_first)


class _AskedError(Exception):
    """Somebody has asked whether to give way."""


class Asked:
    """Tells when it is asked."""

    def give_way(self) -> None:
        raise _AskedError


def delivery() -> Delivery:
    return Delivery(a_run(new_files_first=Asked()), NOTHING, IntakeRequests(), threading.Event(), lambda: None)


def line() -> Pipeline:
    return pipeline(new_files_first=Asked())


@pytest.mark.parametrize(
    "step",
    [
        line()._feed._claims.claim,
        lambda: line()._feed._decode(NOTHING),
        lambda: line()._feed._take_decoded(NOTHING, NOTHING),
        lambda: line()._draw._answered(NOTHING, NOTHING),
        lambda: delivery().promises._promise(NOTHING, NOTHING, {}, ""),
        lambda: delivery().finish._record(NOTHING),
        lambda: delivery().sources._dispose([]),
    ],
    ids=["claim", "decode", "decoded", "segmented", "promise", "finish", "dispose"],
)
def test_the_work_on_what_is_queued_gives_way(step: Callable[[], object]) -> None:
    """At each station, before each scan or each transaction."""
    with pytest.raises(_AskedError):
        step()
