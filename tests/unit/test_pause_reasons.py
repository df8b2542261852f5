"""What pauses the work and what does not, in which words, and that it goes on by itself."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import namedtuple
from typing import TYPE_CHECKING

import pytest

from watcherd import pauses
from watcherd.errors import InputError, StoreError, TransientError
from watcherd.pauses import Pauses, check_room, in_words, is_passing
from watcherd.store.connections import CorruptDatabaseError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

Usage = namedtuple("Usage", "total used free")
MIB = 1 << 20


class Log:
    """What would be logged: event and part."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, object]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields["kind"]))

    info = warning


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(pauses, "get_logger", lambda: log)
    monkeypatch.setattr(pauses, "RETRY_SECONDS", 0)
    return log


def failing(times: int, error: Exception) -> object:
    """An action that fails so often, then gives 7."""
    left = iter([error] * times)

    def action() -> int:
        for problem in left:
            raise problem
        return 7

    return action


def test_what_is_refused_is_tried_until_it_works(log: Log) -> None:
    """A full disk for three tries: paused with the reason, resumed by itself, one line in the log for each."""
    pause = Pauses(threading.Event())
    full = OSError(errno.ENOSPC, "No space left on device", "/srv/outbox")
    seen: list[dict[str, str]] = []
    action = failing(3, full)

    def watched() -> int:
        seen.append(pause.reasons)
        return action()  # type: ignore[operator, no-any-return]

    assert 7 == pause.until_possible("outbox", watched)
    reason = "/srv/outbox: No space left on device; make room there; work goes on by itself"
    assert [{}, {"outbox": reason}, {"outbox": reason}, {"outbox": reason}] == seen
    assert {} == pause.reasons
    assert [("intake_paused", "outbox"), ("intake_resumed", "outbox")] == log.lines


@pytest.mark.parametrize("error", [OSError(errno.ENAMETOOLONG, "File name too long"), StoreError("a bad statement")])
def test_what_waiting_cannot_mend_goes_through(log: Log, error: Exception) -> None:
    """It would be tried for ever otherwise."""
    with pytest.raises(type(error)):
        Pauses(threading.Event()).until_possible("spool", failing(1, error))  # type: ignore[arg-type]
    assert [] == log.lines


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((OSError(number, os.strerror(number)), True) for number in pauses.ADVICE),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (OSError(errno.ELOOP, "Too many links"), False),
        (TransientError("a share is away"), True),
        (InputError("no picture"), False),
        (StoreUnavailableError("locked"), True),
        (CorruptDatabaseError("damaged"), False),
        (StoreError("refused"), False),
    ],
    ids=repr,
)
def test_only_what_may_pass_by_itself_pauses(error: Exception, expected: bool) -> None:
    """The machine's present state, not what was asked."""
    assert expected == is_passing(error)


def test_a_reason_says_where_what_and_what_to_do_on_one_line() -> None:
    """For ``status``, which has a line for each; names that are not UTF-8 too."""
    assert "/a: Read-only file system; it is mounted read-only; remount it writable" == in_words(
        OSError(errno.EROFS, "Read-only file system", "/a")
    )
    assert "Stale file handle; it is tried again" == in_words(OSError(errno.ESTALE, "Stale file handle"))
    assert "/a\udcff: Input/output error; the disk reports errors; look at the kernel's log" == in_words(
        OSError(errno.EIO, "Input/output error", b"/a\xff")
    )
    assert "It is away. Mount it." == in_words(TransientError("It is away.", hint="Mount it."))


@pytest.mark.parametrize(
    ("total_mib", "free_mib", "enough"),
    [(100_000, 256, True), (100_000, 255, False), (1_000, 20, True), (1_000, 19, False)],
)
def test_so_much_room_must_be_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_mib: int, free_mib: int, enough: bool
) -> None:
    """256 MiB; on a small file system a fiftieth of it will do, or nothing could ever be done there."""
    usage = Usage(total_mib * MIB, 0, free_mib * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if enough:
        check_room(tmp_path, 256)
        return
    with pytest.raises(OSError, match=f"only {free_mib} MiB are free") as caught:
        check_room(tmp_path, 256)
    assert errno.ENOSPC == caught.value.errno
    assert is_passing(caught.value)
