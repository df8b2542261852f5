"""What the intake tells the queue about the frames of a run: how long to wait, and whether more are on their way."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.asides import aside
from watcherd.config import build
from watcherd.inbox.values import Candidate
from watcherd.intake.intake import Intake
from watcherd.job import Options
from watcherd.new_files_first import NewFilesFirst
from watcherd.pauses import Pauses
from watcherd.store import NewArrival, PathSignature
from watcherd.values import Signature

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = cast("Any", None)
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    """One whose events tell of every new file, and that has swept the inbox once."""
    config = build(
        {"inbox": {"run_quiet_seconds": 5.0, "sweep_seconds": 40.0}, "limits": {"max_frames": 7}}, base=tmp_path
    )
    made = Intake(
        config,
        NOTHING,
        NOTHING,
        Pauses(threading.Event()),
        NewFilesFirst(),
        aside(),
        run_id=1,
        model=NOTHING,
        queued=lambda: None,
        stopping=threading.Event(),
        follows_runs=True,
    )
    made._events = cast("Any", SimpleNamespace(complete=True))
    made._full_sweeps = 1
    return made


def arrival(name: bytes, options: Options) -> NewArrival:
    signature = PathSignature(name, 1, 1, 1, 1)
    return NewArrival(signature=signature, sha256="0", spool_name="0", options=options, seen_at=NOW)


def test_frames_are_held_back_and_other_scans_are_not(intake: Intake) -> None:
    """Only where runs are wanted, and only files that are named as frames."""
    wanted = Options(group_frames=True)
    held = intake._held_back(arrival(b"a_frame_1.png", wanted))
    assert ("a_frame_1.png", NOW + timedelta(seconds=5)) == (held.options.frame, held.not_before)
    for other in (arrival(b"a_1.png", wanted), arrival(b"a_frame_1.png", Options())):
        assert other == intake._held_back(other)


def test_a_run_waits_for_a_sweep_where_events_do_not_tell_of_new_files(intake: Intake) -> None:
    """On a network share, or when not every folder can be watched; and thirty times as long at most."""
    assert (timedelta(seconds=5), timedelta(seconds=150), 7) == (
        intake.hold().quiet,
        intake.hold().longest,
        intake.hold().most,
    )
    intake._network = True
    assert timedelta(seconds=45) == intake.hold().quiet
    intake._network = False
    intake._events = cast("Any", SimpleNamespace(complete=False))
    assert timedelta(seconds=45) == intake.hold().quiet


def test_the_start_that_waiting_counts_from_is_set_with_the_clock(intake: Intake) -> None:
    """Else frames that had been waiting before would wait a day longer."""
    since = intake.hold().since
    assert since is not None
    intake.clock_was_set(-86_400.0)
    assert since - timedelta(days=1) == intake.hold().since


def test_more_frames_are_expected_while_the_inbox_is_not_known(intake: Intake) -> None:
    """Before the first sweep, during one, when one is due, and while a file of the run is not taken yet."""
    expected = intake.hold().expected
    assert not expected(b"x/a_frame_")
    intake._sweep_again = True
    assert expected(b"x/a_frame_")
    intake._sweep_again = False
    intake._sweeps.append((0.0, iter(()), True))
    assert expected(b"x/a_frame_")
    intake._sweeps.clear()
    intake._full_sweeps = 0
    assert expected(b"x/a_frame_")
    intake._full_sweeps = 1
    seen = Signature(size=1, mtime_ns=1, device=1, inode=1)
    intake._settler.observe(Candidate(path=b"x/a_frame_2.png", signature=seen, ctime_ns=1, blocks=8), 0.0)
    assert expected(b"x/a_frame_")
    assert not expected(b"x/b_frame_")
