"""A pause is said once, and is over when the last thread that waits goes on."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from watcherd import pauses
from watcherd.pauses import Pauses, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def warning(self, event: str, **fields: object) -> None:
        self.events.append(f"{event} {fields['kind']}")

    info = warning


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    log = Said()
    monkeypatch.setattr(pauses, "get_logger", lambda: log)
    return log.events


def elsewhere(work: Callable[[], object]) -> None:
    """Do it in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_same_reason_is_said_once_whatever_the_count_in_it(said: list[str]) -> None:
    """'only 12 MiB' and 'only 11 MiB' are the same news; another cause is other news."""
    waits = Pauses(threading.Event())
    for reason in ("only 12 MiB are free", "only 11 MiB are free", "read-only", "only 10 MiB are free"):
        waits.set("spool", reason)
    assert said == ["intake_paused spool"] * 2
    assert waits.reasons == {"spool": "only 10 MiB are free"}


def test_a_part_goes_on_when_the_last_thread_does(said: list[str]) -> None:
    """One that succeeds while another still waits is no end of the pause."""
    waits = Pauses(threading.Event())
    waits.set("outbox", "full")
    elsewhere(lambda: (waits.set("outbox", "full"), waits.clear("outbox")))
    assert waits.reasons == {"outbox": "full"}
    assert said == ["intake_paused outbox"]
    waits.clear("outbox")
    assert waits.reasons == {}
    assert said == ["intake_paused outbox", "intake_resumed outbox"]


def test_an_error_that_waiting_cannot_mend_goes_through_and_leaves_no_pause(said: list[str]) -> None:
    """Also after errors that looked as if they would pass."""
    stopping = threading.Event()
    waits = Pauses(stopping)
    stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]  # nobody waits in a test
    errors = iter([OSError(errno.ENOSPC, "full"), FileExistsError(errno.EEXIST, "exists")])

    def action() -> None:
        raise next(errors)

    with pytest.raises(FileExistsError):
        waits.until_possible("outbox", action)
    assert waits.reasons == {}
    assert said == ["intake_paused outbox", "intake_resumed outbox"]


def test_a_stop_ends_the_waiting(said: list[str]) -> None:
    """Whoever waits hears of it at once."""
    stopping = threading.Event()
    stopping.set()

    def action() -> None:
        raise OSError(errno.EROFS, "read-only")

    with pytest.raises(StoppedError):
        Pauses(stopping).until_possible("outbox", action)
